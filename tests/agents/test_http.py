"""A recommender or user behind a URL: the shipped example, and servers that answer badly."""

import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.agents import http
from crslib.agents.base import Ask, Reply
from crslib.agents.callable import load
from crslib.config import ROOT
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import RECOMMENDER, USER, one_line
from crslib.dialogue.views import Note, RecommenderView, UserKnowledge, UserView, View
from crslib.errors import CrsError
from crslib.identity import derive_seed
from tests.support.anything import JSON, TEXT, nested, paths, replaced
from tests.support.domains import MOVIES
from tests.support.fuzz import tries


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """A real server on loopback; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def answering(answer: Callable[[dict[str, Any]], Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server whose answers `answer` makes; its address and the requests it got."""
    app, got = FastAPI(), []

    @app.post("/")
    def reply(body: dict) -> Response:
        got.append(body)
        content = answer(body)
        return content if isinstance(content, Response) else JSONResponse(content)

    with serving(app) as url:
        yield f"{url}/", got


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


@contextmanager
def opened(url: str, catalog: Catalog, role: str = RECOMMENDER, **given: Any) -> Iterator[http.HttpAgent]:
    agent = http.HttpAgent(url, role, catalog, lambda text: text, **given)
    try:
        yield agent
    finally:
        agent.close()


def asked(agent: http.HttpAgent, view: View) -> Reply:
    agent.ask(Ask("d1", view, 7))
    ended: list[tuple[str, Reply]] = []
    while agent.pending:
        ended += agent.step(wait=True)
    ((dialogue_id, reply),) = ended
    assert dialogue_id == "d1"
    return reply


def heard(text: str, catalog: Catalog) -> RecommenderView:
    view = RecommenderView(MOVIES)
    view.hear(text, items=catalog.link(text))
    return view


def test_the_shipped_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of data/protocol in a real server, on the shipped catalogue."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "data/protocol")])
    app = load("python:data/protocol/example_fastapi.py:app")
    catalog = Catalog(pl.read_parquet(ROOT / "data/items.parquet"), MOVIES)
    with serving(app) as url, opened(f"{url}/reply", catalog) as agent:
        first = asked(agent, RecommenderView(MOVIES))
        second = asked(agent, heard(f"I know {first.text}", catalog))
    assert first.text.startswith("Have you seen [[")
    ids = [catalog.link(reply.text)[0]["item_id"] for reply in (first, second)]
    assert None not in ids
    assert len(set(ids)) == 2


def test_the_requests(catalog: Catalog) -> None:
    """A check when it opens, then one request per utterance; a user's also holds what it knows."""
    with answering(lambda body: {"text": "Try it.", "items": ["6"]}) as (url, got):
        with opened(url, catalog) as agent:
            reply = asked(agent, heard("hi", catalog))
        view = UserView(UserKnowledge(MOVIES, "You enjoy drama.", "a drama"))
        view.hear("[[Heat (1995)]]?", [Note("Heat (1995)", True, False)], catalog.link("[[Heat (1995)]]?"))
        with opened(url, catalog, USER) as agent:
            asked(agent, view)
    assert reply.text == "Try it. [[Up (2009)]]"
    assert reply.sent.text == 'user: {"text": "hi", "items": []}'
    check, recommender, greeted, user = got
    called = recommender.pop("dialogue_id")
    assert len(called) == 32  # drawn: the run's own id would say whose ratings to look up
    assert check == {"protocol": 1, "dialogue_id": "check", "role": "recommender", "seed": 0, "turns": []}
    assert recommender == {
        "protocol": 1,
        "role": "recommender",
        "seed": derive_seed(0, called, 1),
        "turns": [{"role": "user", "text": "hi", "items": []}],
    }
    assert (greeted["dialogue_id"], len(greeted["turns"])) == ("check", 1)
    assert user["turns"] == [
        {"role": "recommender", "text": "Heat (1995)?", "items": [{"item_id": "1", "title": "Heat (1995)"}]}
    ]
    assert user["knowledge"]["summary"] == "You enjoy drama."
    assert user["knowledge"]["notes"] == [{"title": "Heat (1995)", "seen": True, "liked": False}]


def test_many_at_a_time(catalog: Catalog) -> None:
    """All four are with the server before it answers the first."""
    barrier = threading.Barrier(4)

    def reply(body: dict) -> dict:
        if body["dialogue_id"] != "check":
            barrier.wait(timeout=30)
        return {"text": body["dialogue_id"]}

    with answering(reply) as (url, _), opened(url, catalog) as agent:
        for number in range(4):
            agent.ask(Ask(f"d{number}", RecommenderView(MOVIES), 0))
        ended: list[tuple[str, Reply]] = []
        while agent.pending:
            ended += agent.step(wait=True)
    assert sorted(dialogue_id for dialogue_id, _ in ended) == [f"d{n}" for n in range(4)]
    assert len({reply.text for _, reply in ended}) == 4


