"""A llama.cpp context: rows of KV cells that are filled, copied out and put back."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.llama.model import Model, log_lines, why
from crslib.errors import CrsError

_PREFILL = 128  # tokens per prefill decode; longer prompts are fed in pieces (llama.cpp reserves memory for them)
_HEAD, _COUNT = 8, 4  # bytes in a copy of KV cells: what it begins with, and a count


class Batch:
    """A `llama_batch` whose token and position columns are NumPy views, so that they are filled at once."""

    def __init__(self, size: int) -> None:
        self.handle = lc.llama_batch_init(size, 0, 1)
        self.token, self.pos = (
            np.ctypeslib.as_array(column, (size,)) for column in (self.handle.token, self.handle.pos)
        )
        self._n_seq_id = np.ctypeslib.as_array(self.handle.n_seq_id, (size,))
        self._n_seq_id[:] = 1
        self.logits = np.ctypeslib.as_array(self.handle.logits, (size,))
        self.logits[:] = 0

    def row(self, index: int, slot: int) -> None:
        """Says that batch entry `index` belongs to row `slot`."""
        self.handle.seq_id[index][0] = slot

    def free(self) -> None:
        lc.llama_batch_free(self.handle)


@dataclass
class Parked:
    """A dialogue between its utterances: the tokens in its KV cells, and the cells."""

    tokens: list[int] = field(default_factory=list)
    cells: np.ndarray | None = None
    head: np.ndarray | None = None  # what llama.cpp writes before them


@dataclass
class Work:
    """What one thread of an engine has done so far: seconds per phase, and what was computed."""

    prefill: float = 0.0  # inside llama.cpp
    decode: float = 0.0  # inside llama.cpp
    sampling: float = 0.0  # log-probabilities, constraints, drawing
    parking: float = 0.0  # copying KV cells
    waiting: float = 0.0  # for the feeder
    steps: int = 0
    drawn: int = 0  # tokens, ends of utterances included
    fed: list[tuple[int, int]] = field(default_factory=list)  # (tokens before, tokens fed) of every prefill


class Context:
    """A llama.cpp context of `rows` sequences of up to `n_ctx` tokens, and what is done with their KV cells."""

    def __init__(self, model: Model, adapter: Path | None, n_ctx: int, rows: int, threads: int) -> None:
        self.work, self._rows, self._threads, self._n_vocab = Work(), rows, threads, model.n_vocab
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * rows, rows, False
        params.n_batch = params.n_ubatch = max(_PREFILL, rows)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED  # keeps V untransposed: cells park as plain rows
        log_lines.clear()
        self.handle = lc.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise CrsError(
                f"llama.cpp cannot make a context of {rows} × {n_ctx} tokens ({why()}); lower width or n_ctx"
            )
        self.n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self.handle))
        self._adapter = self._load_adapter(model, adapter) if adapter else None
        self.memory = lc.llama_get_memory(self.handle)
        self.batch = Batch(_PREFILL)

    def _load_adapter(self, model: Model, path: Path) -> Any:
        log_lines.clear()
        adapter = lc.llama_adapter_lora_init(model.handle, str(path).encode())
        if not adapter:
            raise CrsError(
                f"the adapter {path} does not fit the model {model.path} ({why()}); use the adapter trained on it"
            )
        adapters, scales = (type(adapter) * 1)(adapter), (ctypes.c_float * 1)(1.0)
        lc.llama_set_adapters_lora(self.handle, adapters, 1, scales)
        return adapter

    def use(self, threads: int) -> None:
        """Computes with so many threads from now on; that changes no bit of what is computed."""
        if threads != self._threads:
            lc.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def decode(self, batch: Batch) -> float:
        """Computes a batch; returns the seconds that took."""
        begun = perf_counter()
        if code := lc.llama_decode(self.handle, batch.handle):
            raise CrsError(f"llama.cpp failed to decode (code {code}: {why()}); lower width or n_ctx and run again")
        lc.llama_synchronize(self.handle)
        return perf_counter() - begun

    def prefill(self, slot: int, prompt: Sequence[int], start: int) -> None:
        """Feeds a row the tokens of `prompt` from `start` on; those before are in its cells. Never one alone."""
        for begin, piece in _pieces(prompt, start):
            self.work.prefill += self._feed(slot, begin, piece, every=False)
            self.work.fed.append((begin, len(piece)))

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds row 0 `tokens` from `start` on: the logits after each of them, (n, n_vocab)."""
        logits = []
        for begin, piece in _pieces(tokens, start):
            self._feed(0, begin, piece, every=True)
            logits.append(self.logits(len(piece)).copy())
        return np.concatenate(logits)

    def _feed(self, slot: int, begin: int, piece: Sequence[int], *, every: bool) -> float:
        """Computes a piece, with logits of `every` token or of the last; returns the seconds that took."""
        batch, n = self.batch, len(piece)
        batch.token[:n], batch.pos[:n] = piece, np.arange(begin, begin + n)
        for index in range(n):
            batch.row(index, slot)
        batch.logits[:n] = every
        batch.logits[n - 1] = 1
        batch.handle.n_tokens = n
        return self.decode(batch)

    def logits(self, n: int) -> np.ndarray:
        """The first `n` rows of logits of the last batch, (n, n_vocab); valid until the next one."""
        return np.ctypeslib.as_array(lc.llama_get_logits(self.handle), (n, self._n_vocab))

    def drop(self, slot: int, start: int = -1) -> None:
        """Empties a row, or from token `start` on."""
        lc.llama_memory_seq_rm(self.memory, slot, start, -1)

    def restore(self, slot: int, parked: Parked, n: int) -> None:
        """Puts the first `n` tokens of a dialogue into a row."""
        begun = perf_counter()
        self.drop(slot)
        if parked.cells is not None and n:
            others = np.zeros(_COUNT * (self._rows - 1), np.uint8)
            state = np.concatenate([parked.head, np.uint32([self._rows]).view(np.uint8), parked.cells, others])
            data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if not lc.llama_state_seq_set_data(self.handle, data, state.size, slot):
                raise CrsError("llama.cpp could not restore a dialogue; run again with a smaller width")
            self.drop(slot, n)
        self.work.parking += perf_counter() - begun

    def park(self, slot: int, tokens: list[int]) -> Parked:
        """A copy of a row's cells, which hold `tokens`.

        llama.cpp writes a head, the number of rows, then of every row the number of cells and the cells. What it says
        of rows not asked for (no cells) is left out, so that a context with another number of rows can take them.
        """
        begun = perf_counter()
        size = lc.llama_state_seq_get_size(self.handle, slot)
        state = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self.handle, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        self.work.parking += perf_counter() - begun
        cells = state[_HEAD + _COUNT * (1 + slot) : size - _COUNT * (self._rows - 1 - slot)]
        return Parked(tokens, cells, state[:_HEAD])

    def close(self) -> None:
        self.batch.free()
        lc.llama_free(self.handle)
        if self._adapter:
            lc.llama_adapter_lora_free(self._adapter)


def _pieces(tokens: Sequence[int], start: int) -> Iterator[tuple[int, Sequence[int]]]:
    """What is fed at once of `tokens`, from `start` on, with where it begins: never a single token behind others.

    Behind more than 256 tokens llama.cpp shares out what a single one attends to among its threads, and rounds by their
    number.
    """
    while start < len(tokens):
        n = min(_PREFILL, len(tokens) - start)
        n -= len(tokens) - start - n == 1
        yield start, tokens[start : start + n]
        start += n
