"""The rating page over HTTP: no vote is lost or doubled, and only permitted requests are answered."""

import asyncio
import json
import logging
import random
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from crslib.errors import CrsError
from crslib.judging.study import Study, open_study
from crslib.web import server
from tests.support.anything import JSON, TEXT, nested
from tests.support.people_runs import make_runs


class Served:
    """A study on a free port of this machine, in a thread of this process."""

    def __init__(self, study: Study, **settings: object) -> None:
        self.study, self._loop = study, asyncio.new_event_loop()
        (socket,) = bind_sockets(0, "127.0.0.1")
        self.port = socket.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._loop.call_soon(lambda: HTTPServer(server.application(study, **settings)).add_socket(socket))
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def ask(self, action: str, content: object, **headers: str) -> dict:
        headers = {"Content-Type": "application/json", **headers}
        request = Request(f"{self.address}/api/{action}", json.dumps(content).encode(), headers)
        try:
            with urlopen(request) as reply:
                return json.load(reply)["state"]
        except HTTPError as error:
            return json.load(error)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    running = Served(open_study(make_runs(tmp_path, 40), 36, 0, tmp_path / "people"))
    yield running
    running.stop()


def test_no_vote_of_two_simultaneous_raters_is_lost_or_doubled(served: Served) -> None:
    """Both answer 200 questions at the same time; one request in four is sent again, some are undone."""
    chosen: dict[str, list[str]] = {"ann": [], "bob": []}

    def rate(rater: str) -> None:
        draw = random.Random(rater)
        state = served.ask("state", {"rater": rater})
        for number in range(210):
            choice = draw.choice(["left", "tie", "right"])
            vote = {"rater": rater, "key": f"{rater}{number}", "order": state["order"], "choice": choice}
            vote |= {"criterion": state["criterion"], "seconds": 1.0}
            state = served.ask("vote", vote)
            chosen[rater].append(choice)
            if draw.random() < 0.25:
                assert served.ask("vote", vote) == state
            if number % 21 == 20:
                undo = {"rater": rater, "key": f"undo{rater}{number}"}
                state = served.ask("undo", undo)
                assert served.ask("undo", undo) == state
                chosen[rater].pop()

    with ThreadPoolExecutor() as pool:
        list(pool.map(rate, chosen))
    votes = served.study.votes()
    for rater, choices in chosen.items():
        assert (len(choices), votes.filter(rater=rater)["choice"].to_list()) == (200, choices)
        assert votes.filter(rater=rater)["order"].to_list() == list(range(200))


def test_the_page_has_a_content_policy_and_other_files_are_not_served(served: Served) -> None:
    with urlopen(f"{served.address}/") as reply:
        assert "script-src 'self'" in reply.headers["Content-Security-Policy"]
        assert b"people.js" in reply.read()
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{served.address}/votes.jsonl")


@pytest.mark.parametrize(
    ("action", "content", "headers", "sentence"),
    [
        ("state", {"rater": "ann"}, {"Host": "evil.example"}, "'evil.example' is not this machine."),
        ("state", {"rater": "ann"}, {"Content-Type": "text/plain"}, "This is not a request of the page."),
        ("state", {"rater": ""}, {}, "'' is not a name; write 1 to 40 characters"),
        ("vote", ["ann"], {}, "'vote' with these fields is not a request of this page; load the page again"),
        ("vote", {"rater": "ann"}, {}, "'vote' with these fields is not a request of this page; load the page again"),
    ],
)
def test_other_requests_are_refused(served: Served, action: str, content: object, headers: dict, sentence: str) -> None:
    assert served.ask(action, content, **headers) == {"error": sentence}
    assert served.study.votes().is_empty()


# ── whatever is sent ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A study that anything is sent to; at the end no request has failed inside the server, and votes can be read."""
    folder = tmp_path_factory.mktemp("attacked")
    failures: list[str] = []
    listener = logging.Handler(logging.ERROR)
    listener.emit = lambda record: failures.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tornado").addHandler(listener)
    running = Served(open_study(make_runs(folder, 6), 3, 0, folder / "people"))
    running.ask("state", {"rater": "ann"})
    yield running
    running.stop()
    logging.getLogger("tornado").removeHandler(listener)
    assert failures == []
    assert Study(running.study.path).votes().equals(running.study.votes())


