"""Distances and diversity of embeddings: known answers on tiny arrays, and the real model once."""

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crslib.config import ROOT
from crslib.data.corpora import frames, redial
from crslib.errors import CrsError
from crslib.metrics import embedding, reference
from crslib.metrics.embedding import Embedded, frechet, vendi, vendi_score
from tests.support.domains import MOVIES
from tests.support.metrics_frames import talk

STORED = ROOT / "data" / "human"


class Letters:
    """Reads a text as one state per word: how long it is, how many e it has, and 1."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def states(self, text: str) -> np.ndarray:
        self.read.append(text)
        return np.array([[len(word), word.count("e"), 1.0] for word in text.split()], dtype=np.float32)


def gaussian(n: int, seed: int, shift: float = 0.0) -> dict[str, Embedded]:
    """Three turns a dialogue, standard normal in twenty dimensions."""
    vectors = np.random.default_rng(seed).normal(size=(3 * n, 20)) + shift
    return {"user": Embedded(np.repeat([f"{i:04d}" for i in range(n)], 3), vectors)}


def test_frechet_of_gaussians_by_hand() -> None:
    one = np.diag([1.0, 4.0])
    # Means 3 and 4 apart: 25. Standard deviations 1 and 2 against 2 and 2: 1.
    assert frechet(np.zeros(2), one, np.array([3.0, 4.0]), np.diag([4.0, 4.0])) == pytest.approx(26)
    assert frechet(np.zeros(2), one, np.zeros(2), one) == pytest.approx(0, abs=1e-9)
    # A quarter turn of N(0, diag(1, 4)): Tr(C₁ + C₂) = 10, and (C₁ C₂)^½ = diag(2, 2).
    assert frechet(np.zeros(2), one, np.zeros(2), np.diag([4.0, 1.0])) == pytest.approx(2)


def test_frechet_is_scipys_formula() -> None:
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    one, other = (np.cov(rng.normal(size=(5, 40)) * rng.uniform(0.5, 2, (5, 1))) for _ in range(2))
    expected = np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet(np.zeros(5), one, np.zeros(5), other) == pytest.approx(expected)


def test_vendi_score_by_hand() -> None:
    assert vendi_score(np.ones((7, 7))) == pytest.approx(1)
    assert vendi_score(np.eye(7)) == pytest.approx(7)
    # Two of one kind and one of another: eigenvalues 2/3 and 1/3.
    kinds = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert vendi_score(kinds) == pytest.approx(math.exp(math.log(3) - 2 / 3 * math.log(2)))


def test_an_embedding_is_a_mean_over_tokens() -> None:
    _, turns = talk({"a": ["U: we see", "R: see", "U: seed [[Heat (1995)]]", "R: "], "b": ["R: see"]})
    reader = Letters()
    embedded = embedding.embed(turns, reader, MOVIES.mask)
    assert reader.read == ["see", "seed FILM", "we see"]
    np.testing.assert_allclose(embedded["user"].vectors, [[2.5, 1.5, 1], [4, 1, 1]])
    assert embedded["recommender"].dialogues.tolist() == ["a", "b"]


def test_human_turns_are_within_the_floor_and_others_are_not() -> None:
    human = embedding.measure(gaussian(300, 1), {})
    places = human.places["user"].vectors
    covariance = np.cov(places, rowvar=False, bias=True)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-9)
    assert np.trace(covariance) == pytest.approx(1)
    near = embedding.compare(gaussian(60, 2), human, times=200, seed=0)
    far = embedding.compare(gaussian(60, 2, shift=1.0), human, times=200, seed=0)
    result = near["user_frechet"]
    assert result.human is not None and result.floor is not None
    assert result.human < result.floor
    assert result.estimate.value < 1.5 * result.floor
    assert far["user_frechet"].estimate.low > 3 * result.floor


def test_a_distance_is_that_of_the_turns_moments() -> None:
    human = embedding.measure(gaussian(300, 1), {})
    turns = gaussian(60, 2, shift=0.3)
    ours = (turns["user"].vectors - human.centre["user"]) / human.scale["user"] @ human.axes["user"]
    theirs = human.places["user"].vectors
    moments = [part for x in (ours, theirs) for part in (x.mean(axis=0), np.cov(x, rowvar=False, bias=True))]
    result = embedding.compare(turns, human, times=100, seed=0)["user_frechet"]
    assert result.estimate.value == pytest.approx(frechet(*moments))


def test_vendi_counts_what_differs() -> None:
    same = Embedded(np.array([f"{i:02d}" for i in range(40)]), np.tile([1.0, 2, 3], (40, 1)))
    estimate = vendi(same, times=100, seed=0)
    assert estimate is not None
    assert estimate.value == pytest.approx(1)
    estimate = vendi(gaussian(70, 0)["user"], times=100, seed=0)
    assert estimate is not None
    assert 12 < estimate.low < estimate.value < estimate.high <= 20
    assert vendi(gaussian(29, 0)["user"], times=100, seed=0) is None


def test_too_few_turns_have_no_results() -> None:
    assert embedding.compare(gaussian(20, 2), embedding.measure(gaussian(300, 1), {}), times=100, seed=0) == {}


def test_stored_human_turns_are_read_again(tmp_path: Path) -> None:
    human = embedding.measure(gaussian(50, 1), {"layer": 5})
    for folder in ("a", "b"):
        embedding.write(human, tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    again = embedding.read(tmp_path / "a")
    assert again.source == human.source
    assert again.vendi == human.vendi
    for name in ("centre", "scale", "axes"):
        np.testing.assert_allclose(getattr(again, name)["user"], getattr(human, name)["user"], rtol=1e-6)
    np.testing.assert_allclose(again.places["user"].vectors, human.places["user"].vectors, atol=0.0005)


def test_without_results_the_reason_is_given(tmp_path: Path) -> None:
    _, turns = talk({"a": ["U: hello"]})
    assert "too few turns" in embedding.evaluate(turns, tmp_path, MOVIES.mask, times=100, seed=0).missing
    _, turns = talk({f"d{i}": ["U: hello"] for i in range(30)})
    missing = embedding.evaluate(turns, tmp_path, MOVIES.mask, times=100, seed=0).missing
    assert "missing or damaged; make them with `crs data embeddings`" in missing
    embedding.write(embedding.measure(gaussian(50, 1), {"model_sha256": "another"}), tmp_path)
    assert "are of another model" in embedding.evaluate(turns, tmp_path, MOVIES.mask, times=100, seed=0).missing
    with pytest.raises(CrsError, match="missing or damaged"):
        (tmp_path / "embeddings.json").write_text(json.dumps({}), encoding="utf-8")
        embedding.read(tmp_path)


def test_stored_human_turns_are_numbers_only() -> None:
    places = pl.read_parquet(STORED / "embeddings.parquet")
    assert places["dialogue_id"].str.contains(r"^\d+$").all()
    assert set(pl.read_parquet(STORED / "axes.parquet")["role"]) == {"user", "recommender"}
    names = ("embeddings.parquet", "axes.parquet", "embeddings.json")
    assert sum((STORED / name).stat().st_size for name in names) < 300_000


@pytest.mark.model
def test_the_model_reads_each_text_by_itself_as_it_read_the_stored_ones(shared_data: Path) -> None:
    dialogues = redial.read(shared_data / "redial" / "test_dev.jsonl", "test")[:2]
    _, turns = frames(reference.anonymous(dialogues))
    with embedding.reader() as reader:
        forwards = embedding.embed(turns, reader, MOVIES.mask)
        alone = reader.states("have you seen FILM ?")
        reader.states("a longer text that says something else of FILM, to fill other cells")
        assert np.array_equal(reader.states("have you seen FILM ?"), alone)
    human = embedding.read(STORED)
    assert human.source == embedding.source()
    for role, embedded in forwards.items():
        places = human.standardised(role, embedded).vectors @ human.axes[role]
        stored = human.places[role].vectors[: len(places)]
        np.testing.assert_allclose(places, stored, atol=0.02)  # another CPU rounds otherwise


def test_of_a_large_run_some_dialogues_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = pl.DataFrame({"dialogue_id": ["a", "a", "b", "c", "c", "d"], "turn": [0, 1, 0, 0, 1, 0]})
    assert embedding._drawn(turns, seed=0).equals(turns)
    monkeypatch.setattr(embedding, "MOST", 2)
    drawn = embedding._drawn(turns, seed=0)
    ids = drawn["dialogue_id"].unique().to_list()
    assert len(ids) == 2
    assert drawn.equals(turns.filter(pl.col("dialogue_id").is_in(ids)))  # whole dialogues, in order
    assert drawn.equals(embedding._drawn(turns, seed=0))
    assert len({tuple(sorted(embedding._drawn(turns, seed)["dialogue_id"].unique())) for seed in range(20)}) > 1