def test_a_server_that_fails_is_asked_again(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WAITS", (0.0, 0.0))
    statuses = iter([200, 503, 500, 200])

    def reply(body: dict) -> Response:
        return JSONResponse({"text": "Hello"}, status_code=next(statuses))

    with answering(reply) as (url, got), opened(url, catalog) as agent:
        assert asked(agent, RecommenderView(MOVIES)).text == "Hello"
    assert len(got) == 4


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Response("oops", status_code=500), "answered 500 Internal Server Error: 'oops'"),
        (Response("not here", status_code=404), "answered 404 Not Found: 'not here'"),
        (Response("<html>"), "answered without JSON: '<html>'"),
        (["Heat"], "answered '[\"Heat\"]'; expected is an object with text and items"),
        ({"reply": "Heat"}, "returned an unknown field 'reply'; known are text, items, leave"),
        ({"text": None}, "returned nothing (None) as text"),
        ({"text": "a", "items": [{"id": "1"}]}, "returned an item that is nothing (None)"),
        ({"text": "word " * 10_000}, "said 10,000 words"),
        ({"text": "a", "items": [{"title": "word " * 10_000}]}, "said 10,001 words"),
        ({"text": "a", "items": ["6"] * 51}, "named 51 items in one turn; at most 50"),
        (Response(b'{"text": "' + b"a" * (9 << 20) + b'"}'), "sent more than 8 MiB"),
        (Response(nested(100_000)), "answered without JSON: '[[["),
        (Response(b'{"text": "\\ud800"}'), "answered without JSON: "),
        (Response(b'{"text": "\xff"}', headers={"Content-Type": "text/plain; charset=zlib"}), "answered without JSON"),
        (Response(gzip.compress(bytes(1 << 28)), headers={"Content-Encoding": "gzip"}), "sent a compressed answer"),
    ],
)
def test_a_bad_answer_is_a_failed_utterance(
    answer: Any, sentence: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_WAITS", (0.0, 0.0))
    with (
        answering(lambda body: {"text": "Hello"} if body["dialogue_id"] == "check" else answer) as (url, _),
        opened(url, catalog) as agent,
    ):
        failed = asked(agent, heard("hi", catalog))
        assert asked(agent, heard("hi", catalog)).finish == "failed"  # and it goes on
    assert failed.finish == "failed"
    assert failed.error.startswith(f"the recommender at {url} {sentence}")
    assert failed.sent.text


@pytest.mark.hypothesis
def test_any_json_in_any_field_is_an_utterance_or_a_sentence(items: pl.DataFrame) -> None:
    good = {"text": "Try Heat.", "items": ["6", {"title": "Nosferatu"}, {"item_id": "1"}], "leave": False}
    answer: Any = good

    def reply(body: dict) -> Response:
        return Response(json.dumps(good if body["dialogue_id"] == "check" else answer).encode())

    with answering(reply) as (url, _), opened(url, Catalog(items, MOVIES)) as agent:

        @settings(max_examples=tries(60))
        @given(st.sampled_from(paths(good)), JSON | TEXT)
        def hold(path: tuple[str | int, ...], value: object) -> None:
            nonlocal answer
            answer = replaced(good, path, value)
            got = asked(agent, RecommenderView(MOVIES))
            assert got.text.encode() or (got.finish == "failed" and got.error == one_line(got.error))

        hold()


def test_a_bad_answer_to_the_check_is_an_error(catalog: Catalog) -> None:
    with answering(lambda body: {"reply": "Heat"}) as (url, _), pytest.raises(CrsError, match="unknown field 'reply'"):
        http.HttpAgent(url, RECOMMENDER, catalog, str)


def test_a_slow_server(catalog: Catalog) -> None:
    def reply(body: dict) -> dict:
        if body["dialogue_id"] != "check":
            time.sleep(1)
        return {"text": "Hello"}

    with answering(reply) as (url, _), opened(url, catalog) as agent:
        agent._timeout = 0.1
        failed = asked(agent, RecommenderView(MOVIES))
    assert failed.error == f"the recommender at {url} gave no answer in 0.1 seconds"


def test_a_byte_at_a_time_is_too_slow(catalog: Catalog) -> None:
    """The time holds for the whole answer, not for each of its bytes."""

    def bytes_of(text: bytes) -> Iterator[bytes]:
        for byte in text:
            time.sleep(0.02)
            yield bytes([byte])

    def reply(body: dict) -> Any:
        whole = b'{"text": "Hello"}'
        return Response(whole) if body["dialogue_id"] == "check" else StreamingResponse(bytes_of(whole + b" " * 100))

    with answering(reply) as (url, _), opened(url, catalog) as agent:
        agent._timeout = 0.3
        failed = asked(agent, RecommenderView(MOVIES))
    assert failed.error == f"the recommender at {url} gave no answer in 0.3 seconds"


def test_nobody_answers(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_WAITS", (0.0, 0.0))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(CrsError, match=rf"at http://127.0.0.1:{port}/ cannot be reached \(ConnectError.*is it running"):
        http.HttpAgent(f"http://127.0.0.1:{port}/", RECOMMENDER, catalog, str)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("http://", "is no URL of a server; write http://HOST:PORT/PATH"),
        ("ftp://host/", "is no URL of a server"),
        ("http://host:port/", "is no URL"),
        ("http://me:secret@host/", "the URL of host holds a password, which would be stored with the run"),
        ("http://me:secret@host:port/", "this address is no URL"),
        ("ftp://me:secret@host/", "this address is no URL of a server"),
        ("http://secret@host/", "the URL of host holds a password"),
        ("http://host/@secret/", "the URL of host holds a password"),
        ("http://host/?key=secret", "the URL of host holds a query, which would be stored with the run"),
        ("http://host/\ud800", "is no URL"),
    ],
)
def test_what_is_no_address(url: str, sentence: str, catalog: Catalog) -> None:
    with pytest.raises(CrsError, match=sentence) as refused:
        http.HttpAgent(url, RECOMMENDER, catalog, str)
    assert "secret" not in str(refused.value)
