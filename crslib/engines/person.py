"""A person at the keyboard as an engine, and an engine that is overheard: so a simulation can have a person in it.

Knows nothing of roles, screens and items: two functions ask and tell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.engines.base import Completion, Engine, Request


class Person:
    """An engine whose utterances a person types, in the tokens of the engine `beside` it; one at a time.

    `ask` gives what the person says next, or None when they go. It is asked when the simulation waits for them.
    """

    width = 1

    def __init__(self, beside: Engine, ask: Callable[[], str | None]) -> None:
        self.identity: Mapping[str, Any] = {"engine": "person"}
        self.chat_template, self.pieces = beside.chat_template, beside.pieces
        self.encode, self.decode = beside.encode, beside.decode
        self._ask = ask
        self._waiting: list[Request] = []
        self._read: dict[str, int] = {}

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[tuple[str, Completion]]:
        """Waits for the person. `n_cached` is what they had read when they spoke last."""
        if not self._waiting:
            return []
        request = self._waiting.pop(0)
        n_read, self._read[request.key] = self._read.get(request.key, 0), len(request.prompt)
        text = self._ask()
        ids = () if text is None else tuple(self.encode(text))
        return [(request.key, Completion(ids, (), "left" if text is None else "end", n_read))]

    def release(self, key: str) -> None:
        self._read.pop(key, None)

    def close(self) -> None:
        self._waiting.clear()


class Overheard:
    """An engine around another that tells each utterance, as text, when it ends."""

    def __init__(self, engine: Engine, tell: Callable[[str], None]) -> None:
        self._engine, self._tell = engine, tell
        self.identity, self.width = engine.identity, engine.width
        self.chat_template, self.pieces = engine.chat_template, engine.pieces
        self.encode, self.decode = engine.encode, engine.decode
        self.submit, self.release, self.close = engine.submit, engine.release, engine.close

    @property
    def pending(self) -> int:
        return self._engine.pending

    def step(self) -> Sequence[tuple[str, Completion]]:
        ended = self._engine.step()
        for _, completion in ended:
            self._tell(self.decode(completion.ids))
        return ended
