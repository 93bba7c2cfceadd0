"""An adapter as llama.cpp reads it: a GGUF file of its own, to be put beside the base it was trained on.

Knows the two ways of naming and ordering weights; nothing of training. No torch.
"""

from pathlib import Path
from typing import Literal, get_args

import gguf
import numpy as np

from crslib.errors import CrsError
from crslib.store import writing
from crslib.training.adapter import Adapter
from crslib.training.base import MODULES, Shape, permuted

Format = Literal["F16", "Q8_0"]
FORMATS: tuple[Format, ...] = get_args(Format)
_BLOCK = 32  # numbers of a row that share a scale in Q8_0


def export(
    adapter: Adapter, shape: Shape, path: Path, fmt: Format = "Q8_0", *, name: str = "", about: str = ""
) -> None:
    """Writes `adapter`, trained on a llama base of `shape`, as a LoRA GGUF, atomically.

    Rows of B are put into llama.cpp's order where it has its own (queries and keys). In `Q8_0` a matrix whose rows are
    no multiple of 32 long stays F16: B, with a usual rank. `name` and `about` (what it is, its licence) go along as
    metadata. Raises `CrsError` when the adapter does not fit the base or the file cannot be written.
    """
    if fmt not in FORMATS:
        raise CrsError(f"adapter format {fmt!r} is not known; choose {' or '.join(FORMATS)}")
    adapter.check(shape, path)
    with writing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "llama")
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", adapter.alpha)
        writer.add_name(name or path.stem)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, shape.name)
        if about:
            writer.add_description(about)
        for layer in range(shape.n_layers):
            for short, module in MODULES.items():
                a, b = adapter.pairs[f"model.layers.{layer}.{module}"]
                heads = {"attn_q": shape.n_heads, "attn_k": shape.n_kv_heads}.get(short)
                b = permuted(b, heads) if heads else b
                for half, matrix in (("lora_a", a), ("lora_b", b)):
                    kind = gguf.GGMLQuantizationType[fmt if matrix.shape[1] % _BLOCK == 0 else "F16"]
                    data = gguf.quantize(np.ascontiguousarray(matrix), kind)
                    writer.add_tensor(f"blk.{layer}.{short}.weight.{half}", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
