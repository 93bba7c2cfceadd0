"""Hidden states of texts, read from a layer of a model."""

import ctypes
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.llama.context import Batch
from crslib.engines.llama.model import Model, log_lines, reason
from crslib.errors import CrsError

LONGEST_READ = 512  # tokens, prefix included; the rest of a longer text is not read


class LayerReader:
    """The hidden states of texts after one layer of a model, without the cost of the later layers.

    Layers count from 0. Each text is a decode of its own after the same `prefix`. So its states depend on the text
    alone, on one CPU model and build of llama.cpp: not on what was read before or the number of `threads`. Raises
    `CrsError` when the model has no such layer.
    """

    def __init__(self, model: Model, layer: int, prefix: str = "", *, threads: int = 2) -> None:
        n_layers = lc.llama_model_n_layer(model.handle)
        if not 0 <= layer < n_layers:
            raise CrsError(f"the model {model.path} has no layer {layer}; give one from 0 to {n_layers - 1}")
        # Imported here because the module is private to llama-cpp-python: if it moves, only this class fails.
        from llama_cpp._ggml import libggml

        self._get_name, self._get_data = libggml.ggml_get_name, libggml.ggml_get_data_f32
        for function, returns in ((self._get_name, ctypes.c_char_p), (self._get_data, ctypes.c_void_p)):
            function.argtypes, function.restype = [ctypes.c_void_p], returns
        self.model, self._wanted = model, f"l_out-{layer}".encode()  # llama.cpp's name of a layer's output
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = LONGEST_READ
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._callback = type(params.cb_eval)(self._look)  # llama.cpp keeps no reference to it
        params.cb_eval = self._callback
        log_lines.clear()
        self._context = lc.llama_init_from_model(model.handle, params)
        if not self._context:
            raise CrsError(f"llama.cpp cannot make a context of {LONGEST_READ} tokens ({reason()}); free memory")
        self._batch, self._width = Batch(LONGEST_READ), lc.llama_model_n_embd(model.handle)
        self._states = np.zeros((0, self._width), np.float32)
        self._start = 0
        self._start = len(self.states(prefix, control=True))

    def states(self, text: str, *, control: bool = False) -> np.ndarray:
        """The states of the tokens of `text`, float32 (n, n_embd); tokens beyond `LONGEST_READ` are left out."""
        ids = self.model.encode(text, control=control)[: LONGEST_READ - self._start]
        n, batch = len(ids), self._batch
        if not n:
            return np.zeros((0, self._width), np.float32)
        lc.llama_memory_seq_rm(lc.llama_get_memory(self._context), 0, self._start, -1)
        batch.token[:n], batch.pos[:n] = ids, np.arange(self._start, self._start + n)
        for index in range(n):
            batch.assign(index, 0)
        batch.handle.n_tokens = n
        if code := lc.llama_decode(self._context, batch.handle):
            raise CrsError(f"llama.cpp failed to read a text (code {code}: {reason()}); run again")
        return self._states

    def _look(self, tensor: int, ask: bool, _data: Any) -> bool:
        """llama.cpp asks of each tensor whether it is wanted, and hands over the wanted one.

        False when it is handed over ends the computation.
        """
        wanted = self._get_name(tensor) == self._wanted
        if wanted and not ask:
            shape = (self._batch.handle.n_tokens, self._width)
            data = ctypes.cast(self._get_data(tensor), ctypes.POINTER(ctypes.c_float))
            self._states = np.ctypeslib.as_array(data, shape).copy()
        return ask and wanted

    def close(self) -> None:
        """Frees the context; the model stays."""
        if self._context:
            self._batch.free()
            lc.llama_free(self._context)
            self._context = None
