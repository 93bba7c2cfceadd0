"""A llama.cpp context: rows of KV cells that are filled, copied to memory and restored."""

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.llama.model import Model, Parking, log_lines, reason
from crslib.errors import CrsError

PREFILL = 128  # tokens per prefill decode; longer prompts are fed in pieces (llama.cpp reserves memory for them)
_HEADER, _COUNT = 8, 4  # bytes in a copy of KV cells: of its header, and of a count
_MOST_CELLS = 2**31 - 1  # llama.cpp counts cells in 32 bits
_TRIED = 16  # tokens of the trial of parking
_LONG = 300  # tokens before those of the trial of heights: behind 256 llama.cpp computes in another way


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


def step_batch(rows: int) -> Batch:
    """A batch with a token, and its logits, for each of `rows` rows."""
    batch = Batch(rows)
    batch.logits[:] = 1
    for row in range(rows):
        batch.assign(row, row)
    batch.handle.n_tokens = rows
    return batch


@dataclass
class KVSnapshot:
    """A dialogue parked in memory: the tokens that its KV cells hold, and a copy of the cells or of the whole state."""

    tokens: list[int] = field(default_factory=list)
    cells: np.ndarray | None = None
    header: np.ndarray | None = None  # what llama.cpp writes before the cells


class Context:
    """A llama.cpp context with `rows` sequences of up to `n_ctx` tokens, and the operations on their KV cells.

    `parking`: what can be done with the cells of this model (see `Parking`). Raises `CrsError` when memory does not
    suffice, the model generates no text or the adapter does not fit it.
    """

    def __init__(self, model: Model, adapter: Path | None, n_ctx: int, rows: int, threads: int) -> None:
        self._rows, self._threads, self._n_vocab = rows, threads, model.n_vocab
        _check_size(model, n_ctx, rows)
        params = lc.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = n_ctx * rows, rows, False
        params.n_batch = params.n_ubatch = max(PREFILL, rows)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
        )  # keeps V untransposed: cells are copied as plain rows
        params.swa_full = True  # a sliding window's cells are kept, so that a row can go back
        log_lines.clear()
        self.handle = lc.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise CrsError(f"llama.cpp cannot make a context of {rows} × {n_ctx} tokens ({reason()}); {_remedy()}")
        self.n_ctx = min(n_ctx, lc.llama_n_ctx_seq(self.handle))
        self._adapter = self._load_adapter(model, adapter) if adapter else None
        self.memory = lc.llama_get_memory(self.handle)
        if not self.memory:
            raise CrsError(f"the model {model.path} reads texts but writes none; use a GGUF of a chat model")
        self.batch = Batch(PREFILL)
        self._held = [0] * rows  # tokens in each row, as far as `prefill`, `read`, `read_rows` and `restore` made it
        if model.parking is None and rows > 1:
            model.parking = self._try_parking(model)
        self.parking = model.parking or Parking("none", 0)

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
            raise CrsError(f"llama.cpp failed to decode (code {code}: {reason()}); {_remedy(code)}")
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

    def read_rows(self, texts: Sequence[Sequence[int]], prompt: Sequence[int]) -> list[np.ndarray]:
        """Feeds row i with `texts[i]` after `prompt`, which it holds already, all in one batch of up to `PREFILL`.

        Returns the logits after each token of each text, (len(text), n_vocab), valid until the next batch.
        """
        batch, n, start = self.batch, 0, len(prompt)
        for row, text in enumerate(texts):
            if (kept := self.rewind(row, start)) < start:
                self.prefill(row, prompt, kept)
            self._held[row] = start + len(text)
        for row, text in enumerate(texts):
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
        self._held[slot] = begin + n

    def logits(self, n: int) -> np.ndarray:
        """The first `n` rows of logits of the last batch, (n, n_vocab); valid until the next one."""
        return np.ctypeslib.as_array(lc.llama_get_logits(self.handle), (n, self._n_vocab))

    def drop(self, slot: int, start: int = -1) -> None:
        """Empties a row, or removes its tokens from `start` on."""
        lc.llama_memory_seq_rm(self.memory, slot, start, -1)

    def rewind(self, slot: int, n: int) -> int:
        """Leaves the first `n` tokens of a row that has been read into, or none if it cannot go back.

        Returns how many are left.
        """
        n = n if self.parking.goes_back(self._held[slot], n) else 0
        self.drop(slot, n)
        self._held[slot] = n
        return n

    def restore(self, slot: int, snapshot: KVSnapshot, n: int) -> int:
        """Replaces the content of a row by the first `n` tokens of a snapshot, or by nothing where that is impossible.

        Returns how many tokens the row holds, `n` or 0. Raises `CrsError` when llama.cpp refuses.
        """
        self.drop(slot)
        self._held[slot] = 0
        if snapshot.cells is None or not n or not self.parking.goes_back(len(snapshot.tokens), n):
            return 0
        state = snapshot.cells
        if snapshot.header is not None:
            n_rows = np.array([self._rows], np.uint32).view(np.uint8)
            others = np.zeros(_COUNT * (self._rows - 1), np.uint8)
            state = np.concatenate([snapshot.header, n_rows, snapshot.cells, others])
        log_lines.clear()
        data = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if not lc.llama_state_seq_set_data(self.handle, data, state.size, slot):
            raise CrsError(f"llama.cpp could not restore the KV cells of a dialogue ({reason()}); {_remedy()}")
        if n < len(snapshot.tokens):
            self.drop(slot, n)
        self._held[slot] = n
        return n

    def snapshot(self, slot: int, tokens: list[int]) -> KVSnapshot:
        """A copy of the cells of a row, which hold `tokens`.

        llama.cpp writes a header, the number of rows, then for every row the number of its cells and the cells. The
        counts of the other rows, which are 0, are left out, so that a context with another number of rows can restore
        the copy. That is so with one cache of cells; a state of another kind is kept as it is.
        """
        if self.parking.kind == "none":
            return KVSnapshot(tokens)
        size = lc.llama_state_seq_get_size(self.handle, slot)
        state = np.empty(size, np.uint8)
        lc.llama_state_seq_get_data(self.handle, state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)), size, slot)
        if self.parking.kind == "state":
            return KVSnapshot(tokens, state)
        cells = state[_HEADER + _COUNT * (1 + slot) : size - _COUNT * (self._rows - 1 - slot)]
        return KVSnapshot(tokens, cells, state[:_HEADER])

    def heights(self) -> list[int]:
        """How many rows, from the first on, a step can compute: numbers that give each row the same bits, ascending.

        The last is all of them. Bits depend on the way in which sums are taken, which is a matter of shapes, so that
        powers of two are tried: alone, and behind `_LONG` tokens. Leaves all rows empty.
        """
        lower = [2**power for power in range(1, (self._rows - 1).bit_length())]
        if not lower or self.parking.kind != "cells":
            return [self._rows]
        tokens = [(7 * place + 1) % self._n_vocab for place in range(min(_LONG, self.n_ctx - 2))]
        self.prefill(0, tokens, 0)
        cells, batch, same = self.snapshot(0, tokens), step_batch(self._rows), set(lower)
        batch.token[:] = np.arange(self._rows) % self._n_vocab
        for n in (0, len(tokens)):
            for row in range(self._rows):
                self.restore(row, cells, n)
            batch.pos[:], wanted = n, np.empty(0)
            for height in (self._rows, *lower):
                for row in range(height):
                    self.drop(row, n)
                batch.handle.n_tokens = height
                self.decode(batch)
                if height == self._rows:
                    wanted = self.logits(height).copy()
                elif not np.array_equal(self.logits(height), wanted[:height]):
                    same.discard(height)
        batch.free()
        for row in range(self._rows):
            self.rewind(row, 0)
        return [*sorted(same), self._rows]

    def _try_parking(self, model: Model) -> Parking:
        """The best way of parking that works with this model: tokens after a restored copy get the same logits.

        Raises `CrsError` when the logits are not numbers.
        """
        tokens = [(7 * place + 1) % self._n_vocab for place in range(_TRIED)]
        one_cache = lc.llama_state_seq_get_size(self.handle, 0) == _HEADER + _COUNT * (1 + self._rows)
        window = 0 if model.recurrent else lc.llama_model_n_swa(model.handle)
        ways = [Parking("state", window), Parking("state", 0), Parking("none", 0)]
        for way in [Parking("cells", math.inf), *ways] if one_cache and not model.recurrent else ways:
            self.parking = way
            try:
                if self._parks(tokens, model):
                    break
            except CrsError:
                if way.kind == "none":
                    raise
            finally:
                self.drop(0)
                self.drop(1)
        self._held = [0] * self._rows
        return self.parking

    def _parks(self, tokens: list[int], model: Model) -> bool:
        """Whether `parking` does what it says."""
        begun = len(tokens) - 2
        self.drop(0)
        self.prefill(0, tokens[:begun], 0)
        early = self.snapshot(0, tokens[:begun])
        self.prefill(0, tokens, begun)
        wanted = self.logits(1)[0].copy()
        check_logits(wanted, model)
        late = self.snapshot(0, tokens)
        for snapshot in (early, late):
            kept = self.restore(1, snapshot, begun)
            if kept == begun:
                self.prefill(1, tokens, kept)
                if not np.allclose(self.logits(1)[0], wanted, rtol=0, atol=0.01 * np.abs(wanted).max()):
                    return False
            elif self.parking.goes_back(len(snapshot.tokens), begun) and self.parking.kind != "none":
                return False
        return True

    def close(self) -> None:
        self.batch.free()
        lc.llama_free(self.handle)
        if self._adapter:
            lc.llama_adapter_lora_free(self._adapter)


