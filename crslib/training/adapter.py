"""A LoRA adapter and the two forms it is stored in: a PEFT folder (for training) and llama.cpp's GGUF (for running).

Knows the files and the shape of the base; nothing of training.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

import gguf
import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.engines import weights
from crslib.errors import CrsError
from crslib.files import writing
from crslib.schemas import OPEN
from crslib.training.base import MODULES, Shape, permuted, unpermuted

if TYPE_CHECKING:
    from crslib.training.model import LoraLlama

Format = Literal["F16", "Q8_0"]
FORMATS: tuple[Format, ...] = get_args(Format)
"""Number formats of an adapter's GGUF."""
_BLOCK = 32  # numbers of a row that share a scale in Q8_0
_PREFIX = "base_model.model."
_PLAIN_LORA = {"bias": "none", "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False, "use_rslora": False}


@with_config(OPEN)
class _Peft(TypedDict):
    """What is read of an `adapter_config.json` beside the options of `_PLAIN_LORA`."""

    r: int
    lora_alpha: float


_PEFT = TypeAdapter(_Peft)


@dataclass(frozen=True)
class Adapter:
    """`pairs`: A (rank, in) and B (out, rank), float32, of each linear layer by its `transformers` name.

    The adapted layer is W' = W + (alpha / rank) · B · A (Hu et al. 2021, eq. 3).
    """

    rank: int
    alpha: float
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def of(cls, model: "LoraLlama") -> "Adapter":
        """A copy of a model's present adapter."""
        pairs = {name: (_copy(a), _copy(b)) for name, (a, b) in model.adapter().items()}
        return cls(model.rank, model.alpha, pairs)

    def check(self, shape: Shape, path: Path) -> None:
        """Raises `CrsError` unless every linear layer of a base of `shape` is adapted, and nothing else."""
        sizes = _sizes(shape)
        for name in sorted(sizes.keys() | self.pairs.keys()):
            expected = ((self.rank, sizes[name][0]), (sizes[name][1], self.rank)) if name in sizes else None
            if expected is None or name not in self.pairs or tuple(x.shape for x in self.pairs[name]) != expected:
                raise _misfit(path, shape, name)


def read(path: Path, shape: Shape) -> Adapter:
    """The adapter of a PEFT folder or a LoRA GGUF. Raises `CrsError` when it is unfit for a base of `shape`."""
    return read_gguf(path, shape) if path.is_file() else read_peft(path, shape)


# ── PEFT ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_peft(folder: Path, shape: Shape) -> Adapter:
    """The adapter of a PEFT folder for a base of `shape`.

    Raises `CrsError` when it is missing, damaged, not plain LoRA, or for another base.
    """
    adapter = peft(folder)
    adapter.check(shape, folder)
    return adapter


def peft(folder: Path) -> Adapter:
    """The adapter of a PEFT folder, of whatever base. Raises `CrsError` when it is missing, damaged, or not plain
    LoRA."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        (folder / "adapter_config.json").stat()
        config: Any = json_files.read_as(folder / "adapter_config.json", _PEFT, "train the adapter again")
        tensors = load_file(folder / "adapter_model.safetensors")
    except OSError as error:
        raise CrsError(f"cannot read the adapter {folder}: {error.strerror}; give a PEFT folder or a GGUF") from None
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise CrsError(f"the adapter {folder} is damaged ({reason}); train it again") from None
    unsupported = [name for name, plain in _PLAIN_LORA.items() if config.get(name, plain) != plain]
    unsupported += [name for name in ("rank_pattern", "alpha_pattern") if config.get(name)]
    if config.get("peft_type") != "LORA" or unsupported:
        options = ", ".join(unsupported) or "peft_type"
        raise CrsError(f"the adapter {folder} is not plain LoRA ({options}); train one without these options")
    halves: dict[str, dict[str, np.ndarray]] = {}
    for key, value in tensors.items():
        name, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".lora_")
        halves.setdefault(name, {})[half] = value.astype(np.float32)
    if any(set(pair) != {"A", "B"} for pair in halves.values()):
        raise CrsError(f"the adapter {folder} lacks A or B of a layer; train it again")
    rank, alpha = config["r"], float(config["lora_alpha"])
    return Adapter(rank, alpha, {name: (pair["A"], pair["B"]) for name, pair in sorted(halves.items())})


def write_peft(adapter: Adapter, folder: Path, base: str, about: Mapping[str, str] = MappingProxyType({})) -> None:
    """Writes a PEFT folder (float16), each file atomically. `base`: the name of the model it was trained on. `about`:
    of `weights.about`."""
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
        save_file(tensors, temporary, metadata={"format": "pt", **about})


def parts_of(path: Path) -> frozenset[str]:
    """The optional parts of the views that an adapter was trained in, of a PEFT folder or a GGUF; see
    `weights.parts_of`. Raises `CrsError` for a file that cannot be read."""
    if path.is_file():
        return weights.parts_of(path)
    from safetensors import SafetensorError, safe_open

    file = path / "adapter_model.safetensors"
    try:
        with safe_open(file, "numpy") as opened:
            return weights.read_parts((opened.metadata() or {}).get(weights.PARTS, ""))
    except (OSError, SafetensorError) as error:
        raise CrsError(f"cannot read the adapter {file} ({error}); give a PEFT folder or a GGUF") from None


# ── GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_gguf(path: Path, shape: Shape) -> Adapter:
    """The adapter of a LoRA GGUF for a llama base of `shape`; matrices stored in Q8_0 are read as rounded there.

    Raises `CrsError` when it is missing, damaged, no LoRA, or for another base.
    """
    try:
        reader = gguf.GGUFReader(path)
        alpha = float(reader.fields["adapter.lora.alpha"].contents())
        tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        pairs = {}
        for layer in range(shape.n_layers):
            for short, module in MODULES.items():
                a, b = (tensors.pop(f"blk.{layer}.{short}.weight.lora_{half}").astype(np.float32) for half in "ab")
                heads = _heads(shape, short)
                pairs[f"model.layers.{layer}.{module}"] = (a, unpermuted(b, heads) if heads else b)
    except OSError as error:
        raise CrsError(f"cannot read the adapter {path}: {error.strerror}; give a PEFT folder or a GGUF") from None
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CrsError(f"{path} is no LoRA for {shape.name} ({reason}); use an adapter trained on it") from None
    if tensors:
        raise _misfit(path, shape, min(tensors))
    adapter = Adapter(next(iter(pairs.values()))[0].shape[0], alpha, pairs)
    adapter.check(shape, path)
    return adapter


def write_gguf(
    adapter: Adapter,
    shape: Shape,
    path: Path,
    fmt: Format = "Q8_0",
    *,
    name: str = "",
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Writes `adapter`, trained on a llama base of `shape`, as a LoRA GGUF called `name`, atomically.
    `about`: of `weights.about`.

    Rows of B are put into llama.cpp's order where it differs (queries and keys). `Q8_0` needs rows whose length is a
    multiple of 32; other matrices stay F16, which with a usual rank are all B. Raises `CrsError` when the adapter does
    not fit the base or the file cannot be written.
    """
    adapter.check(shape, path)
    named = {
        f"blk.{layer}.{short}": (*adapter.pairs[f"model.layers.{layer}.{module}"], _heads(shape, short))
        for layer in range(shape.n_layers)
        for short, module in MODULES.items()
    }
    fields = {"general.name": name or path.stem, **about}
    write_tensors(named, adapter.alpha, "llama", shape.name, path, fmt, fields)


def write_tensors(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray, int | None]],
    alpha: float,
    architecture: str,
    base: str,
    path: Path,
    fmt: Format,
    about: Mapping[str, str],
) -> None:
    """Writes a LoRA GGUF for a base called `base`, atomically.

    `pairs`: by llama.cpp's name of the matrix A and B in the order of `transformers`, and for a matrix whose rows
    llama.cpp has in another order (see `permuted`) the number of its heads, else None. `about`: further metadata.
    Raises `CrsError` for an unknown format and when the file cannot be written.
    """
    if fmt not in FORMATS:
        raise CrsError(f"adapter format {fmt!r} is not known; choose {' or '.join(FORMATS)}")
    with writing(path) as temporary:
        writer = gguf.GGUFWriter(temporary, architecture)
        writer.add_type("adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", alpha)
        for key, text in about.items():
            writer.add_string(key, text)
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
        for name, (a, b, heads) in pairs.items():
            for half, matrix in (("lora_a", a), ("lora_b", permuted(b, heads) if heads else b)):
                kind = gguf.GGMLQuantizationType[fmt if matrix.shape[1] % _BLOCK == 0 else "F16"]
                data = gguf.quantize(np.ascontiguousarray(matrix), kind)
                writer.add_tensor(f"{name}.weight.{half}", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


# ── fit to a base ───────────────────────────────────────────────────────────────────────────────────────────────────


def _misfit(path: Path, shape: Shape, layer: str) -> CrsError:
    return CrsError(f"the adapter {path} does not fit {shape.name} (at {layer}); use one trained on it")


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


def _heads(shape: Shape, short: str) -> int | None:
    """The number of heads of a matrix whose rows llama.cpp orders differently, else None."""
    return {"attn_q": shape.n_heads, "attn_k": shape.n_kv_heads}.get(short)


def _copy(tensor: Any) -> np.ndarray:
    return tensor.detach().float().cpu().numpy().copy()
