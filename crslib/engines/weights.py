"""GGUF files with a LoRA adapter merged into its base, written once and cached by hash.

An adapter that is not merged costs a fifth of the decoding speed, and the 4-bit format of the built-in base is among
the slowest to compute with. Which format is the fastest depends on the CPU; `preparation` measures it.

Knows files, not engines.
"""

import functools
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np

from crslib.errors import CrsError
from crslib.identity import digest, file_sha256
from crslib.store import writing

Format = Literal["Q8_0", "BF16", "F16", "Q4_0"]
FORMATS: tuple[Format, ...] = get_args(Format)


def merged(model: Path, adapter: Path, fmt: Format, cache: Path) -> Path:
    """A GGUF file in `cache` with `adapter` merged into `model`; it is written if it is missing.

    W' = W + (alpha / r) · B · A for every adapted matrix (Hu et al. 2021, eq. 3), stored as `fmt`; all other tensors
    and the metadata are copied. Raises `CrsError` when a file cannot be read, the two do not fit, or the cache cannot
    be written.
    """
    key = digest({"model": file_sha256(model), "adapter": file_sha256(adapter), "format": fmt}, "weights")
    path = cache / f"{key}.gguf"
    if not path.exists():
        base, deltas = read(model, "model"), _deltas(adapter)
        names = {tensor.name for tensor in base.tensors}
        if _text(base, "general.architecture") != _text(deltas.reader, "general.architecture") or deltas.names - names:
            raise CrsError(f"the adapter {adapter} does not fit the model {model}; use the adapter trained on it")
        with writing(path) as temporary:
            _write(base, deltas, fmt, temporary, f"the adapter {adapter} does not fit the model {model}")
    return path


class _Deltas:
    """The low-rank updates of an adapter file, by the name of the matrix they change."""

    def __init__(self, reader: gguf.GGUFReader) -> None:
        self.reader = reader
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.names = {name.removesuffix(".lora_a") for name in self._tensors if name.endswith(".lora_a")}
        self._alpha = float(reader.fields["adapter.lora.alpha"].contents())

    def of(self, name: str) -> np.ndarray:
        """(alpha / r) · B · A, float32, shape of the matrix (rows, columns)."""
        a, b = (_float(self._tensors[f"{name}.{part}"]) for part in ("lora_a", "lora_b"))
        return (self._alpha / a.shape[0]) * (b @ a)


def read(path: Path, what: str) -> gguf.GGUFReader:
    """Opens a GGUF file. `what` names it in the `CrsError` that is raised when it is missing or damaged."""
    try:
        return _opened(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CrsError(f"the {what} {path} is damaged ({str(error).splitlines()[0]}); get it again") from None


@functools.lru_cache(maxsize=2)  # reading a vocabulary of 49,000 tokens takes three seconds
def _opened(path: Path, changed: int) -> gguf.GGUFReader:
    return gguf.GGUFReader(path)


def _deltas(path: Path) -> _Deltas:
    reader = read(path, "adapter")
    if "adapter.lora.alpha" not in reader.fields:
        raise CrsError(f"{path} is not a LoRA adapter; give the GGUF file of an adapter, or none")
    return _Deltas(reader)


def _text(reader: gguf.GGUFReader, name: str) -> str:
    return str(reader.fields[name].contents()) if name in reader.fields else ""


def _float(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)


def _write(base: gguf.GGUFReader, deltas: _Deltas, fmt: Format, path: Path, misfit: str) -> None:
    kind = gguf.GGMLQuantizationType[fmt]
    writer = gguf.GGUFWriter(path, _text(base, "general.architecture"))
    for field in base.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            writer.add_key_value(field.name, *_value(field))
    for tensor in base.tensors:
        if tensor.name not in deltas.names:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
            continue
        weights, delta = _float(tensor), deltas.of(tensor.name)
        if weights.shape != delta.shape:
            raise CrsError(
                f"{misfit} ({tensor.name}: {delta.shape} for {weights.shape}); use the adapter trained on it"
            )
        writer.add_tensor(tensor.name, gguf.quantize(weights + delta, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _value(field: gguf.ReaderField) -> tuple[Any, gguf.GGUFValueType, gguf.GGUFValueType | None]:
    kind = field.types[0]
    return field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
