"""What an agent is: the view of a role in, an utterance out.

A model through llama.cpp, a server, a Python function, a person, a script or a set of rules: the loop that lets two of
them talk knows none of them. The view is the information barrier for all: an agent gets a `UserView` or a
`RecommenderView` and nothing else of a dialogue.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from crslib.dialogue.views import View

Finish = Literal["end", "max_tokens", "context_full", "left", "failed"]
Faults = Callable[[str], int]
"""How little an utterance goes with what its speaker knows; 0: nothing speaks against it."""


def faultless(text: str) -> int:
    """The check that every utterance passes."""
    return 0


@dataclass(frozen=True)
class Ask:
    """One utterance that is asked of an agent. A dialogue has one at a time.

    `view`: the role's view of the dialogue, which the agent only reads. `seed`: of all that the agent draws for it.
    `faults`: how little an utterance goes with what its speaker knows; an agent that can draws another one, and says
    the one with the least.
    """

    dialogue_id: str
    view: View
    seed: int
    faults: Faults = faultless


@dataclass(frozen=True)
class Sent:
    """What an agent gave away to write an utterance: the part that it had not sent in this dialogue before.

    `text`: all of it, for the audit of the barrier; `n_tokens`: its length where tokens are counted, else its words.
    """

    text: str
    n_tokens: int


@dataclass(frozen=True)
class Reply:
    """What an agent says.

    `text`: one line, titles in `[[…]]`; empty from a party that leaves without a word. `finish`: "end"; "left": the
    party leaves with these words; "max_tokens" and "context_full": the utterance was cut; "failed": there is none, for
    the reason `error`, and the dialogue cannot go on. `ids` and `logprobs` (nats): token by token, where there are any.
    `n_tokens`: its length in tokens, or in words. `tokens_in`, `tokens_out`: what a server counted, all draws together.
    """

    text: str
    sent: Sent
    n_tokens: int
    finish: Finish = "end"
    ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] = ()
    error: str = ""
    tokens_in: int = 0
    tokens_out: int = 0


class Agent(Protocol):
    """Speaks for one role, in many dialogues at a time.

    `identity`: what decides, with views and seeds, what it says, as JSON. `reproducible`: whether the same views and
    seeds give the same words. `width`: how many utterances it works on at a time. `background`: whether it works
    between its steps, too, so that its steps only fetch what is ready. `changes`: how it asks otherwise than its
    identity says, in sentences.
    """

    identity: Mapping[str, Any]
    reproducible: bool
    width: int
    background: bool

    @property
    def changes(self) -> Sequence[str]: ...

    @property
    def pending(self) -> int:
        """How many asked utterances have not ended."""
        ...

    def ask(self, ask: Ask) -> None:
        """Asks for an utterance; a dialogue may ask for one at a time."""
        ...

    def step(self, *, wait: bool) -> Sequence[tuple[str, Reply]]:
        """Works a little. Returns (dialogue id, utterance) of those that have ended, in any order.

        With `wait` nothing else is to be done meanwhile: an agent that works in the background may wait a moment for an
        utterance to end. Without, it returns at once.
        """
        ...

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        ...

    def close(self) -> None:
        """Frees what the agent holds; it cannot be used afterwards."""
        ...


class AskQueue(ABC):
    """The queue of an agent that answers an ask within one step."""

    identity: Mapping[str, Any]
    width = 1
    reproducible = True
    background = False
    changes: Sequence[str] = ()

    def __init__(self) -> None:
        self._queue: deque[Ask] = deque()

    @property
    def pending(self) -> int:
        return len(self._queue)

    def ask(self, ask: Ask) -> None:
        self._queue.append(ask)

    def step(self, *, wait: bool) -> list[tuple[str, Reply]]:
        """Answers one ask."""
        if not self._queue:
            return []
        ask = self._queue.popleft()
        return [(ask.dialogue_id, self.answer(ask))]

    @abstractmethod
    def answer(self, ask: Ask) -> Reply:
        """The utterance that was asked for."""

    def release(self, dialogue_id: str) -> None:  # noqa: B027  (there may be nothing to do)
        pass

    def close(self) -> None:
        self._queue.clear()


class Transcript:
    """Of each dialogue, which messages have been sent before, for agents that are sent text."""

    def __init__(self) -> None:
        self._sent: dict[str, list[tuple[str, str]]] = {}

    def add(self, dialogue_id: str, messages: Sequence[tuple[str, str]]) -> Sent:
        """What is new in `messages`, (role, text) of each: all from the first that was not sent before in its place."""
        before = self._sent.get(dialogue_id, [])
        same = 0
        while same < min(len(before), len(messages)) and before[same] == messages[same]:
            same += 1
        self._sent[dialogue_id] = list(messages)
        text = "\n".join(f"{role}: {words}" for role, words in messages[same:])
        return Sent(text, len(text.split()))

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        self._sent.pop(dialogue_id, None)
