"""A person at the keyboard as an engine, and an engine that reports its utterances: a simulation with a person in it.

Knows nothing of roles, screens and items: one function asks the person, another receives the model's utterances.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.engines.base import Completion, Engine, RequestQueue


class Person(RequestQueue):
    """An engine whose utterances a person types, one at a time.

    The person's text is encoded with the tokens of `partner`, the engine of the other role. `ask` returns what the
    person says next, or None when they leave; it is called when the simulation waits for them.
    """

    width = 1

    def __init__(self, partner: Engine, ask: Callable[[], str | None]) -> None:
        super().__init__()
        self.identity: Mapping[str, Any] = {"engine": "person"}
        self.chat_template, self.pieces = partner.chat_template, partner.pieces
        self.encode, self.decode = partner.encode, partner.decode
        self._ask = ask
        self._read: dict[str, int] = {}  # tokens that the person has read, by key

    def step(self) -> list[tuple[str, Completion]]:
        """Waits for the person. `n_cached`: how many tokens they had read when they last wrote."""
        if not self._queue:
            return []
        request = self._queue.popleft()
        n_read, self._read[request.key] = self._read.get(request.key, 0), len(request.prompt)
        text = self._ask()
        ids = () if text is None else tuple(self.encode(text))
        return [(request.key, Completion(ids, (), "left" if text is None else "end", n_read))]

    def release(self, key: str) -> None:
        self._read.pop(key, None)

    def close(self) -> None:
        self._queue.clear()


class Observed:
    """An engine around another that passes the text of each utterance to `on_utterance` when it ends."""

    def __init__(self, engine: Engine, on_utterance: Callable[[str], None]) -> None:
        self._engine, self._on_utterance = engine, on_utterance
        self.identity, self.width = engine.identity, engine.width
        self.chat_template, self.pieces = engine.chat_template, engine.pieces
        self.encode, self.decode = engine.encode, engine.decode
        self.submit, self.release, self.close = engine.submit, engine.release, engine.close
        self.score_tokens = engine.score_tokens

    @property
    def pending(self) -> int:
        return self._engine.pending

    def step(self) -> Sequence[tuple[str, Completion]]:
        ended = self._engine.step()
        for _, completion in ended:
            self._on_utterance(self.decode(completion.ids))
        return ended
