"""A LoRA adapter as a PEFT folder: what training starts from, keeps and hands on.

Knows PEFT's two files; nothing of models or GGUF.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import gguf
import numpy as np

from crslib.errors import CrsError
from crslib.store import writing
from crslib.training.base import MODULES, Shape, permuted, unpermuted

if TYPE_CHECKING:
    from crslib.training.model import LoraLlama

_PREFIX = "base_model.model."
_PLAIN = {"bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False, "use_rslora": False}


@dataclass(frozen=True)
class Adapter:
    """A (rank, in) and B (out, rank), float32, of each linear layer by its `transformers` name:
    W' = W + (alpha / rank) · B · A (Hu et al. 2021, eq. 3)."""

    rank: int
    alpha: float
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, model: "LoraLlama") -> "Adapter":
        """What a model has learnt so far, copied."""
        pairs = {name: (_copied(a), _copied(b)) for name, (a, b) in model.adapter().items()}
        return cls(model.rank, model.alpha, pairs)

    def check(self, shape: Shape, path: Path) -> None:
        """Raises `CrsError` unless every linear layer of a base of `shape` is adapted, and nothing else."""
        sizes = _sizes(shape)
        for name in sorted(sizes.keys() | self.pairs.keys()):
            wanted = ((self.rank, sizes[name][0]), (sizes[name][1], self.rank)) if name in sizes else None
            if wanted is None or name not in self.pairs or tuple(x.shape for x in self.pairs[name]) != wanted:
                raise CrsError(f"the adapter {path} does not fit {shape.name} (at {name}); use one trained on it")


def read(folder: Path) -> Adapter:
    """The adapter in a PEFT folder. Raises `CrsError` when it is missing, damaged or not plain LoRA."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "adapter_model.safetensors")
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except OSError as error:
        raise CrsError(f"cannot read the adapter {folder}: {error.strerror}; give a PEFT folder") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CrsError(f"the adapter {folder} is damaged ({str(error).splitlines()[0]}); make it again") from None
    odd = [name for name, plain in _PLAIN.items() if config.get(name, plain) != plain]
    odd += [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if config.get("peft_type") != "LORA" or odd:
        raise CrsError(f"the adapter {folder} is not plain LoRA ({', '.join(odd) or 'peft_type'}); train one without")
    halves: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        name, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        halves.setdefault(name, {})[half] = value.astype(np.float32)
    if any(set(pair) != {"A", "B"} for pair in halves.values()):
        raise CrsError(f"the adapter {folder} lacks a half of some layer; make it again")
    return Adapter(rank, alpha, {name: (pair["A"], pair["B"]) for name, pair in sorted(halves.items())})


def write(adapter: Adapter, folder: Path, base: str) -> None:
    """Writes a PEFT folder (float16), each file atomically. `base`: the name of the model it was trained on."""
    from safetensors.numpy import save_file

    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(name.rsplit(".", 1)[-1] for name in MODULES.values()),
    }
    tensors = {
        f"{_PREFIX}{name}.lora_{half}.weight": value.astype(np.float16)
        for name, pair in adapter.pairs.items()
        for half, value in zip("AB", pair, strict=True)
    }
    with writing(folder / "adapter_config.json") as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with writing(folder / "adapter_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def _copied(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()


def _sizes(shape: Shape) -> dict[str, tuple[int, int]]:
    """(in, out) of every linear layer."""
    heads, kv_heads = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    sizes = {
        "self_attn.q_proj": (shape.hidden, heads),
        "self_attn.k_proj": (shape.hidden, kv_heads),
        "self_attn.v_proj": (shape.hidden, kv_heads),
        "self_attn.o_proj": (heads, shape.hidden),
        "mlp.gate_proj": (shape.hidden, shape.ffn),
        "mlp.up_proj": (shape.hidden, shape.ffn),
        "mlp.down_proj": (shape.ffn, shape.hidden),
    }
    return {f"model.layers.{n}.{name}": size for n in range(shape.n_layers) for name, size in sizes.items()}


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
