"""What an engine is. It knows nothing of roles, profiles, items or chat formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Finish = Literal["end", "max_tokens", "context_full", "left"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Every value is set explicitly: llama.cpp's defaults are not neutral."""

    temperature: float = 0.7
    top_p: float = 0.95
    min_p: float = 0.02
    max_tokens: int = 64


class Constraint(Protocol):
    """Restricts the next token of one utterance, e.g. to a trie of titles."""

    never: np.ndarray
    """Token ids (int32) that may not be drawn where `allowed` leaves the model free."""

    def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Token ids (int32) that may follow the utterance `ids` and the log-weights (float32) added to their logits.

        None leaves the model free.
        """
        ...

    def forced(self, ids: Sequence[int]) -> list[int]:
        """Token ids that must follow `ids`, where there is no choice: they are fed without being drawn."""
        ...

    def open(self, ids: Sequence[int]) -> bool:
        """Whether `ids` ends inside something that should be finished even beyond the longest utterance."""
        ...


@dataclass(frozen=True)
class Request:
    """One utterance to generate. `key` names the sequence whose cached prefix is reused, one per dialogue.

    `n_shared`: so many leading tokens of the prompt begin other dialogues too; they are computed once for all.
    """

    key: str
    prompt: tuple[int, ...]
    seed: int
    constraint: Constraint | None = None
    n_shared: int = 0


@dataclass(frozen=True)
class Completion:
    """One generated utterance, the end token left out.

    `logprobs`: the model's own log-probability of each id (nats, temperature 1, before truncation and constraint).
    `n_cached`: how many tokens of the prompt were there from the dialogue's earlier requests; the rest is new to it.
    Only a person leaves ("left"); a model that has no more to say ends at once.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    n_cached: int


class Engine(Protocol):
    """A model with its adapter and sampling; it makes `width` utterances at a time, of any number of dialogues.

    Contract: a completion depends on `identity` and on the requests so far of its own key; not on other keys, on the
    order or moment of requests, or on the number of threads.
    """

    identity: Mapping[str, Any]
    width: int
    chat_template: tuple[str, str, str]  # Jinja source, text of the begin token, text of the end token
    pieces: Sequence[bytes]  # of every token of the vocabulary; empty for control and end tokens

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    @property
    def pending(self) -> int:
        """How many requests have not ended: they wait, or their utterances are in the making."""
        ...

    def submit(self, request: Request) -> None:
        """Puts a request in line; a key has one at a time."""
        ...

    def step(self) -> list[tuple[str, Completion]]:
        """Begins an utterance that waits, if a row is free; else takes one step: one more token of every utterance.

        Returns (key, completion) of those that have ended by it; another engine may go on between any two calls.
        """
        ...

    def release(self, key: str) -> None:
        """Frees the sequence of a dialogue that has ended."""
        ...

    def close(self) -> None: ...


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """One completion per request, in order; no two of them with the same key."""
    for request in requests:
        engine.submit(request)
    done: dict[str, Completion] = {}
    while len(done) < len(requests):
        done.update(engine.step())
    return [done[request.key] for request in requests]
