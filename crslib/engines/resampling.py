"""Rejection sampling: an engine that draws an utterance again, up to a limit, while the caller refuses it.

The contract of `base.Engine` still holds if the decision to accept depends on the utterance and its own dialogue alone.
Knows nothing of why an utterance is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crslib.engines.base import Completion, Engine, Request
from crslib.identity import derive_seed

Accept = Callable[[Completion], bool]


@dataclass
class _Attempt:
    request: Request
    accept: Accept
    draws: int = 0
    n_cached: int = 0


class Resampling:
    """An engine around another: up to `times` draws of each utterance; the first accepted one is the completion.

    If all are refused, the last draw is the completion. The first draw has the request's own seed, so where it is
    accepted, the completion is the wrapped engine's. A further draw costs its new tokens only: the prompt is cached.
    """

    def __init__(self, engine: Engine, times: int) -> None:
        self.engine, self.times = engine, times
        self.identity: Mapping[str, Any] = {**engine.identity, "resample": times}
        self.width, self.chat_template = engine.width, engine.chat_template
        self.encode, self.decode, self.release, self.close = engine.encode, engine.decode, engine.release, engine.close
        self.refused = 0  # how many draws were refused
        self._attempts: dict[str, _Attempt] = {}

    @property
    def pieces(self) -> Sequence[bytes]:
        return self.engine.pieces

    @property
    def pending(self) -> int:
        return self.engine.pending

    def submit(self, request: Request, accept: Accept = lambda completion: True) -> None:
        """Queues a request. `accept` decides about every draw but the last, which is never refused."""
        self._attempts[request.key] = _Attempt(request, accept)
        self.engine.submit(request)

    def step(self) -> list[tuple[str, Completion]]:
        """As the wrapped engine's step; a refused utterance is queued again.

        `n_cached` is that of the first draw: what was new to the dialogue, not to the draw.
        """
        ended = []
        for key, completion in self.engine.step():
            attempt = self._attempts[key]
            attempt.n_cached = attempt.n_cached if attempt.draws else completion.n_cached
            attempt.draws += 1
            last = completion.finish == "context_full" or attempt.draws >= self.times
            if last or attempt.accept(completion):
                del self._attempts[key]
                ended.append((key, replace(completion, n_cached=attempt.n_cached)))
            else:
                self.refused += 1
                self.engine.submit(
                    replace(attempt.request, seed=derive_seed(attempt.request.seed, "again", attempt.draws))
                )
        return ended
