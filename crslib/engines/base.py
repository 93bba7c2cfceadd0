"""What an engine is: the contract of token ids in, token ids out.

Knows nothing of roles, profiles, items or chat formats.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from crslib.errors import CrsError

Finish = Literal["end", "max_tokens", "context_full", "left"]
Scope = Literal["utterance", "turn of a script", "off"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Every value is set explicitly: llama.cpp's defaults are not neutral.

    `max_tokens`: from there on an utterance ends with its sentence (`engines.guard`). `guard`: within what nothing may
    be repeated; "off": repetitions are allowed.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    min_p: float = 0.005
    max_tokens: int = 64
    guard: Scope = "utterance"


@dataclass(frozen=True)
class Choice:
    """What a constraint leaves to be drawn: alternatives, each with one or more tokens.

        P(alternative) ∝ P_model(any of its tokens) ^ power · exp(weight)

    Among the tokens of an alternative the model chooses. `tokens` (int32), alternative by alternative; `starts`: where
    each alternative begins; `weights` (float64): one of each.
    """

    tokens: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    power: float = 1.0

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """The log-probability of each of `tokens`, up to a constant (float32), where the model gives them `logits`."""
        model = np.logaddexp.reduceat(logits.astype(np.float64), self.starts)
        sizes = np.diff(self.starts, append=len(self.tokens))
        return (logits + np.repeat((self.power - 1) * model + self.weights, sizes)).astype(np.float32)


class Constraint(Protocol):
    """Restricts the next token of one utterance, e.g. to a trie of titles."""

    never: np.ndarray
    """Token ids (int32) that may not be drawn where `allowed` returns None."""

    def allowed(self, ids: Sequence[int]) -> Choice | None:
        """What may follow the utterance `ids`, drawn at temperature 1 (or the best, at 0). None: every token but those
        of `never`, drawn as all words are.
        """
        ...

    def forced(self, ids: Sequence[int]) -> list[int]:
        """Token ids that must follow `ids` because there is no choice: they are fed without being drawn."""
        ...


@dataclass(frozen=True)
class Request:
    """One utterance to generate. `key` names the dialogue, whose cached tokens are used again.

    `n_shared`: how many leading tokens of the prompt other dialogues begin with too; they are computed once for all.
    """

    key: str
    prompt: tuple[int, ...]
    seed: int
    constraint: Constraint | None = None
    n_shared: int = 0


@dataclass(frozen=True)
class Completion:
    """One generated utterance without its end token.

    `logprobs`: the model's own log-probability of each id (nats, temperature 1, before truncation and constraint).
    `n_cached`: how many tokens of the prompt were cached from the dialogue's earlier requests; the rest is new.
    `finish`: why it ended; "max_tokens" and "context_full" cut it, but not inside a word or a title. "left" is for a
    person who leaves; a model leaves with an empty utterance and "end".
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    n_cached: int


class Engine(Protocol):
    """A model with its adapter and sampling. It generates up to `width` utterances at a time, of any number of
    dialogues.

    Contract: a completion depends on `identity` and on the requests so far with its own key; not on other keys, on the
    order or moment of requests, or on the number of threads.
    """

    identity: Mapping[str, Any]
    width: int
    chat_template: tuple[str, str, str, bool]
    """Jinja source, text of the begin token, text of the end token, whether the vocabulary wants the begin token before
    every text: the arguments of `dialogue.templates.ChatTemplate`."""

    @property
    def pieces(self) -> Sequence[bytes]:
        """The bytes of every token of the vocabulary; empty for control and end tokens."""
        ...

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...

    @property
    def pending(self) -> int:
        """How many requests have not ended: they are queued, or their utterances are being generated."""
        ...

    def submit(self, request: Request) -> None:
        """Queues a request; a key may have one at a time."""
        ...

    def step(self) -> Sequence[tuple[str, Completion]]:
        """Begins a queued utterance if there is room, else takes one step: one more token of every utterance.

        Returns (key, completion) of the utterances that have ended. Between two calls another engine may be stepped.
        """
        ...

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """log P(token | prompt, tokens before it) of every token of each continuation (nats).

        Raises `CrsError` for an engine that has no model.
        """
        ...

    def release(self, key: str) -> None:
        """Frees what is cached for a dialogue that has ended."""
        ...

    def close(self) -> None:
        """Frees what the engine holds; it cannot be used afterwards."""
        ...


class RequestQueue:
    """The queue of an engine without a model, which completes a request within one step."""

    def __init__(self) -> None:
        self._queue: deque[Request] = deque()

    @property
    def pending(self) -> int:
        return len(self._queue)

    def submit(self, request: Request) -> None:
        self._queue.append(request)

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        raise CrsError("only a model can be grounded in titles, because they are weighed by it; set grounding to off")


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """One completion per request, in order. No two requests may have the same key."""
    for request in requests:
        engine.submit(request)
    completions: dict[str, Completion] = {}
    while len(completions) < len(requests):
        completions.update(engine.step())
    return [completions[request.key] for request in requests]
