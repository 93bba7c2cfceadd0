"""The engine that a plain program would have."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp as lc

from crslib.engines.base import Completion, Request, Sampling
from crslib.engines.llama.model import AS_THEY_ARE, Model, source


class PlainEngine:
    """One role as a plain program would run it: a high-level `Llama` with its adapter, one utterance at a time.

    It keeps the tokens of one dialogue only. What `LlamaEngine` is measured against; nothing else uses it.
    """

    width = 1

    def __init__(self, model: Model, adapter: Path, sampling: Sampling, *, n_ctx: int, threads: int) -> None:
        self.model, self.sampling, self.chat_template = model, sampling, model.chat_template
        self.encode, self.decode = model.encode, model.decode
        self.identity: Mapping[str, Any] = {"engine": "plain", **source(model.path, adapter, AS_THEY_ARE)}
        together = {"n_ctx": n_ctx, "n_threads": threads, "n_threads_batch": threads}
        self._llama = lc.Llama(str(model.path), lora_path=str(adapter), verbose=False, **together)
        self._waiting: deque[Request] = deque()
        self.drawn = 0

    @property
    def pending(self) -> int:
        return len(self._waiting)

    def submit(self, request: Request) -> None:
        self._waiting.append(request)

    def step(self) -> list[tuple[str, Completion]]:
        request = self._waiting.popleft()
        s, ids, finish = self.sampling, [], "max_tokens"
        self._llama.set_seed(request.seed)
        drawn = self._llama.generate(
            list(request.prompt), temp=s.temperature, top_p=s.top_p, min_p=s.min_p, top_k=0, repeat_penalty=1.0
        )
        for token in drawn:
            self.drawn += 1
            if token in self.model.ends:
                finish = "end"
                break
            ids.append(token)
            if len(ids) >= s.max_tokens:
                break
        return [(request.key, Completion(tuple(ids), (0.0,) * len(ids), finish, 0))]

    def release(self, key: str) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        self._llama.close()
