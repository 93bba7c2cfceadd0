"""An adapter as llama.cpp reads it, written and read: a GGUF file of its own, beside the base it was trained on.

Knows the two ways of naming and ordering weights; nothing of training. No torch.
"""

from pathlib import Path
from typing import Literal, get_args

import gguf
import numpy as np

from crslib.errors import CrsError
from crslib.store import writing
from crslib.training.adapter import Adapter
from crslib.training.base import MODULES, Shape, permuted, unpermuted

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
                heads = _heads(shape, short)
                b = permuted(b, heads) if heads else b
                for half, matrix in (("lora_a", a), ("lora_b", b)):
                    kind = gguf.GGMLQuantizationType[fmt if matrix.shape[1] % _BLOCK == 0 else "F16"]
                    data = gguf.quantize(np.ascontiguousarray(matrix), kind)
                    writer.add_tensor(f"blk.{layer}.{short}.weight.{half}", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def imported(path: Path, shape: Shape) -> Adapter:
    """The adapter in a LoRA GGUF for a llama base of `shape`, as `export` wrote it; a Q8_0 half comes back rounded.

    Raises `CrsError` for a file that is missing, damaged, no adapter, or for another base.
    """
    try:
        reader = gguf.GGUFReader(path)
        alpha = float(reader.fields["adapter.lora.alpha"].contents())
        found = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        pairs = {}
        for layer in range(shape.n_layers):
            for short, module in MODULES.items():
                a, b = (found.pop(f"blk.{layer}.{short}.weight.lora_{half}").astype(np.float32) for half in "ab")
                heads = _heads(shape, short)
                pairs[f"model.layers.{layer}.{module}"] = (a, unpermuted(b, heads) if heads else b)
    except OSError as error:
        raise CrsError(f"cannot read the adapter {path}: {error.strerror}; give a PEFT folder or a GGUF") from None
    except (ValueError, IndexError, KeyError) as error:
        told = str(error).splitlines()[0]
        raise CrsError(f"{path} is no LoRA for {shape.name} ({told}); use an adapter trained on it") from None
    if found:
        raise CrsError(f"the adapter {path} does not fit {shape.name} (at {min(found)}); use one trained on it")
    adapter = Adapter(next(iter(pairs.values()))[0].shape[0], alpha, pairs)
    adapter.check(shape, path)
    return adapter


def _heads(shape: Shape, short: str) -> int | None:
    """Of a matrix whose rows llama.cpp orders in its own way."""
    return {"attn_q": shape.n_heads, "attn_k": shape.n_kv_heads}.get(short)
