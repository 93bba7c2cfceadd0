"""An engine without a model: a Python function writes the utterances, and every character is a token."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.engines.base import Completion, Request, RequestQueue

CONTROL = 1 << 21  # added to the code point of template text: control text and plain text never share an id


class ScriptedEngine(RequestQueue):
    """Replies are `reply(prompt_text, seed)`; an empty reply is an empty utterance."""

    def __init__(self, reply: Callable[[str, int], str], width: int = 4, n_ctx: int = 100_000, name: str = "") -> None:
        super().__init__()
        self.reply, self.width, self.n_ctx = reply, width, n_ctx
        self.identity: Mapping[str, Any] = {"engine": "scripted", "name": name, "width": width}
        self.chat_template = ("", "", "", False)  # the default ChatML
        self.pieces: list[bytes] = []  # it draws no tokens, so it needs none for constraints
        self.prompts: list[tuple[str, str]] = []  # (key, whole prompt text) of every request, for assertions
        self.alive: dict[str, tuple[int, ...]] = {}  # tokens of each dialogue that was not released yet

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return [ord(character) | (CONTROL if control else 0) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(token & ~CONTROL) for token in ids)

    def step(self) -> list[tuple[str, Completion]]:
        """Completes up to `width` requests, the newest first: a caller must not rely on their order."""
        taken = [self._queue.pop() for _ in range(min(self.width, len(self._queue)))]
        return [(request.key, self._complete(request)) for request in taken]

    def _complete(self, request: Request) -> Completion:
        prompt = self.decode(request.prompt)
        self.prompts.append((request.key, prompt))
        cached = self.alive.get(request.key, ())
        n_cached = len(cached) if request.prompt[: len(cached)] == cached else 0
        if len(request.prompt) >= self.n_ctx:
            return Completion((), (), "context_full", n_cached)
        ids = tuple(self.encode(self.reply(prompt, request.seed)))
        self.alive[request.key] = request.prompt + ids
        return Completion(ids, (0.0,) * len(ids), "end", n_cached)

    def release(self, key: str) -> None:
        self.alive.pop(key, None)

    def close(self) -> None:
        self.alive.clear()