def sent(served: Served, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a request that is written as it stands; status 0: it was no HTTP."""
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        whole = head.encode("utf-8", "surrogatepass") + b"Connection: close\r\n"
        connection.sendall(whole + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        try:
            while part := connection.recv(1 << 16):
                answer += part
        except ConnectionResetError:
            pass
    return (int(answer[9:12]), answer.partition(b"\r\n\r\n")[2]) if answer else (0, b"")


ODD = st.text(st.characters(exclude_categories=(), exclude_characters="\r\n"), max_size=20)
PATHS = st.sampled_from(
    ["/", "/api/state", "/api/vote", "/api/undo", "/people.js", "/../study.json", "/%ff", "*", "//"]
)
METHODS = st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get"])
TYPES = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain", ""]
HEADERS = st.dictionaries(
    st.sampled_from(["Accept-Encoding", "Authorization", "Cookie", "Expect", "If-None-Match", "Range", "Upgrade"]),
    ODD,
    max_size=3,
)


@given(
    METHODS | ODD,
    st.one_of(PATHS, st.tuples(PATHS, ODD).map("?".join), ODD.map("/{}".format)),
    st.sampled_from(["127.0.0.1", "localhost", "[::1]", "evil.example", "", "a b", "é"]) | ODD,
    st.sampled_from(TYPES) | ODD,
    HEADERS,
    st.binary(max_size=200) | st.sampled_from([b"--b\r\n\r\n\r\n--b--", b"a=%ff&" * 2000, bytes(20_000)]),
)
def test_no_request_fails_inside_the_server(
    attacked: Served, method: str, path: str, host: str, kind: str, headers: dict[str, str], body: bytes
) -> None:
    status, _ = sent(attacked, method, path, {"Host": host, "Content-Type": kind, **headers}, body)
    assert status < 500


VOTE = {"rater": "ann", "key": "k", "order": 0, "criterion": "naturalness", "choice": "left", "seconds": 1.0}


@given(
    st.sampled_from(["state", "vote", "undo"]),
    st.one_of(
        JSON,
        st.fixed_dictionaries({}, optional=dict.fromkeys(VOTE, JSON | TEXT)).map(lambda given: {**VOTE, **given}),
        st.fixed_dictionaries({"rater": TEXT}, optional={"key": TEXT}),
    ).map(json.dumps)
    | st.text(max_size=50),
)
@example("vote", json.dumps({**VOTE, "seconds": 10**400}))
@example("vote", json.dumps({**VOTE, "seconds": float("nan")}))
@example("vote", json.dumps({**VOTE, "key": "\ud800"}))
@example("state", '{"rater": "\\ud800"}')
@example("state", nested(4_000).decode())
@example("undo", '{"rater": "ann", "key": ' + nested(900).decode() + "}")
def test_any_json_is_answered_with_a_state_or_a_sentence(attacked: Served, action: str, body: str) -> None:
    headers = {"Host": "localhost", "Content-Type": "application/json"}
    status, answer = sent(attacked, "POST", f"/api/{action}", headers, body.encode())
    reply = json.loads(answer)
    assert (status, list(reply)) in [(200, ["state"]), (400, ["error"])]
    assert status == 200 or (isinstance(reply["error"], str) and len(reply["error"]) < 300)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/study.json", 404, b'{"error": "There is no such page; use the address that was printed'),
        ("GET", "/../../etc/passwd", 404, b"There is no such page"),
        ("PUT", "/", 405, b"405: Method Not Allowed"),
        ("GET", "/api/state", 405, b"405: Method Not Allowed"),
        ("POST", "/api/votes", 404, b"There is no such page"),
    ],
)
def test_what_is_not_there(attacked: Served, method: str, path: str, status: int, words: bytes) -> None:
    got, answer = sent(attacked, method, path, {"Host": "localhost", "Content-Type": "application/json"}, b"")
    assert got == status and words in answer


@pytest.mark.parametrize("body", [b"\xff", b"[" * 9_000, b'{"rater": "\\ud800"}', b"", b"{}", b"NaN", b'"' * 9_999])
def test_a_body_that_is_no_request_is_a_sentence(attacked: Served, body: bytes) -> None:
    headers = {"Host": "localhost", "Content-Type": "application/json"}
    status, answer = sent(attacked, "POST", "/api/state", headers, body)
    sentence = "'state' with these fields is not a request of this page; load the page again"
    assert (status, json.loads(answer)) == (400, {"error": sentence})


def test_a_token_and_a_list_of_raters_keep_others_out(tmp_path: Path) -> None:
    study = open_study(make_runs(tmp_path, 4), 2, 0, tmp_path / "people")
    served = Served(study, token="secret", raters=["ann"])
    try:
        assert "lacks the token" in served.ask("state", {"rater": "ann"})["error"]
        assert "lacks the token" in served.ask("state", {"rater": "ann"}, Authorization="Bearer Secret")["error"]
        assert served.ask("state", {"rater": "ann"}, Authorization="Bearer secret", Host="lab.example")["order"] == 0
        assert "not among the raters" in served.ask("state", {"rater": "bob"}, Authorization="Bearer secret")["error"]
    finally:
        served.stop()
    with pytest.raises(CrsError, match="can be reached by others; give a token"):
        server.serve(study, "0.0.0.0", 0, "", [], print)
