"""The two-sample test tells what differs, sees nothing where nothing does, and its control sees lengths alone."""

import random
import re

import polars as pl
import pytest

from crslib import schemas
from crslib.metrics.two_sample import LENGTH, WORDS, evaluate, two_sample

COMMON = re.findall(r"\w+", "i like the film we saw a good one last week with my friend and it was nice")


def talk(name: str, n: int, seed: int, words: list[str] = COMMON, longest: int = 12) -> pl.DataFrame:
    rng = random.Random(seed)
    rows = [
        (f"{name}{d}", t, " ".join(rng.choices(words, k=rng.randint(3, longest)))) for d in range(n) for t in range(5)
    ]
    rest = {"role": "user", "items": [], "notes": [], "n_tokens": 1, "mean_logprob": None, "finish": "end"}
    return pl.DataFrame(
        [dict(zip(("dialogue_id", "turn", "text"), row, strict=True)) | rest for row in rows],
        schema=dict(schemas.TABLES["turns"]),
    )


def accuracy(found: pl.DataFrame, features: str) -> dict[str, float]:
    return found.filter(features=features).row(0, named=True)


def test_what_comes_from_one_source_cannot_be_told_apart() -> None:
    found = two_sample(talk("a", 40, 1), talk("b", 60, 2), "user")
    for features in (WORDS, LENGTH):
        row = accuracy(found, features)
        assert row["low"] < 0.5 < row["high"]
        assert row["n_dialogues"] == 40


def test_other_words_of_like_length_are_told_by_the_words_only() -> None:
    found = two_sample(
        talk("a", 30, 1, [*COMMON, "absolutely"] * 1), talk("b", 30, 2, [*COMMON, "meh", "absolut"]), "user"
    )
    assert accuracy(found, WORDS)["low"] > 0.5
    length = accuracy(found, LENGTH)
    assert length["low"] < 0.5 < length["high"]


def test_length_alone_is_told_by_both() -> None:
    found = two_sample(talk("a", 30, 1, longest=4), talk("b", 30, 2, longest=30), "user")
    assert accuracy(found, LENGTH)["low"] > 0.7


def test_titles_are_masked() -> None:
    one, other = (talk("a", 30, 1), talk("b", 30, 2))
    named = [
        frame.with_columns(pl.col("text") + pl.lit(f" [[{title}]]")) for frame, title in ((one, "Heat"), (other, "Up"))
    ]
    row = accuracy(two_sample(*named, "user"), WORDS)
    assert row["low"] < 0.5 < row["high"]


@pytest.mark.parametrize(("n", "role"), [(9, "user"), (30, "recommender")])
def test_too_little_is_no_figure(n: int, role: str) -> None:
    assert two_sample(talk("a", n, 1), talk("b", 30, 2), role).is_empty()


def test_the_same_again() -> None:
    one = two_sample(talk("a", 12, 1), talk("b", 20, 2), "user")
    assert one.equals(two_sample(talk("a", 12, 1).reverse(), talk("b", 20, 2).reverse(), "user"))


def test_a_runs_figures_stand_beside_those_of_people_from_people() -> None:
    human = talk("h", 60, 3)
    found = evaluate(talk("s", 30, 4, [*COMMON, *["furthermore"] * 9]), human, times=100, seed=0)
    assert found.keys() == {"user_two_sample", "user_two_sample_length"}
    estimate, people, floor = found["user_two_sample"]
    assert estimate.n == 30
    assert estimate.value > 0.8 > floor > people > 0.3
    assert not evaluate(talk("s", 30, 4), human.clear(), times=100, seed=0)
