"""Resampling: an engine that draws an utterance several times and keeps one draw, by what the caller says of them.

Without a weight the first draw without a fault is kept (rejection sampling), or the last of those with the least. With
one, one of the draws with the least faults is drawn with a probability proportional to its weight (sampling importance
resampling: Rubin 1987). Where the weight is the density of people's utterances over the model's, the utterances kept
approach people's as the number of draws grows.

The contract of `base.Engine` still holds if both depend on the utterance and its own dialogue alone. Knows nothing of
what a fault is, or why an utterance has much weight.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from crslib.engines.base import Completion, Engine, Request
from crslib.identity import derive_seed

Faults = Callable[[Completion], float]
LogWeight = Callable[[Completion], float]


@dataclass
class _Attempt:
    request: Request
    faults: Faults
    log_weight: LogWeight | None
    draws: list[Completion] = field(default_factory=list)
    least: float = math.inf
    best: list[Completion] = field(default_factory=list)  # the draws with the least faults


class Resampling:
    """An engine around another, which draws each utterance up to `times` times.

    The first draw has the request's own seed, so with one draw, and where a first draw has no fault and there is no
    weight, the completion is the wrapped engine's. A further draw costs its new tokens only: the prompt is cached.
    """

    def __init__(self, engine: Engine, times: int) -> None:
        self.engine, self.times = engine, times
        self.identity: Mapping[str, Any] = {**engine.identity, "resample": times}
        self.width, self.chat_template = engine.width, engine.chat_template
        self.encode, self.decode, self.release, self.close = engine.encode, engine.decode, engine.release, engine.close
        self.score_tokens = engine.score_tokens
        self.refused = 0  # how many draws had a fault
        self._attempts: dict[str, _Attempt] = {}

    @property
    def pieces(self) -> Sequence[bytes]:
        return self.engine.pieces

    @property
    def pending(self) -> int:
        return self.engine.pending

    def submit(
        self, request: Request, faults: Faults = lambda completion: 0, log_weight: LogWeight | None = None
    ) -> None:
        """Queues a request.

        Without `log_weight` the completion is the first draw without `faults`, or the last of those with the least.
        With it, all are drawn, and the completion is one of those with the least, in proportion to exp(`log_weight`).
        """
        self._attempts[request.key] = _Attempt(request, faults, log_weight)
        self.engine.submit(request)

    def step(self) -> list[tuple[str, Completion]]:
        """As the wrapped engine's step; an utterance that is to be drawn again is queued again.

        `n_cached` is that of the first draw: what was new to the dialogue, not to the draw.
        """
        ended = []
        for key, completion in self.engine.step():
            attempt = self._attempts[key]
            attempt.draws.append(completion)
            faults = attempt.faults(completion) if self.times > 1 else 0
            self.refused += bool(faults)
            if faults < attempt.least:
                attempt.least, attempt.best = faults, []
            if faults <= attempt.least:
                attempt.best.append(completion)
            if self._is_over(attempt):
                del self._attempts[key]
                ended.append((key, replace(_chosen(attempt), n_cached=attempt.draws[0].n_cached)))
            else:
                seed = derive_seed(attempt.request.seed, "again", len(attempt.draws))
                self.engine.submit(replace(attempt.request, seed=seed))
        return ended

    def _is_over(self, attempt: _Attempt) -> bool:
        last = attempt.draws[-1].finish == "context_full" or len(attempt.draws) >= self.times
        return last or (attempt.log_weight is None and not attempt.least)


def _chosen(attempt: _Attempt) -> Completion:
    """The draw that is kept."""
    if attempt.log_weight is None or len(attempt.best) == 1:
        return attempt.best[-1]
    logs = [attempt.log_weight(completion) for completion in attempt.best]
    weights = [math.exp(one - max(logs)) for one in logs]
    return Random(derive_seed(attempt.request.seed, "choice")).choices(attempt.best, weights)[0]
