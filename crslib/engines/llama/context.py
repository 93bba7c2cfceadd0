"""A llama.cpp context: rows of KV cells that are filled, copied to memory and restored."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.llama.model import Model, log_lines, reason
from crslib.errors import CrsError

PREFILL = 128  # tokens per prefill decode; longer prompts are fed in pieces (llama.cpp reserves memory for them)
_HEADER, _COUNT = 8, 4  # bytes in a copy of KV cells: of its header, and of a count


class Batch:
    """A `llama_batch` whose token and position columns are NumPy views, so that each is filled in one assignment."""

    def __init__(self, size: int) -> None:
        self.handle = lc.llama_batch_init(size, 0, 1)
        self.token, self.pos = (
            np.ctypeslib.as_array(column, (size,)) for column in (self.handle.token, self.handle.pos)
        )
        self._n_seq_id = np.ctypeslib.as_array(self.handle.n_seq_id, (size,))
        self._n_seq_id[:] = 1
        self.logits = np.ctypeslib.as_array(self.handle.logits, (size,))
        self.logits[:] = 0

    def assign(self, index: int, slot: int) -> None:
        """Makes batch entry `index` a token of row `slot`."""
        self.handle.seq_id[index][0] = slot

    def free(self) -> None:
        lc.llama_batch_free(self.handle)


@dataclass
class KVSnapshot:
    """A dialogue parked in memory: the tokens that its KV cells hold, and a copy of the cells."""

    tokens: list[int] = field(default_factory=list)
    cells: np.ndarray | None = None
    header: np.ndarray | None = None  # what llama.cpp writes before the cells


class Context:
    """A llama.cpp context with `rows` sequences of up to `n_ctx` tokens, and the operations on their KV cells.

    Raises `CrsError` when memory does not suffice or the adapter does not fit the model.
    """

    def __init__(self, model: Model, adapter: Path | None, n_ctx: int, rows: int, threads: int) -> None:
        self._rows, self._threads, self._n_vocab = rows, threads, model.n_vocab
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * rows, rows, False
        params.n_batch = params.n_ubatch = max(PREFILL, rows)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )  # keeps V untransposed: cells are copied as plain rows
        log_lines.clear()
        self.handle = lc.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise CrsError(
                f"llama.cpp cannot make a context of {rows} × {n_ctx} tokens ({reason()}); lower width or n_ctx"
            )
        self.n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self.handle))
        self._adapter = self._load_adapter(model, adapter) if adapter else None
        self.memory = lc.llama_get_memory(self.handle)
        self.batch = Batch(PREFILL)

    def _load_adapter(self, model: Model, path: Path) -> Any:
        log_lines.clear()
        adapter = lc.llama_adapter_lora_init(model.handle, str(path).encode())
        if not adapter:
            raise CrsError(
                f"the adapter {path} does not fit the model {model.path} ({reason()}); use the adapter trained on it"
            )
        adapters, scales = (type(adapter) * 1)(adapter), (ctypes.c_float * 1)(1.0)
        lc.llama_set_adapters_lora(self.handle, adapters, 1, scales)
        return adapter

    def use_threads(self, threads: int) -> None:
        """Computes with `threads` threads from now on. No bit of a result depends on their number."""
        if threads != self._threads:
            lc.llama_set_n_threads(self.handle, threads, threads)
            self._threads = threads

    def decode(self, batch: Batch) -> None:
        """Computes a batch. Raises `CrsError` when llama.cpp fails."""
        if code := lc.llama_decode(self.handle, batch.handle):
            raise CrsError(f"llama.cpp failed to decode (code {code}: {reason()}); lower width or n_ctx and run again")
        lc.llama_synchronize(self.handle)

    def prefill(self, slot: int, prompt: Sequence[int], start: int) -> None:
        """Feeds `prompt` into a row from token `start` on; the tokens before are in its cells already.

        At least two tokens must be new, see `_pieces`.
        """
        for begin, piece in _pieces(prompt, start):
            self._feed(slot, begin, piece, all_logits=False)

    def read(self, tokens: Sequence[int], start: int) -> np.ndarray:
        """Feeds `tokens` into row 0 from token `start` on. Returns the logits after each of them, (n, n_vocab)."""
        logits = []
        for begin, piece in _pieces(tokens, start):
            self._feed(0, begin, piece, all_logits=True)
            logits.append(self.logits(len(piece)).copy())
        return np.concatenate(logits)

    def read_rows(self, texts: Sequence[Sequence[int]], start: int) -> list[np.ndarray]:
        """Feeds row i with `texts[i]` in the place of its tokens from `start` on, all in one batch of up to `PREFILL`.

        Returns the logits after each token of each text, (len(text), n_vocab), valid until the next batch.
        """
        batch, n = self.batch, 0
        for row, text in enumerate(texts):
            self.drop(row, start)
            end = n + len(text)
            batch.token[n:end], batch.pos[n:end] = text, np.arange(start, start + len(text))
            for index in range(n, end):
                batch.assign(index, row)
            n = end
        batch.logits[:n] = 1
        batch.handle.n_tokens = n
        self.decode(batch)
        return np.split(self.logits(n), np.cumsum([len(text) for text in texts])[:-1])

    def _feed(self, slot: int, begin: int, piece: Sequence[int], *, all_logits: bool) -> None:
        """Computes a piece at positions from `begin` on, with the logits of all its tokens or of the last one."""
        batch, n = self.batch, len(piece)
        batch.token[:n], batch.pos[:n] = piece, np.arange(begin, begin + n)
        for index in range(n):
            batch.assign(index, slot)
        batch.logits[:n] = all_logits
        batch.logits[n - 1] = 1
        batch.handle.n_tokens = n
        self.decode(batch)

    def logits(self, n: int) -> np.ndarray:
        """The first `n` rows of logits of the last batch, (n, n_vocab); valid until the next one."""
        return np.ctypeslib.as_array(lc.llama_get_logits(self.handle), (n, self._n_vocab))

    def drop(self, slot: int, start: int = -1) -> None:
        """Empties a row, or removes its tokens from `start` on."""
        lc.llama_memory_seq_rm(self.memory, slot, start, -1)

    def restore(self, slot: int, snapshot: KVSnapshot, n: int) -> None:
        """Replaces the content of a row by the first `n` tokens of a snapshot. Raises `CrsError` when it cannot."""
        self.drop(slot)
        if snapshot.cells is not None and snapshot.header is not None and n:
            n_rows = np.array([self._rows], np.uint32).view(np.uint8)
            others = np.zeros(_COUNT * (self._rows - 1), np.uint8)
            state = np.concatenate([snapshot.header, n_rows, snapshot.cells, others])
            data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            if not lc.llama_state_seq_set_data(self.handle, data, state.size, slot):
                raise CrsError("llama.cpp could not restore a dialogue; run again with a smaller width")
            self.drop(slot, n)

    def snapshot(self, slot: int, tokens: list[int]) -> KVSnapshot:
        """A copy of the cells of a row, which hold `tokens`.

        llama.cpp writes a header, the number of rows, then for every row the number of its cells and the cells. The
        counts of the other rows, which are 0, are left out, so that a context with another number of rows can restore
        the copy.
        """
        size = lc.llama_state_seq_get_size(self.handle, slot)
        state = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self.handle, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        cells = state[_HEADER + _COUNT * (1 + slot) : size - _COUNT * (self._rows - 1 - slot)]
        return KVSnapshot(tokens, cells, state[:_HEADER])

    def close(self) -> None:
        self.batch.free()
        lc.llama_free(self.handle)
        if self._adapter:
            lc.llama_adapter_lora_free(self._adapter)


def _pieces(tokens: Sequence[int], start: int) -> Iterator[tuple[int, Sequence[int]]]:
    """Cuts `tokens` from `start` on into what one decode feeds, as (position, tokens). No piece is a single token.

    After more than 256 tokens llama.cpp divides the attention of a single token among its threads, and the rounding
    depends on their number.
    """
    while start < len(tokens):
        n = min(PREFILL, len(tokens) - start)
        n -= len(tokens) - start - n == 1
        yield start, tokens[start : start + n]
        start += n
