"""Whatever JSON can hold, for tests of what reads it (hypothesis)."""

import json
from typing import Any

from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
"""Any text, also control characters and lone surrogates."""
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3))
"""Any value, also NaN and integers of any size."""


def nested(depth: int) -> bytes:
    """A list in a list in a list …, as JSON."""
    return b"[" * depth + b"]" * depth


def replaced(whole: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of JSON data with another value at `path`."""
    if not path:
        return value
    copy = json.loads(json.dumps(whole))
    part = copy
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return copy


def paths(whole: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The paths of all values in JSON data, the whole one first."""
    steps = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    return [path, *(deeper for step, part in steps for deeper in paths(part, (*path, step)))]
