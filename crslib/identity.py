"""Canonical hashes and derived seeds. Knows nothing of what is hashed."""

import ast
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any


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


def sources_sha256(modules: Iterable[str], leave_out: Collection[str] = ()) -> dict[str, str]:
    """SHA-256 of the sources of `modules` ("crslib.errors") and of all of this package that they import, by name.

    Followed wherever an import stands, in functions too. A package's `__init__` counts only where a name is taken from
    it that is no module. `leave_out`: modules that are neither hashed nor followed.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _module(name)
        if path is not None and name not in found and name not in leave_out:
            found[name] = file_sha256(path)
            waiting.extend(_imported(path))
    return dict(sorted(found.items()))


def _module(name: str) -> Path | None:
    base = Path(__file__).parents[1] / Path(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _module(inner) else node.module


def derive_seed(seed: int, *keys: str | int) -> int:
    """A 32-bit seed from the run's seed and a path of keys, independent of order, batch and process.

    0xFFFFFFFF is never returned: llama.cpp reads it as "choose a random seed".
    """
    raw = hashlib.blake2b(canonical_json([seed, *keys]).encode(), digest_size=8).digest()
    return int.from_bytes(raw, "big") % 0xFFFFFFFF
