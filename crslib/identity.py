"""Canonical hashes and derived seeds. Knows nothing of what is hashed."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LIBRARY = Path(__file__).parent


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys and no blanks: equal values give equal text. NaN raises `ValueError`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, tag: str) -> str:
    """16 hex digits that identify `value`; `tag` keeps different kinds of things apart."""
    return hashlib.sha256(f"{tag}\0{canonical_json(value)}".encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sources_sha256(names: Iterable[str] = ("",), suffixes: Sequence[str] = (".py",)) -> str:
    """One hash of this package's source files: of the files and folders `names` in it, with everything below them.

    Path and content of each file with one of `suffixes` count. Raises `FileNotFoundError` for a name that is not there.
    """
    files = set()
    for path in (LIBRARY / name for name in names):
        files |= {path} if path.is_file() else {file for file in path.rglob("*") if file.suffix in suffixes}
        path.stat()
    return digest([[file.relative_to(LIBRARY).as_posix(), file_sha256(file)] for file in sorted(files)], "sources")


def derive_seed(seed: int, *keys: str | int) -> int:
    """A 32-bit seed from the run's seed and a path of keys, independent of order, batch and process.

    0xFFFFFFFF is never returned: llama.cpp reads it as "choose a random seed".
    """
    raw = hashlib.blake2b(canonical_json([seed, *keys]).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "big") % 0xFFFFFFFF
