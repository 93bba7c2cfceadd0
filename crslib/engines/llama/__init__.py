"""llama.cpp through its low-level API: many dialogues at a time, each with the text that it would have alone.

The high-level `Llama` of llama-cpp-python has one sequence and generates one utterance at a time. A simulation has
many dialogues, and most of the cost of a decode is reading the weights, so one decode for many dialogues costs little
more than one for a single dialogue. A `LlamaEngine` is one role: a model with its adapter and its way of sampling.

**Rows.** A llama.cpp context of the engine has `width` rows; each is a sequence with KV cells of its own. A row holds
an utterance only while it is generated. First the KV cells of the dialogue are restored into the row and the other
party's new words are fed; then tokens are drawn until the utterance ends; then the cells are copied to memory (a
`KVSnapshot`) and the row is free. A dialogue between two of its utterances is such a parked snapshot. So a few rows
serve any number of dialogues, no row waits for the longest utterance of a round, and words that were fed once are not
fed again.

**Steps.** One call of `step` begins one utterance or draws one token in every busy row. Between any two calls the
caller may step another engine. So the caller can always step the engine with more pending requests, and rows are idle
only at the end of a run.

What can be copied depends on the model, so it is tried when one is opened (`Parking`). Cells of one cache can be put
back in part. Where old cells have left a sliding window (Gemma 3), or a state cannot forget (Mamba), a dialogue goes on
from the end of its copy; a prompt that is drawn again, which must go back, is fed again. Such copies fit their own
context only, so there is no feeder. Where copies do not work, every prompt is fed from the beginning.

**Two threads.** The thread that calls `step` draws tokens. The thread of a `Feeder` feeds prompts meanwhile, in a
context with one row; the cells are then restored into a row of the engine's own context. Each thread has half of the
cores: two small computations at the same time cost less than one whose every matrix product is divided among all
cores. Where the feeder has not begun a prompt and a row is free, the stepping thread feeds it. Which of the two feeds a
prompt is a matter of timing; both give the same bits.

**The same text, to the last bit.** A completion depends on the engine's `identity` and the requests of its own
dialogue. It does not depend on the other rows, the order of requests, a restart or the number of threads. Sums of
floating-point numbers are rounded differently when a computation has another shape, so every computation has a fixed
shape:

- Rows share no KV cells (`kv_unified=False`), so a row's attention never runs over the cells of others.
- A decode feeds the prompt of one dialogue only, in pieces of a fixed size.
- A step has `width` rows, or 2, 4, 8, … where few are busy and a trial, when the engine is opened, gave the same bits
  (`Context.heights`). An idle row holds a dummy token. Where a GPU rounds by the number of rows, a step has all.
- The beginning that all dialogues share is fed once, as a prefill of its own, whichever dialogue comes first.
- No token is fed alone: after a long context llama.cpp would divide the attention of a single token among the
  threads, and the rounding would depend on their number.

This holds on one CPU model and build of llama.cpp. Another CPU or a GPU rounds differently, so now and then another
word is drawn.

**What llama.cpp asks of its callers.** Python must keep a reference to every callback. A failed assertion inside it
ends the process, so sizes are checked before. Logits are valid until the next decode. An adapter belongs to a context,
not to a sequence. The samplers' defaults are not neutral, so every value is set.

This is the only package that imports llama_cpp. It knows token ids, not what they mean.
"""

import os

# OpenMP threads that spin long at every barrier are slowed down up to tenfold by any other busy process. With short
# spins they lose nothing when alone. libgomp reads this once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from crslib.engines.llama.engine import LlamaEngine, all_logits, log_softmax
from crslib.engines.llama.feeder import Feeder
from crslib.engines.llama.layers import LayerReader
from crslib.engines.llama.model import AS_THEY_ARE, BUILT_IN, Model, adapter_path, identity, model_path, source
from crslib.engines.llama.plain import PlainEngine
from crslib.engines.llama.workload import MeasuredEngine

__all__ = [
    "AS_THEY_ARE",
    "BUILT_IN",
    "Feeder",
    "LayerReader",
    "LlamaEngine",
    "MeasuredEngine",
    "Model",
    "PlainEngine",
    "adapter_path",
    "all_logits",
    "identity",
    "log_softmax",
    "model_path",
    "source",
]
