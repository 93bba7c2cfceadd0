"""A model on a server as an agent: against a scripted server, and against a real one with the built-in model."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from crslib.agents.base import Ask, Faults, Reply, faultless
from crslib.agents.format import NOTHING_SAID, Told, Trained
from crslib.agents.server import Answers, ServerAgent, open_server
from crslib.config import SimulationParameters, resolve
from crslib.dialogue.prompts import Prompt
from crslib.dialogue.views import Message, RecommenderView, UserKnowledge, UserView, View
from crslib.engines import llama
from crslib.engines.base import Sampling
from crslib.engines.server import Limits, Server
from crslib.errors import CrsError
from crslib.identity import derive_seed
from tests.support.domains import MOVIES
from tests.support.server import Handler, completion, serving


def ask(dialogue_id: str = "d", seed: int = 5, faults: Faults = faultless, heard: str = "I like comedies.") -> Ask:
    view = RecommenderView(MOVIES)
    view.hear(heard)
    return Ask(dialogue_id, view, seed, faults)


def user_ask() -> Ask:
    view = UserView(UserKnowledge(MOVIES, "You enjoy crime movies.", "crime movie"))
    view.hear("Hello")
    return Ask("d", view, 5, faultless)


def replies(agent: ServerAgent, *asks: Ask) -> dict[str, Reply]:
    for each in asks:
        agent.ask(each)
    ended: dict[str, Reply] = {}
    while agent.pending:
        ended.update(agent.step(wait=True))
    return ended


def agent_at(url: str, **settings: object) -> closing[ServerAgent]:
    settings = {"form": Trained(), **settings}
    return closing(ServerAgent(Server("m", url, retries=0), Sampling(max_tokens=8), **settings))


# ── a scripted server ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_view_goes_out_and_an_utterance_comes_back() -> None:
    with serving((200, completion(" Try\n[[Up (2009)]]. ", "length", 30, 8))) as server, agent_at(server.url) as agent:
        request = ask()
        first = replies(agent, request)["d"]
        request.view.say(first.text)
        request.view.hear("Why?")
        second = replies(agent, Ask("d", request.view, 6))["d"]
    system = "system: You are a movie recommender."
    assert (first.text, first.finish, first.n_tokens) == ("Try [[Up (2009)]].", "max_tokens", 3)
    assert (first.tokens_in, first.tokens_out, first.ids, first.logprobs) == (30, 8, None, ())
    assert first.sent.text == f"{system}\nuser: I like comedies."
    assert second.sent.text == "assistant: Try [[Up (2009)]].\nuser: Why?"
    assert server.requests[1][2]["messages"][2] == {"role": "assistant", "content": "Try [[Up (2009)]]."}
    assert not agent.reproducible


def test_what_does_not_fit_is_drawn_again_with_another_seed() -> None:
    script = [(200, text) for text in ("No.", "Never.", "Up!", "Not asked for.")]
    with serving(*script) as server, agent_at(server.url, resample=3) as agent:
        reply = replies(agent, ask(faults=lambda text: "Up" not in text))["d"]
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("Up!", 21, 9)
    seeds = [body["seed"] for _, _, body in server.requests]
    assert seeds == [5, derive_seed(5, "again", 1), derive_seed(5, "again", 2)]


def test_of_draws_with_faults_the_last_with_the_least_stands() -> None:
    script = [(200, text) for text in ("One.", "Two.", "Three.")]
    for faults, stands in ((lambda text: 1, "Three."), (lambda text: 1 + ("T" in text), "One.")):
        with serving(*script) as server, agent_at(server.url, resample=3) as agent:
            reply = replies(agent, ask(faults=faults))["d"]
        assert (reply.text, reply.n_tokens, reply.finish) == (stands, 1, "end")


@pytest.mark.parametrize("role", ["user", "recommender"])
def test_a_trained_model_leaves_without_a_word_and_another_one_fails(role: str) -> None:
    """Adapters of `crs train` say nothing where they leave; a model that was only told has a mark for it."""
    for name, expected in (("trained.md", ("", "left", "")), (f"{role}.md", ("", "failed", NOTHING_SAID))):
        form = Told(Prompt.read(resolve(f"data/prompts/{name}")), role, str)
        with serving((200, completion("", "stop"))) as server, agent_at(server.url, form=form) as agent:
            reply = replies(agent, ask())["d"] if role == "recommender" else replies(agent, user_ask())["d"]
        assert (reply.text, reply.finish, reply.error or "") == expected


def test_what_is_sent_and_how_answers_are_read_is_given() -> None:
    class Counting(Trained):
        identity: ClassVar = {"prompt": "abc"}

        def messages(self, view: View) -> list[Message]:
            return [Message("user", f"Recommend after {len(view.turns)} turns.")]

        def read(self, raw: str) -> tuple[str, bool]:
            return raw.removesuffix("<leave>"), raw.endswith("<leave>")

    with serving((200, "Bye.<leave>")) as server, agent_at(server.url, form=Counting()) as agent:
        reply = replies(agent, ask())["d"]
        assert agent.identity["format"] == {"prompt": "abc"}
    assert (reply.text, reply.finish) == ("Bye.", "left")
    assert reply.sent.text == "user: Recommend after 1 turns."
    assert server.requests[0][2]["messages"] == [{"role": "user", "content": "Recommend after 1 turns."}]


def test_one_failure_is_a_reply_and_the_others_go_on() -> None:
    def answer(handler: Handler) -> None:
        bad = handler.server.requests[-1][2]["messages"][1]["content"] == "bad"
        handler.reply((500, b"") if bad else (200, "Hi"))

    with serving(answer) as server, agent_at(server.url) as agent:
        agent.ask(ask("a", heard="bad"))
        failed = dict(agent.step(wait=True))["a"]
        others = replies(agent, ask("b"), ask("c"))
    assert failed.finish == "failed" and failed.text == ""
    assert failed.error.startswith(f"the endpoint {server.url} answers 500 for the model 'm'")
    assert failed.sent.text.endswith("user: bad")  # it left the house all the same: the audit reads it
    assert {name: reply.text for name, reply in others.items()} == {"b": "Hi", "c": "Hi"}


def test_both_roles_share_their_limits() -> None:
    limits = Limits(2)
    with serving((200, "Hi"), pause=0.05) as server:
        agents = [ServerAgent(Server("m", server.url, limits=limits), Sampling(), Trained()) for _ in range(2)]
        for agent in agents:
            for number in range(4):
                agent.ask(ask(str(number)))
        for agent in agents:
            while agent.pending:
                agent.step(wait=True)
            agent.close()
    assert server.most == 2


# ── answers that are kept ───────────────────────────────────────────────────────────────────────────────────────


def test_a_killed_run_does_not_ask_again_for_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with serving((200, "One é."), (200, "Two."), (200, "Three.")) as server:
        with agent_at(server.url, answers=path) as agent:
            first = replies(agent, ask("a", 1))["a"]
            replies(agent, ask("b", 2))
        lines = path.read_bytes().splitlines(keepends=True)
        assert len(lines) == 2
        path.write_bytes(b"rubbish\n" + lines[0] + lines[1][:-5])  # killed while it wrote the second
        with agent_at(server.url, answers=path) as agent:
            again = replies(agent, ask("a", 1))["a"]
            assert len(server.requests) == 2
            assert replies(agent, ask("b", 2))["b"].text == "Three."
        assert (again.text, again.tokens_in, again.tokens_out) == ("One é.", first.tokens_in, first.tokens_out)
        with agent_at(server.url, answers=path) as agent:
            assert replies(agent, ask("b", 2))["b"].text == "Three."
        assert len(server.requests) == 3


def test_another_seed_sampling_or_model_is_another_question(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving((200, "Hi")) as server:
        for model, tokens, seed in (("m", 8, 1), ("m", 8, 2), ("m", 9, 1), ("n", 8, 1), ("m", 8, 1)):
            with closing(
                ServerAgent(Server(model, server.url), Sampling(max_tokens=tokens), Trained(), answers=path)
            ) as agent:
                replies(agent, ask(seed=seed))
    assert len(server.requests) == 4


def test_failures_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with serving((500, b""), (200, "Hi")) as server, agent_at(server.url, answers=path) as agent:
        assert replies(agent, ask())["d"].finish == "failed"
        assert replies(agent, ask())["d"].text == "Hi"


def test_a_file_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CrsError, match="cannot write"):
        Answers(tmp_path / "file" / "answers.jsonl")


def test_no_key_is_in_file_or_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRS_API_KEY", "sk-hush")
    path = tmp_path / "answers.jsonl"
    with serving((200, "You said sk-hush.")) as server, agent_at(server.url, answers=path) as agent:
        assert replies(agent, ask())["d"].text == "You said …."
        assert "hush" not in path.read_text() + json.dumps(dict(agent.identity))
    assert server.requests[0][1]["authorization"] == "Bearer sk-hush"


# ── opening by name ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_agent_is_opened_by_its_name() -> None:
    parameters = SimulationParameters(temperature=0.5, top_p=0.9, min_p=0.1, max_tokens=9, resample=3, timeout=7)
    with serving((200, "Hi")) as server:
        agent = open_server(f"openai:m@{server.url}", parameters, Limits(5), form=Trained())
        with closing(agent):
            replies(agent, ask())
    assert agent.width == 5
    assert agent.identity == {
        "agent": "server",
        "url": server.url,
        "model": "m",
        "sampling": {"temperature": 0.5, "top_p": 0.9, "min_p": 0.1, "max_tokens": 9},
        "resample": 3,
        "format": {"name": "v1"},
    }
    assert server.requests[0][2]["max_tokens"] == 9


def test_a_model_that_the_server_does_not_know_is_said_at_once() -> None:
    with serving((200, "Hi")) as server, pytest.raises(CrsError, match="does not know the model 'x': it knows m"):
        open_server(f"openai:x@{server.url}", SimulationParameters(), Limits(), form=Trained())


# ── a real server ───────────────────────────────────────────────────────────────────────────────────────────────


SERVER = """
import runpy
import llama_cpp
from crslib.engines.llama.model import model_params
llama_cpp.llama_cpp.llama_model_default_params = model_params
runpy.run_module("llama_cpp.server", run_name="__main__")
"""


@pytest.fixture(scope="module")
def llama_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of llama-cpp-python's server with the built-in model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": llama.model_path("smollm2"), "model_alias": "smollm2", "n_ctx": 256, "n_threads": 1,
        "host": "127.0.0.1", "port": port,
    }  # fmt: skip
    command = [sys.executable, "-c", SERVER]
    command += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models")
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


SHORT = SimulationParameters(max_tokens=8, resample=1)


@pytest.mark.model
def test_a_real_server_answers_several_at_once(llama_server: str, tmp_path: Path) -> None:
    with closing(
        open_server(
            f"openai:smollm2@{llama_server}", SHORT, Limits(), form=Trained(), answers=tmp_path / "answers.jsonl"
        )
    ) as agent:
        asks = [ask("a", 1), ask("b", 2), ask("long", 3, heard="word " * 300)]
        ended = replies(agent, *asks)
        assert agent.changes == ()
    assert ended["long"].finish == "failed" and "give the server a longer context" in ended["long"].error
    for name in "ab":
        reply = ended[name]
        assert reply.text and reply.finish in ("end", "max_tokens")
        # In SmolLM2's tokens: 12 of the system message, 10 of the user's and 4 that begin the answer.
        assert reply.tokens_in == 26
        assert 1 <= reply.tokens_out <= 8
    # What a server says twice to the same ask need not be equal: this one computes with what it has in its cache. What
    # is kept is equal.
    with closing(
        open_server(
            f"openai:smollm2@{llama_server}", SHORT, Limits(), form=Trained(), answers=tmp_path / "answers.jsonl"
        )
    ) as agent:
        assert replies(agent, ask("a", 1))["a"] == ended["a"]


@pytest.mark.model
def test_a_real_server_lists_its_models(llama_server: str) -> None:
    with pytest.raises(CrsError, match="does not know the model 'smolm2': did you mean 'smollm2'"):
        open_server(f"openai:smolm2@{llama_server}", SHORT, Limits(), form=Trained())
