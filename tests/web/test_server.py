"""The rating page over HTTP: no vote is lost or doubled, and only permitted requests are answered."""

import asyncio
import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from crslib.errors import CrsError
from crslib.judging.study import Study, open_study
from crslib.web import server
from tests.support.people_runs import make_runs


class Served:
    """A study on a free port of this machine, in a thread of this process."""

    def __init__(self, study: Study, **settings: object) -> None:
        self.study, self._loop = study, asyncio.new_event_loop()
        (socket,) = bind_sockets(0, "127.0.0.1")
        self.address = f"http://127.0.0.1:{socket.getsockname()[1]}"
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
