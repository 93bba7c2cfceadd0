"""A person at the keyboard as an agent, and an agent whose utterances are shown: a simulation with a person in it.

Knows nothing of screens: one function asks the person, another receives the other's utterances.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.agents.base import Agent, Ask, AskQueue, Reply, Transcript
from crslib.dialogue.utterances import clean


class Person(AskQueue):
    """Utterances that a person types, one at a time.

    `type_in` returns what the person says next, with titles in `[[…]]`, or None when they leave; it is called when the
    simulation waits for them.
    """

    identity: Mapping[str, Any] = {"agent": "person"}
    reproducible = False

    def __init__(self, type_in: Callable[[], str | None]) -> None:
        super().__init__()
        self._type_in, self._transcript = type_in, Transcript()

    def answer(self, ask: Ask) -> Reply:
        """Waits for the person, who has read the view's messages."""
        sent = self._transcript.add(ask.dialogue_id, [(one.role, one.text) for one in ask.view.messages])
        typed = self._type_in()
        text = clean(typed or "")
        return Reply(text, sent, len(text.split()), "left" if typed is None else "end")

    def release(self, dialogue_id: str) -> None:
        self._transcript.release(dialogue_id)


class Observed:
    """An agent around another that passes the text of each utterance to `on_utterance` when it ends."""

    def __init__(self, agent: Agent, on_utterance: Callable[[str], None]) -> None:
        self._agent, self._on_utterance = agent, on_utterance
        self.identity, self.reproducible, self.width = agent.identity, agent.reproducible, agent.width
        self.background = agent.background
        self.ask, self.release, self.close = agent.ask, agent.release, agent.close

    @property
    def changes(self) -> Sequence[str]:
        return self._agent.changes

    @property
    def pending(self) -> int:
        return self._agent.pending

    def step(self, *, wait: bool) -> Sequence[tuple[str, Reply]]:
        ended = self._agent.step(wait=wait)
        for _, reply in ended:
            self._on_utterance(reply.text)
        return ended
