"""What a model makes of texts, read inside it."""

import ctypes
from typing import Any

import llama_cpp as lc
import numpy as np

from crslib.engines.llama.context import Batch
from crslib.engines.llama.model import Model, log_lines, why
from crslib.errors import CrsError

LONGEST_READ = 512  # tokens of a text whose hidden states are read


class LayerReader:
    """What a model makes of texts: the hidden states behind one of its layers, without the cost of the later ones.

    Layers count from 0. Each text is a decode of its own behind the same `prefix`, so its states depend on nothing but
    the text, on one CPU model and build of llama.cpp, whatever was read before and by however many `threads`.
    Raises `CrsError` when the model has no such layer.
    """

    def __init__(self, model: Model, layer: int, prefix: str = "", *, threads: int = 2) -> None:
        if not 0 <= layer < lc.llama_model_n_layer(model.handle):
            raise CrsError(f"the model {model.path} has no layer {layer}; give one of its own")
        # Here, since llama-cpp-python calls the module its own: should it move, nothing else stops.
        from llama_cpp._ggml import libggml

        self._name_of, self._numbers_of = libggml.ggml_get_name, libggml.ggml_get_data_f32
        for function, gives in ((self._name_of, ctypes.c_char_p), (self._numbers_of, ctypes.c_void_p)):
            function.argtypes, function.restype = [ctypes.c_void_p], gives
        self.model, self._wanted = model, f"l_out-{layer}".encode()  # llama.cpp's name of what a layer puts out
        params = lc.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = LONGEST_READ
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self._heard = type(params.cb_eval)(self._look)
        params.cb_eval = self._heard
        log_lines.clear()
        self._context = lc.llama_init_from_model(model.handle, params)
        if not self._context:
            raise CrsError(f"llama.cpp cannot make a context of {LONGEST_READ} tokens ({why()}); free memory")
        self._batch, self._width = Batch(LONGEST_READ), lc.llama_model_n_embd(model.handle)
        self._states = np.zeros((0, self._width), np.float32)
        self._start = 0
        self._start = len(self.states(prefix, control=True))

    def states(self, text: str, *, control: bool = False) -> np.ndarray:
        """The states of the tokens of `text`, float32 (n, n_embd); beyond `LONGEST_READ` in all it is not read."""
        ids = self.model.encode(text, control=control)[: LONGEST_READ - self._start]
        n, batch = len(ids), self._batch
        if not n:
            return np.zeros((0, self._width), np.float32)
        lc.llama_memory_seq_rm(lc.llama_get_memory(self._context), 0, self._start, -1)
        batch.token[:n], batch.pos[:n] = ids, np.arange(self._start, self._start + n)
        for index in range(n):
            batch.row(index, 0)
        batch.handle.n_tokens = n
        if code := lc.llama_decode(self._context, batch.handle):
            raise CrsError(f"llama.cpp failed to read a text (code {code}: {why()}); run again")
        return self._states

    def _look(self, tensor: int, ask: bool, _data: Any) -> bool:
        """llama.cpp asks of every tensor whether it is wanted, then shows it; False then ends the computation."""
        wanted = self._name_of(tensor) == self._wanted
        if wanted and not ask:
            shape = (self._batch.handle.n_tokens, self._width)
            numbers = ctypes.cast(self._numbers_of(tensor), ctypes.POINTER(ctypes.c_float))
            self._states = np.ctypeslib.as_array(numbers, shape).copy()
        return ask and wanted

    def close(self) -> None:
        """Frees the context; the model stays."""
        if self._context:
            self._batch.free()
            lc.llama_free(self._context)
            self._context = None