def check_logits(logits: np.ndarray | float, model: Model) -> None:
    """Raises `CrsError` for logits that are no numbers (NaN, or too large for one)."""
    if not np.all(logits < np.inf):  # NaN is not less either
        raise CrsError(
            f"the model {model.path} computes no numbers (NaN): its weights or its adapter are damaged; use other files"
        )


def _check_size(model: Model, n_ctx: int, rows: int) -> None:
    """Raises `CrsError` for a context that llama.cpp cannot count or this machine cannot hold."""
    sizes = f"n_ctx = {n_ctx} with {rows} dialogues at a time"
    if n_ctx * rows > _MOST_CELLS:
        raise CrsError(f"{sizes} is more than llama.cpp can count ({_MOST_CELLS} tokens); lower n_ctx")
    with contextlib.suppress(AttributeError, ValueError):  # not every system tells its memory
        needed, there = n_ctx * rows * model.cell_bytes, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > there and not model.n_gpu_layers:
            raise CrsError(
                f"{sizes} needs about {needed / 2**30:.0f} GB of memory for KV cells and this machine has "
                f"{there / 2**30:.0f}; lower width or n_ctx"
            )


def _remedy(code: int = 0) -> str:
    """What helps against a failure of llama.cpp, by its code and what it logged."""
    out_of_memory = code == -2 or any(word in line.lower() for line in log_lines for word in ("alloc", "memory"))
    return "lower width or n_ctx" if out_of_memory else "use another GGUF, or report it with this sentence"


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
