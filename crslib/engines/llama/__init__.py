"""llama.cpp through its low-level API: one context per role, many dialogues per decode.

A context has `width` rows, each with its own KV stream. An utterance occupies a row only while it is being made: the
dialogue's KV cells are restored into the row, the other party's new words are fed, tokens are drawn until the
utterance ends, and the cells are parked in memory again, so the row is free for the next dialogue at once. Between any
two steps another engine may go on, so that the one with more to do works and no row idles. Beside the thread that takes
the steps, that of a `Feeder` feeds words, in a context of its own.

The text of a dialogue does not depend on its neighbours because every decode has the same shape: one sequence per
prefill, always `width` rows per step (idle rows hold a dummy token), `kv_unified=False` (DESIGN §6). This holds on one
CPU model and build of llama.cpp; another CPU or a GPU gives other roundings and so, now and then, another word.

The only package that imports llama_cpp. It knows token ids, not what they mean.
"""

import os

# OpenMP threads that spin long at every barrier are slowed down up to tenfold by any other busy process; with short
# spins they lose nothing when alone. libgomp reads this once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from crslib.engines.llama.context import Work
from crslib.engines.llama.engine import Feeder, LlamaEngine, all_logits, log_softmax
from crslib.engines.llama.layers import LayerReader
from crslib.engines.llama.model import AS_THEY_ARE, BUILT_IN, Model, adapter_path, identity, model_path, source
from crslib.engines.llama.plain import PlainEngine

__all__ = [
    "AS_THEY_ARE",
    "BUILT_IN",
    "Feeder",
    "LayerReader",
    "LlamaEngine",
    "Model",
    "PlainEngine",
    "Work",
    "adapter_path",
    "all_logits",
    "identity",
    "log_softmax",
    "model_path",
    "source",
]
