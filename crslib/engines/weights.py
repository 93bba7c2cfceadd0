"""GGUF files with a LoRA adapter merged into its base, written once and cached by hash.

An adapter that is not merged costs a fifth of the decoding speed, and the 4-bit format of the built-in base is among
the slowest to compute with. Which format is the fastest depends on the CPU; `preparation` measures it.

The cache holds the weights that were used last, up to `_MOST_BYTES`; the whole folder can be removed at any time.

Knows files, not engines.
"""

import contextlib
import fcntl
import functools
import json
import math
import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import gguf
import numpy as np
from pydantic import TypeAdapter, with_config
from typing_extensions import TypedDict

from crslib import json_files
from crslib.errors import CrsError
from crslib.files import unwritable, writing
from crslib.identity import digest, file_sha256
from crslib.schemas import STRICT

Format = Literal["Q8_0", "BF16", "F16", "Q4_0"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUMMED = "float64"
"""How `merged` takes sums, a part of what identifies weights: in float32, as before, they differed by the cores."""
_MOST_BYTES = 10 * 2**30  # of all weights in the cache
_KEPT = 4  # files that are kept whatever their size: two roles, each as it was before and after a change
DOMAIN = "crslib.domain"  # the field of an adapter with the name of the domain that it was trained on
PARTS = "crslib.parts"  # the field with the optional parts of the views that it was trained in


def merged(model: Path, adapter: Path, fmt: Format, cache: Path) -> Path:
    """A GGUF file in `cache` with `adapter` merged into `model`; it is written if it is missing or damaged.

    W' = W + (alpha / r) · B · A for every adapted matrix (Hu et al. 2021, eq. 3), stored as `fmt`; all other tensors
    and the metadata are copied. What was written is known by its hash, so that no other file is opened in its place.
    Raises `CrsError` when a file cannot be read, the two do not fit, the adapter is not whole (`check_adapter`), or the
    cache cannot be written.
    """
    files = {"model": file_sha256(model), "adapter": file_sha256(adapter)}
    path = cache / f"{digest({**files, 'format': fmt, 'summed': SUMMED}, 'weights')}.gguf"
    deltas = check_adapter(adapter)
    if not _is_as_written(path):
        with _only_writer(cache):
            if not _is_as_written(path):  # another process may have written it meanwhile
                _make(path, model, adapter, deltas, fmt)
                _make_room(cache)
    with contextlib.suppress(OSError):  # a cache that others share may be read-only
        os.utime(_notes(path))  # used now, see `_make_room`
    return path


def _make(path: Path, model: Path, adapter: Path, deltas: "Deltas", fmt: Format) -> None:
    """Writes the merged weights and notes what was written."""
    if path.exists():
        warnings.warn(f"{path} is not as it was written: it is removed and made anew", stacklevel=3)
    remove(path)
    base, misfit = read(model, "model"), f"the adapter {adapter} does not fit the model {model}"
    names = {tensor.name for tensor in base.tensors}
    if _text(base, "general.architecture") != _text(deltas.reader, "general.architecture") or deltas.names - names:
        raise CrsError(f"{misfit}; use the adapter trained on it")
    with writing(path) as temporary:
        _write(base, deltas, fmt, temporary, f"the model {model}", misfit)
        written = file_sha256(temporary)
    _note(path, written)


def written_sha256(path: Path) -> str | None:
    """The hash of what `merged` has written into a file; None where its note is missing or damaged."""
    try:
        return json_files.read_as(_notes(path), _NOTES, "it is made anew")["sha256"]
    except CrsError:
        return None


def is_damaged(path: Path) -> bool:
    """Whether a file that `merged` has written holds something else now; it is read, whatever its size and time."""
    try:
        return file_sha256(path) != written_sha256(path)
    except OSError:
        return True


def domain_of(adapter: Path) -> str:
    """The name of the domain that an adapter was trained on; empty where its file does not say. Raises `CrsError` for a
    file that cannot be read."""
    return _text(read(adapter, "adapter"), DOMAIN)


def parts_of(adapter: Path) -> frozenset[str]:
    """The optional parts, `facts` and `style`, of the views that an adapter was trained in; none where its file does
    not say. Raises `CrsError` for a file that cannot be read."""
    return read_parts(_text(read(adapter, "adapter"), PARTS))


def read_parts(words: str) -> frozenset[str]:
    """What `PARTS` says."""
    return frozenset(filter(None, words.split(", ")))


def about(domain: str, parts: Collection[str]) -> dict[str, str]:
    """The fields of an adapter for `domain_of` and `parts_of`."""
    said = {DOMAIN: domain, PARTS: ", ".join(sorted(parts))}
    return {name: words for name, words in said.items() if words}


def remove(path: Path) -> None:
    """Removes a file that `merged` has written, if it is there."""
    path.unlink(missing_ok=True)
    _notes(path).unlink(missing_ok=True)


# ── the cache ──


@contextlib.contextmanager
def _only_writer(cache: Path) -> Iterator[None]:
    """Holds the cache's lock, waiting for other processes that write weights. Removes what killed ones left half done.

    Raises `CrsError` when the cache cannot be made.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = os.open(cache, os.O_RDONLY)
    except OSError as error:
        raise unwritable(cache, error) from None
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        for path in cache.glob(".*.gguf.????????"):  # temporary files of `writing`
            path.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _make_room(cache: Path) -> None:
    """Removes the weights that were used longest ago where all together are too large. Open files stay readable."""
    states = []
    for path in cache.glob("*.gguf"):
        with contextlib.suppress(FileNotFoundError):  # another process has removed it
            used = _notes(path).stat().st_mtime if _notes(path).exists() else 0.0
            states.append((used, path.stat().st_size, path))
    total = 0
    for place, (_, size, path) in enumerate(sorted(states, reverse=True)):
        total += size
        if place >= _KEPT and total > _MOST_BYTES:
            remove(path)


# ── what was written ──


@with_config(STRICT)
class _Notes(TypedDict):
    """Name and hash of a file of the cache, and the size and time by which it is known."""

    file: str
    sha256: str
    size: int
    changed: int


_NOTES = TypeAdapter(_Notes)


def _notes(path: Path) -> Path:
    return path.with_suffix(".sha256.json")


def _note(path: Path, sha256: str) -> None:
    """Notes the hash of a file that was just read or written, and the size and time by which it is known."""
    state = path.stat()
    with writing(_notes(path)) as temporary:
        noted = {"file": path.name, "sha256": sha256, "size": state.st_size, "changed": state.st_mtime_ns}
        temporary.write_text(json.dumps(noted))


def _is_as_written(path: Path) -> bool:
    """Whether a file of the cache holds what was written. It is read again only when its size or time has changed."""
    try:
        notes, state = json_files.read_as(_notes(path), _NOTES, "it is made anew"), path.stat()
        if notes["file"] != path.name:  # another file was put here together with its notes
            return False
        if (notes["size"], notes["changed"]) == (state.st_size, state.st_mtime_ns):
            return True
        if state.st_size != notes["size"] or file_sha256(path) != notes["sha256"]:
            return False
    except (OSError, CrsError):
        return False
    _note(path, notes["sha256"])
    return True


# ── adapters ──


class Deltas:
    """The low-rank updates of an adapter file, by the name of the matrix they change."""

    def __init__(self, reader: gguf.GGUFReader, path: Path) -> None:
        self.reader, self._path = reader, path
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.names = {name.removesuffix(".lora_a") for name in self._tensors if name.endswith(".lora_a")}
        self._alpha = float(reader.fields["adapter.lora.alpha"].contents())

    def check(self) -> None:
        """Raises `CrsError` unless there are pairs of matrices, all whole, that change something."""
        pairs = {f"{name}.{half}" for name in self.names for half in ("lora_a", "lora_b")}
        halves = {name for name in pairs ^ self._tensors.keys() if name.endswith((".lora_a", ".lora_b"))}
        if halves:
            missing = sorted(halves - self._tensors.keys()) or sorted(f"{name[:-1]}a" for name in halves)
            raise self._fault(f"has no {_some(missing)}: half of a pair is missing")
        if others := self._tensors.keys() - pairs:
            raise self._fault(f"has tensors that cannot be applied ({_some(sorted(others))})")
        if not pairs:
            raise self._fault("has no LoRA matrices: it changes nothing")
        if not math.isfinite(self._alpha):
            raise self._fault(f"has adapter.lora.alpha = {self._alpha}, which is no number")
        changes = False
        for name in sorted(self.names):
            a, b = self._pair(name)
            rank = a.shape[-1] if name.startswith("token_embd") else a.shape[0]  # llama.cpp has embeddings transposed
            if a.ndim != 2 or b.ndim != 2 or rank != b.shape[1]:
                raise self._fault(f"has matrices of {name} that cannot be multiplied ({b.shape} and {a.shape})")
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise self._fault(f"has values in {name} that are no numbers (NaN or infinite)")
            changes |= bool(a.any() and b.any())
        if not changes:
            raise self._fault("has zeros only in one matrix of every pair: it changes nothing")

    def of(self, name: str) -> np.ndarray:
        """(alpha / r) · B · A, float32, shape of the matrix (rows, columns). Raises `CrsError` for infinite values.

        An alpha of 0 is a factor of 1, as llama.cpp has it for adapters that are not merged. Summed in double
        precision: the order of a sum depends on the number of cores, and in single precision so did the rounding, a
        byte of the merged file, and with it every dialogue.
        """
        a, b = (half.astype(SUMMED) for half in self._pair(name))
        with np.errstate(over="ignore", invalid="ignore"):
            delta = ((self._alpha / a.shape[0] if self._alpha else 1.0) * (b @ a)).astype(np.float32)
        if not np.isfinite(delta).all():
            raise self._fault(f"has values in {name} whose products are infinite")
        return delta

    def _pair(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return _float(self._tensors[f"{name}.lora_a"]), _float(self._tensors[f"{name}.lora_b"])

    def _fault(self, what: str) -> CrsError:
        return CrsError(f"the adapter {self._path} {what}; convert or train it again, or give none")


def check_adapter(path: Path) -> Deltas:
    """The updates of an adapter file. Raises `CrsError` when it is none, not whole, or changes nothing."""
    try:
        return _checked(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise CrsError(f"cannot read the adapter {path}: {error.strerror}; give the path of a GGUF file") from None


@functools.lru_cache(maxsize=4)
def _checked(path: Path, changed: int) -> Deltas:
    reader = read(path, "adapter")
    alpha = reader.fields.get("adapter.lora.alpha")
    if alpha is None:
        raise CrsError(f"{path} is not a LoRA adapter; give the GGUF file of an adapter, or none")
    if alpha.types != [gguf.GGUFValueType.FLOAT32]:  # llama.cpp ends the process for another type
        raise CrsError(f"the adapter {path} has an adapter.lora.alpha that is no 32-bit float; convert it again")
    deltas = Deltas(reader, path)
    deltas.check()
    return deltas


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ── GGUF ──


def read(path: Path, what: str) -> gguf.GGUFReader:
    """Opens a GGUF file. `what` names it in the `CrsError` that is raised when it is missing or damaged."""
    try:
        return _opened(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, IndexError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise CrsError(f"the {what} {path} is damaged ({reason}); get it again") from None


@functools.lru_cache(maxsize=2)  # reading a vocabulary of 49,000 tokens takes three seconds
def _opened(path: Path, changed: int) -> gguf.GGUFReader:
    return gguf.GGUFReader(path)


def _text(reader: gguf.GGUFReader, name: str) -> str:
    return str(reader.fields[name].contents()) if name in reader.fields else ""


def _float(tensor: gguf.ReaderTensor) -> np.ndarray:
    return gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)


def _write(base: gguf.GGUFReader, deltas: Deltas, fmt: Format, path: Path, model: str, misfit: str) -> None:
    """`model`: what the base is called in a `CrsError`, `misfit`: what is said of an adapter of other shapes."""
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
        if not np.isfinite(weights).all():
            raise CrsError(f"{model} has values in {tensor.name} that are no numbers (NaN or infinite); get it again")
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
