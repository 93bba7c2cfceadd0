"""A blend changes every matrix by the mean of what two adapters change, as far as its rank allows."""

from pathlib import Path

import numpy as np
import pytest

from crslib.engines import llama
from crslib.errors import CrsError
from crslib.training.adapter import Adapter, read_gguf, write_gguf
from crslib.training.base import Base
from crslib.training.blend import blend, blend_files
from tests.support.tiny_llama import write_gguf as write_base

SIZES = {"attn": (12, 10), "ffn": (8, 16)}  # (rows, columns) of the matrices


def random_adapter(seed: int, rank: int = 3, alpha: float = 6.0, sizes: dict[str, tuple[int, int]] = SIZES) -> Adapter:
    random = np.random.default_rng(seed)
    pairs = {
        name: (
            random.normal(size=(rank, columns)).astype(np.float32),
            random.normal(size=(rows, rank)).astype(np.float32),
        )
        for name, (rows, columns) in sizes.items()
    }
    return Adapter(rank, alpha, pairs)


def delta(adapter: Adapter, name: str) -> np.ndarray:
    a, b = adapter.pairs[name]
    return adapter.alpha / adapter.rank * b @ a


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_ends_of_the_line_are_the_two_adapters(share: float) -> None:
    one, other = random_adapter(1), random_adapter(2, alpha=1.5)
    mixed, loss = blend(one, other, share)
    assert loss == pytest.approx(0, abs=1e-6)
    for name in SIZES:
        assert np.allclose(delta(mixed, name), delta(other if share else one, name), atol=1e-4)


def test_between_them_it_is_the_best_of_its_rank_and_the_loss_is_what_it_lacks() -> None:
    one, other = random_adapter(1, rank=2), random_adapter(2, rank=4, alpha=2.0)
    mixed, loss = blend(one, other, 0.25)
    assert mixed.rank == 4
    missed, whole = 0.0, 0.0
    for name in SIZES:
        expected = 0.75 * delta(one, name) + 0.25 * delta(other, name)
        missed += float(((expected - delta(mixed, name)) ** 2).sum())
        whole += float((expected**2).sum())
        beyond = np.linalg.svd(expected, compute_uv=False)[4:]
        assert np.linalg.norm(expected - delta(mixed, name)) == pytest.approx(np.linalg.norm(beyond), rel=1e-4)
    assert 0 < loss == pytest.approx((missed / whole) ** 0.5, rel=1e-4)


def test_where_both_change_the_same_directions_nothing_is_lost() -> None:
    one = random_adapter(1)
    scaled = Adapter(one.rank, 2 * one.alpha, one.pairs)
    mixed, loss = blend(one, scaled, 0.5)
    assert loss == pytest.approx(0, abs=1e-6)
    for name in SIZES:
        assert np.allclose(delta(mixed, name), 1.5 * delta(one, name), atol=1e-4)


def test_adapters_that_change_nothing_lose_nothing() -> None:
    zero = Adapter(2, 2.0, {"attn": (np.zeros((2, 5), np.float32), np.zeros((4, 2), np.float32))})
    mixed, loss = blend(zero, zero, 0.5)
    assert loss == 0
    assert not delta(mixed, "attn").any()


def test_shares_beyond_the_line_and_adapters_of_different_bases_are_refused() -> None:
    with pytest.raises(CrsError, match=r"share = 1.5 is not in \[0, 1\]"):
        blend(random_adapter(1), random_adapter(2), 1.5)
    with pytest.raises(CrsError, match="not of the same base"):
        blend(random_adapter(1), random_adapter(2, sizes={"attn": (12, 10), "ffn": (8, 17)}), 0.5)


def test_the_file_is_read_as_an_adapter_and_its_card_names_both(tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    sizes = {
        name: base.weight(f"{name}.weight").shape
        for name in (weight.removesuffix(".weight") for weight in base.names)
        if name.endswith("_proj")
    }
    for number, name in enumerate(("sft", "dpo")):
        write_gguf(random_adapter(number, rank=4, sizes=sizes), base.shape, tmp_path / f"{name}.gguf", "F16")
    first, second, to = (tmp_path / f"{name}.gguf" for name in ("sft", "dpo", "mixed"))
    loss = blend_files(first, second, 0.5, to, str(base.path))
    halves = [read_gguf(path, base.shape) for path in (first, second)]
    mixed = read_gguf(to, base.shape)
    exact, _ = blend(*halves, 0.5)
    for name in sizes:
        assert np.abs(delta(mixed, name) - delta(exact, name)).max() < 0.02 * np.abs(delta(exact, name)).max()
    card = to.with_suffix(".md").read_text(encoding="utf-8")
    assert "# Adapter: mixed" in card and "0.5 · the change of the first adapter + 0.5 · the second's" in card
    assert "First: the adapter sft.gguf (SHA-256 of sft.gguf: " in card and "Second: the adapter dpo.gguf" in card
    assert f"{loss:.2%} of the sum's norm is cut off" in card
    assert "`crs blend sft.gguf dpo.gguf --share 0.5 --to mixed.gguf`" in card
    assert "Licence: " in card and "CC BY 4.0" in card and str(tmp_path) not in card
    with pytest.raises(CrsError, match=r"end it with \.gguf"):
        blend_files(first, second, 0.5, tmp_path / "mixed.bin", str(base.path))


@pytest.mark.model
def test_a_blend_of_the_shipped_size_stays_under_8_mb(tmp_path: Path) -> None:
    user, recommender = (llama.adapter_path(f"data/adapters/{role}.gguf") for role in ("user", "recommender"))
    assert user is not None and recommender is not None
    blend_files(user, recommender, 0.5, tmp_path / "mixed.gguf")
    assert (tmp_path / "mixed.gguf").stat().st_size < 8 << 20
