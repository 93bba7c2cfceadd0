"""Reject and resample: an engine that draws an utterance again, a few times, while the caller refuses it.

The text stays what the contract of `base.Engine` says it depends on, as long as what is accepted does. Knows nothing
of why an utterance is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crslib.engines.base import Completion, Engine, Request
from crslib.identity import derive_seed

Accept = Callable[[Completion], bool]


@dataclass
class _Asked:
    request: Request
    accept: Accept
    draws: int = 0
    n_cached: int = 0


class Resampling:
    """An engine around another: up to `times` draws of each utterance, of which the first accepted one counts.

    Where all are refused, the last one does. The first draw has the request's own seed, so what is accepted at once is
    what the other engine says by itself. A further draw costs its own tokens: the prompt is in the cache.
    """

    def __init__(self, engine: Engine, times: int) -> None:
        self.engine, self.times = engine, times
        self.identity: Mapping[str, Any] = {**engine.identity, "resample": times}
        self.width, self.chat_template = engine.width, engine.chat_template
        self.encode, self.decode, self.release, self.close = engine.encode, engine.decode, engine.release, engine.close
        self.refused = 0  # draws that were made again
        self._asked: dict[str, _Asked] = {}

    @property
    def pieces(self) -> Sequence[bytes]:
        return self.engine.pieces

    @property
    def pending(self) -> int:
        return self.engine.pending

    def submit(self, request: Request, accept: Accept = lambda completion: True) -> None:
        """Puts a request in line. `accept` is asked of every draw but the last, which is not refused."""
        self._asked[request.key] = _Asked(request, accept)
        self.engine.submit(request)

    def step(self) -> list[tuple[str, Completion]]:
        """As the other engine; utterances that are refused go back in line.

        `n_cached` counts from before the first draw: what was new to the dialogue then, not to the draw.
        """
        ended = []
        for key, completion in self.engine.step():
            asked = self._asked[key]
            asked.n_cached = asked.n_cached if asked.draws else completion.n_cached
            asked.draws += 1
            last = completion.finish == "context_full" or asked.draws >= self.times
            if last or asked.accept(completion):
                del self._asked[key]
                ended.append((key, replace(completion, n_cached=asked.n_cached)))
            else:
                self.refused += 1
                self.engine.submit(replace(asked.request, seed=derive_seed(asked.request.seed, "again", asked.draws)))
        return ended
