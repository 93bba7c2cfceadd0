"""What `LlamaEngine` is measured against: the high-level `Llama`, used as a plain program would use it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import llama_cpp as lc

from crslib.engines.base import Completion, Finish, RequestQueue, Sampling
from crslib.engines.llama.model import AS_THEY_ARE, Model, model_params, source


def high_level(path: Path, **options: Any) -> lc.Llama:
    """The high-level `Llama` of a GGUF file with `model_params`, which it has no option for."""
    with patch.object(lc.llama_cpp, "llama_model_default_params", model_params):
        return lc.Llama(str(path), verbose=False, **options)


class PlainEngine(RequestQueue):
    """One role as a plain program would run it: a high-level `Llama` with its adapter, one utterance at a time.

    It caches the tokens of the last dialogue only, ignores constraints and records no log-probabilities (all 0).
    """

    width = 1

    def __init__(self, model: Model, adapter: Path | None, sampling: Sampling, *, n_ctx: int, threads: int) -> None:
        super().__init__()
        self.model, self.sampling, self.chat_template = model, sampling, model.chat_template
        self.encode, self.decode = model.encode, model.decode
        self.identity: Mapping[str, Any] = {"engine": "plain", **source(model.path, adapter, AS_THEY_ARE)}
        options = {"n_ctx": n_ctx, "n_threads": threads, "n_threads_batch": threads}
        self._llama = high_level(model.path, lora_path=str(adapter) if adapter else None, **options)

    @property
    def pieces(self) -> list[bytes]:
        return self.model.pieces

    def step(self) -> list[tuple[str, Completion]]:
        request, s = self._queue.popleft(), self.sampling
        ids: list[int] = []
        finish: Finish = "max_tokens"
        self._llama.set_seed(request.seed)
        tokens = self._llama.generate(
            list(request.prompt), temp=s.temperature, top_p=s.top_p, min_p=s.min_p, top_k=0, repeat_penalty=1.0
        )
        for token in tokens:
            if token in self.model.ends:
                finish = "end"
                break
            ids.append(token)
            if len(ids) >= s.max_tokens:
                break
        return [(request.key, Completion(tuple(ids), (0.0,) * len(ids), finish, 0))]

    def release(self, key: str) -> None:
        """Does nothing: there is no cache per dialogue."""

    def close(self) -> None:
        self._llama.close()
