"""LoRA adapters that `peft` trained on models of Hugging Face, as llama.cpp reads them.

Names and the order of rows are those of llama.cpp's own conversion: in its Llama models neighbouring numbers of a head
are rotated as a pair, so rows of queries and keys are in another order there; in its Qwen models they are not.
"""

from pathlib import Path
from typing import Any

import gguf

from crslib.engines import weights
from crslib.errors import CrsError
from crslib.training import adapter

_LLAMA = gguf.MODEL_ARCH.LLAMA
ARCHITECTURES = {"llama": _LLAMA, "mistral": _LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
"""`model_type` of a model of Hugging Face → llama.cpp's architecture, where it is known how to convert."""


def write_gguf(peft: Path, config: Any, to: Path, base: str, domain: str = "", fmt: adapter.Format = "F16") -> None:
    """Writes the adapter in folder `peft` as a LoRA GGUF, atomically.

    `config`: of the base, as `transformers` reads it; `base`: its name; `domain`: the name of what its dialogues talk
    about. Raises `CrsError` for another kind of model, and for an adapter of layers that llama.cpp does not have.
    """
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CrsError(f"adapters of {config.model_type} models are not converted; known are {known}")
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    trained = adapter.peft(peft)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    pairs = {}
    for layer, (a, b) in trained.pairs.items():
        if (name := names.get_name(layer)) is None:
            raise CrsError(f"the adapter {peft} changes {layer}, which llama.cpp does not have; train one without it")
        reordered = heads.get(name.rpartition(".")[2]) if architecture == _LLAMA else None
        pairs[name] = (a, b, reordered)
    about = {"general.name": to.stem, **weights.about(domain, ())}
    adapter.write_tensors(pairs, trained.alpha, gguf.MODEL_ARCH_NAMES[architecture], base, to, fmt, about)
