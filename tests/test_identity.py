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


def test_sources_are_followed_through_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "__init__": "",
        "identity": "",
        "talk": "import os\nfrom pack import words\nfrom pack.inner import LIMIT, verbs\n",
        "words": "def late():\n    import pack.nouns\n",
        "nouns": "",
        "charts": "",
        "inner/__init__": "from pack import charts\nLIMIT = 1\n",
        "inner/verbs": "",
    }
    for name, text in sources.items():
        (tmp_path / "pack" / f"{name}.py").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    monkeypatch.setattr(identity, "__file__", str(tmp_path / "pack" / "identity.py"))
    reached = sources_sha256(["pack.talk"])
    assert list(reached) == [
        "pack.charts", "pack.inner", "pack.inner.verbs", "pack.nouns", "pack.talk", "pack.words",
    ]  # fmt: skip
    assert list(sources_sha256(["pack.talk"], {"pack.words", "pack.inner"})) == ["pack.inner.verbs", "pack.talk"]
    (tmp_path / "pack" / "nouns.py").write_text("# changed")
    now = sources_sha256(["pack.talk"])
    assert [name for name in now if now[name] != reached[name]] == ["pack.nouns"]
