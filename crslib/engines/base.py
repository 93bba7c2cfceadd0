"""What an engine is. It knows nothing of roles, profiles, items or chat formats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Finish = Literal["end", "max_tokens", "context_full"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Every value is set explicitly: llama.cpp's defaults are not neutral."""

    temperature: float = 0.7
    top_p: float = 0.95
    min_p: float = 0.02
    max_tokens: int = 64


class Constraint(Protocol):
    """Restricts the next token of one utterance, e.g. to a trie of titles."""

    def allowed(self, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Token ids (int32) that may follow the utterance `ids` and the log-weights (float32) added to their logits.

        None leaves the model free.
        """
        ...


@dataclass(frozen=True)
class Request:
    """One utterance to generate. `key` names the sequence whose cached prefix is reused, one per dialogue."""

    key: str
    prompt: tuple[int, ...]
    seed: int
    constraint: Constraint | None = None


@dataclass(frozen=True)
class Completion:
    """One generated utterance, the end token left out.

    `logprobs`: the model's own log-probability of each id (nats, temperature 1, before truncation and constraint).
    `n_cached`: how many tokens of the prompt were already there; the rest was fed.
    """

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    n_cached: int


class Engine(Protocol):
    """A model with its adapter and sampling; it makes `width` utterances at a time, of any number of dialogues.

    Contract: a completion depends on `identity` and on the requests so far of its own key; not on other keys, on the
    order of requests, or on the number of threads.
    """

    identity: Mapping[str, Any]
    width: int
    chat_template: tuple[str, str, str]  # Jinja source, text of the begin token, text of the end token

    def encode(self, text: str, *, control: bool = False) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; no two of them with the same key."""
        ...

    def forget(self, key: str) -> None:
        """Frees the sequence of a dialogue that has ended."""
        ...

    def close(self) -> None: ...
