"""Hashes and seeds."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib import identity
from crslib.identity import canonical_json, derive_seed, digest, sources_sha256

KEYS = st.lists(st.one_of(st.text(max_size=8), st.integers(-9, 9)), max_size=3)


def test_known_values_never_change() -> None:
    """A changed hash would silently orphan every run people have on disk."""
    assert canonical_json({"b": [1, None], "a": "ü"}) == '{"a":"ü","b":[1,null]}'
    assert digest({"b": 1, "a": 2}, "run") == digest({"a": 2, "b": 1}, "run")
    assert digest({}, "run") != digest({}, "sweep")
    assert derive_seed(0, "u1.0", "user", 3) == 1746740964


@given(st.integers(0, 2**31), KEYS, KEYS)
def test_seeds_differ_by_path_and_fit_llama(seed: int, one: list, other: list) -> None:
    assert 0 <= derive_seed(seed, *one) < 0xFFFFFFFF
    if one != other:
        assert derive_seed(seed, *one) != derive_seed(seed, *other)


@given(st.text(max_size=6), st.text(max_size=6))
def test_keys_do_not_run_into_each_other(a: str, b: str) -> None:
    assert derive_seed(1, a + b) != derive_seed(1, a, b)


def test_sources_are_hashed_by_path_and_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("talk.py", "inner/words.py", "inner/page.html", "charts.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one = 1\n")
    monkeypatch.setattr(identity, "LIBRARY", tmp_path)
    some, all_of_them, with_pages = (
        lambda: sources_sha256(["talk.py", "inner"]),
        lambda: sources_sha256(),
        lambda: sources_sha256(suffixes=(".py", ".html")),
    )
    before = some(), all_of_them(), with_pages()
    assert len(set(before)) == 3
    (tmp_path / "charts.py").write_text("two = 2\n")
    assert (some() == before[0], all_of_them() == before[1]) == (True, False)
    (tmp_path / "inner/page.html").write_text("another")
    assert some() == before[0]
    (tmp_path / "inner/words.py").write_text("two = 2\n")
    assert some() != before[0]
    with pytest.raises(FileNotFoundError):
        sources_sha256(["no such file.py"])
