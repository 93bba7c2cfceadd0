"""Agents that work in the background."""

import asyncio
from collections.abc import Iterator

import pytest

from crslib.agents.background import BackgroundAgent
from crslib.agents.base import Ask, Reply, Sent
from crslib.dialogue.views import RecommenderView
from crslib.errors import CrsError
from tests.support.domains import MOVIES


class Echo(BackgroundAgent):
    """Says the dialogue's id when its gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.cancelled: list[str] = []

    async def reply(self, ask: Ask) -> Reply:
        self.gates[ask.dialogue_id] = asyncio.Event()
        if ask.dialogue_id == "bad input":
            raise CrsError("the server has gone")
        if ask.dialogue_id == "mistake":
            raise ZeroDivisionError
        try:
            await self.gates[ask.dialogue_id].wait()
        except asyncio.CancelledError:
            self.cancelled.append(ask.dialogue_id)
            raise
        return Reply(ask.dialogue_id, Sent("", 0), 1)

    def open(self, dialogue_id: str) -> None:
        async def gate() -> None:
            self.gates[dialogue_id].set()

        self.loop.run(gate())


@pytest.fixture
def agent() -> Iterator[Echo]:
    agent = Echo()
    yield agent
    agent.close()


def ask(dialogue_id: str) -> Ask:
    return Ask(dialogue_id, RecommenderView(MOVIES), 0)


def test_utterances_end_in_any_order_and_nothing_waits_without_being_told_to(agent: Echo) -> None:
    assert agent.step(wait=True) == []
    for name in "abc":
        agent.ask(ask(name))
    assert agent.step(wait=False) == []
    assert agent.pending == 3
    agent.open("b")
    assert [(name, reply.text) for name, reply in agent.step(wait=True)] == [("b", "b")]
    agent.open("c")
    agent.open("a")
    rest = [*agent.step(wait=True), *agent.step(wait=True)]
    assert [name for name, _ in rest] == ["c", "a"]
    assert agent.pending == 0


def test_bad_input_is_a_failed_reply_and_a_mistake_is_raised(agent: Echo) -> None:
    agent.ask(ask("bad input"))
    [(name, reply)] = agent.step(wait=True)
    assert (name, reply.finish, reply.error, reply.text) == ("bad input", "failed", "the server has gone", "")
    agent.ask(ask("mistake"))
    with pytest.raises(ZeroDivisionError):
        agent.step(wait=True)
    assert agent.pending == 0


def test_closing_ends_what_is_pending(agent: Echo) -> None:
    agent.ask(ask("a"))
    while "a" not in agent.gates:
        agent.step(wait=False)
    agent.close()
    agent.close()
    assert agent.cancelled == ["a"]
    assert agent.pending == 0
