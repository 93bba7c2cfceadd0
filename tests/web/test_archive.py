"""The viewer over all runs: what its page asks for, and who is answered. `test_viewer_browser` shows it."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from crslib.cli.main import main
from crslib.experiments.runs import FIGURES, listed
from crslib.store import Run
from crslib.web import archive, widgets
from crslib.web.archive import Archive
from tests.support.anything import JSON, TEXT
from tests.web.test_viewer import viewed_runs

TOKEN = "secret"


class Served:
    """The viewer over all runs on a free port of this machine, in a thread of this process."""

    def __init__(self, opened: Archive) -> None:
        self._loop = asyncio.new_event_loop()
        (socket,) = bind_sockets(0, "127.0.0.1")
        self.address = f"http://127.0.0.1:{socket.getsockname()[1]}"
        served = archive.application(opened, TOKEN)
        self._loop.call_soon(lambda: HTTPServer(served).add_socket(socket))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    @property
    def page(self) -> str:
        return f"{self.address}/?token={TOKEN}"

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def ask(self, action: str, content: object, token: str = TOKEN) -> tuple[int, dict]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        try:
            with urlopen(Request(f"{self.address}/api/{action}", json.dumps(content).encode(), headers)) as reply:
                return reply.status, json.load(reply)
        except HTTPError as error:
            return error.code, json.load(error)


def opened(folder: Path) -> Archive:
    return Archive(lambda: listed(folder, lambda sentence: None))


@pytest.fixture
def runs(tmp_path: Path, items: pl.DataFrame) -> list[Run]:
    """Runs `a` and `b` of three dialogues each, which differ in temperature."""
    made = viewed_runs(tmp_path / "reports", items)
    for run, temperature in zip(made, (1.0, 0.5), strict=True):
        run.update(parameters={**run.info["parameters"], "temperature": temperature, "seed": 7})
    return made


def test_the_index_lists_runs_and_dialogues_without_their_texts(runs: list[Run]) -> None:
    (runs[0].path / "report.html").write_text("<p>report")
    index = opened(runs[0].path.parent).answer("index", {})
    named = {run["id"]: run for run in index["runs"]}
    assert named["run-a"]["parameters"] == {"condition": "a", "temperature": "1.0"}
    assert named["run-b"]["parameters"] == {"condition": "b", "temperature": "0.5"}  # the seed is the same
    assert (len(named["run-a"]["report"]), named["run-b"]["report"]) == (22, "")  # a secret word of 16 bytes
    assert (named["run-a"]["cells"]["dialogues"], named["run-a"]["problem"]) == (3, "")
    assert len(index["dialogues"]) == 6
    number = index["runs"].index(named["run-b"])
    second = {"run": number, "id": "u001.0", "profile": "u001", "stop": "max_turns", "n_turns": 2, "read": False}
    (row,) = [row for row in index["dialogues"] if row["run"] == number and row["id"] == "u001.0"]
    assert row == {**second, "ending": "the turn limit was reached (max_turns)"}
    assert [metric["name"] for metric in index["metrics"]] == ["hits", "own"]
    assert "Seen" not in json.dumps(index) and "secret" not in json.dumps(index)


def test_a_dialogue_its_values_and_a_search_are_read_when_asked_for(runs: list[Run]) -> None:
    all_runs = opened(runs[0].path.parent)
    all_runs.answer("index", {})
    one = all_runs.answer("dialogue", {"run": "run-a", "dialogue": "u000.0"})
    assert (one["id"], one["scores"], [turn["role"] for turn in one["turns"]]) == (
        "u000.0",
        {"hits": 1.0, "own": 0.25},
        ["recommender", "user"],
    )
    assert all_runs.answer("values", {"metric": "hits"}) == {
        "values": {"run-a": {"u000.0": 1.0, "u001.0": 0.0}, "run-b": {"u000.0": 0.0, "u001.0": 0.0}},
        "problems": {},
    }

    def found(text: str) -> dict[str, list[str]]:
        return all_runs.answer("search", {"text": text})["found"]

    everybody = ["u000.0", "u001.0", "u002.0"]
    assert found("sEEN heat (1995)?") == {"run-a": everybody, "run-b": []}  # no case, no brackets
    assert found("not yet") == {"run-a": everybody[:2], "run-b": everybody[:2]}
    assert found("secret1secret") == {"run-a": ["u001.0"], "run-b": ["u001.0"]}  # a summary
    assert found("u002.0") == {"run-a": ["u002.0"], "run-b": ["u002.0"]}
    runs[1].write("turns", runs[1].read("turns").with_columns(text=pl.lit("written again")))
    assert found("written AGAIN") == {"run-a": [], "run-b": everybody}


def test_a_damaged_run_and_one_without_dialogues_stop_no_other(runs: list[Run]) -> None:
    (runs[1].path / "dialogues.parquet").write_bytes(b"torn")
    bare = Run(runs[0].path.parent / "c")
    bare.update(run_id="run-c", status="error", parameters={"condition": "c"})
    index = opened(runs[0].path.parent).answer("index", {})
    problems = {run["id"]: run["problem"] for run in index["runs"]}
    assert problems["run-a"] == problems["run-c"] == ""
    assert "dialogues.parquet" in problems["run-b"]
    assert len(index["dialogues"]) == 3


def test_what_is_damaged_later_stops_the_values_and_texts_of_no_other_run(runs: list[Run]) -> None:
    all_runs = opened(runs[0].path.parent)
    all_runs.answer("index", {})
    (runs[1].path / "scores.parquet").write_bytes(b"torn")
    values = all_runs.answer("values", {"metric": "hits"})
    assert values["values"] == {"run-a": {"u000.0": 1.0, "u001.0": 0.0}}
    assert list(values["problems"]) == ["run-b"] and "scores.parquet" in values["problems"]["run-b"]
    (runs[1].path / "profiles.parquet").unlink()
    (runs[0].path / "turns.parquet").write_bytes(b"torn")
    found = all_runs.answer("search", {"text": "not yet"})
    assert found["found"] == {}
    assert "turns.parquet" in found["problems"]["run-a"] and "profiles.parquet" in found["problems"]["run-b"]


def test_an_unknown_stop_reason_is_shown_as_it_is(runs: list[Run]) -> None:
    table = runs[0].read("dialogues")
    runs[0].write("dialogues", table.with_columns(stop_reason=pl.lit("power_cut")))
    all_runs = opened(runs[0].path.parent)
    index = all_runs.answer("index", {})
    number = [run["id"] for run in index["runs"]].index("run-a")
    assert {row["ending"] for row in index["dialogues"] if row["run"] == number} == {"power_cut"}
    assert all_runs.answer("dialogue", {"run": "run-a", "dialogue": "u000.0"})["ending"] == "power_cut"


def test_a_dialogue_without_its_profile_gets_a_sentence(runs: list[Run]) -> None:
    runs[0].write("profiles", runs[0].read("profiles").filter(pl.col("profile_id") != "u001"))
    all_runs = opened(runs[0].path.parent)
    all_runs.answer("index", {})
    assert all_runs.answer("dialogue", {"run": "run-a", "dialogue": "u001.0"}) == {
        "error": f"{runs[0].path}/profiles.parquet lacks the profile 'u001' of dialogue 'u001.0'; make the run again"
    }


def test_a_mistake_of_the_program_is_no_bad_request() -> None:
    def broken() -> pl.DataFrame:
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        Archive(broken).answer("index", {})


def test_cells_have_the_heads_that_are_given(runs: list[Run]) -> None:
    (run, _) = Archive(lambda: listed(runs[0].path.parent, print), FIGURES).answer("index", {})["runs"]
    assert {"told", "dist-2", "dialogues"} <= run["cells"].keys()
    assert not {"user_two_sample", "user_distinct_2", "n_dialogues"} & run["cells"].keys()


@pytest.mark.parametrize(
    ("action", "content", "sentence"),
    [
        ("dialogue", {"run": "run-z", "dialogue": "u000.0"}, "there is no run 'run-z' any more; load the page again"),
        (
            "dialogue",
            {"run": "run-a", "dialogue": "x"},
            "run 'run-a' has no dialogue 'x' any more; load the page again",
        ),
        ("search", {"text": 3}, "'search' with these fields is not a request of this page; load the page again"),
        ("delete", {}, "'delete' with these fields is not a request of this page; load the page again"),
        ("index", None, "'index' with these fields is not a request of this page; load the page again"),
    ],
)
def test_other_requests_get_a_sentence(runs: list[Run], action: str, content: object, sentence: str) -> None:
    all_runs = opened(runs[0].path.parent)
    all_runs.answer("index", {})
    assert all_runs.answer(action, content) == {"error": sentence}


@given(st.sampled_from(["index", "dialogue", "values", "search"]) | TEXT, JSON)
def test_anything_gets_an_answer(action: str, content: object) -> None:
    empty = pl.DataFrame(schema=dict.fromkeys(("run_id", "tag", "condition", "differs", "started", "path"), pl.String))
    assert isinstance(Archive(lambda: empty).answer(action, content), dict)


@pytest.fixture
def served(runs: list[Run]) -> Iterator[Served]:
    running = Served(opened(runs[0].path.parent))
    yield running
    running.stop()


def test_the_page_in_jupyterlab_gets_the_same_by_messages(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict] = []
    widget = widgets.looking(lambda: listed(runs[0].path.parent, print))
    monkeypatch.setattr(type(widget), "send", lambda self, content: sent.append(content))
    for number, (action, content) in enumerate((("index", {}), ("dialogue", {"run": "run-a", "dialogue": "u000.0"}))):
        widget._handle_custom_msg({"id": number, "action": action, "content": content}, [])
    assert [message["id"] for message in sent] == [0, 1]
    assert len(sent[0]["reply"]["dialogues"]) == 6
    assert sent[1]["reply"]["id"] == "u000.0"  # its own, not the message's


def test_only_who_has_the_address_is_answered(served: Served, runs: list[Run]) -> None:
    assert served.ask("index", {})[0] == 200
    assert served.ask("index", {}, token="guess") == (
        403,
        {"error": "This address lacks the token; use the address that was printed at the start."},
    )
    assert served.ask("dialogue", {"run": "run-a", "dialogue": "nobody"})[0] == 400
    with pytest.raises(HTTPError, match="415"):
        urlopen(Request(f"{served.address}/api/index", b"{}", {"Authorization": f"Bearer {TOKEN}"}))
    with urlopen(served.page) as page:
        assert "script-src 'self'" in page.headers["Content-Security-Policy"]
        assert b"run-a" not in page.read()
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{served.address}/people.js")


def test_a_report_is_served_in_a_sandbox(served: Served, runs: list[Run]) -> None:
    (runs[0].path / "report.html").write_text("<p>report")
    reports = {run["id"]: run["report"] for run in served.ask("index", {})[1]["runs"]}
    assert reports == {run["id"]: run["report"] for run in served.ask("index", {})[1]["runs"]}  # also later
    with urlopen(f"{served.address}/report/{reports['run-a']}") as page:
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert (page.headers["Content-Security-Policy"][:21], page.read()) == ("sandbox allow-scripts", b"<p>report")
    assert served.ask("index", {}, token=reports["run-a"])[0] == 403  # its address opens nothing else
    for path in ("report/run-a", "report/x", f"report/run-a?token={TOKEN}", f"report/..%2Fa?token={TOKEN}", "report/"):
        with pytest.raises(HTTPError, match=r"40[34]"):
            urlopen(f"{served.address}/{path}")


def test_the_command_serves_all_runs_or_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    addresses: queue.Queue[str] = queue.Queue()
    returned = threading.Event()  # a text browser waits for the server, which goes on when `ready` has returned

    def browse(address: str) -> None:
        returned.wait(10)
        addresses.put(address)

    def serve(opened: Archive, port: int, ready: Callable[[str], None]) -> None:
        ready("http://x/?token=t")
        seen.extend((port, addresses.empty()))
        returned.set()

    monkeypatch.setattr(archive, "serve", serve)
    monkeypatch.setattr("webbrowser.open", browse)
    done = CliRunner().invoke(main, ["look", "--reports", str(tmp_path), "--port", "8001"])
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "http://x/?token=t")
    assert (seen, addresses.get(timeout=10)) == ([8001, True], "http://x/?token=t")
    CliRunner().invoke(main, ["look", "--reports", str(tmp_path), "--no-browser"])
    assert (seen[2:], addresses.empty()) == ([0, True], True)
    for words, sentence in (
        (["--to", "x.html"], "name the runs that it shows"),
        (["--reports", str(tmp_path / "no")], "there is no folder"),
        (["nobody", "--reports", str(tmp_path)], "'nobody'"),
    ):
        done = CliRunner().invoke(main, ["look", *words])
        assert (done.exit_code, sentence in done.stderr) == (1, True)
