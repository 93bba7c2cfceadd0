"""The two-sample test detects differences only where there are some, and its control detects lengths only."""

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


def accuracy(rows: pl.DataFrame, features: str) -> dict[str, float]:
    return rows.filter(features=features).row(0, named=True)


def test_dialogues_of_one_source_cannot_be_distinguished() -> None:
    rows = two_sample(talk("a", 40, 1), talk("b", 60, 2), "user")
    for features in (WORDS, LENGTH):
        row = accuracy(rows, features)
        assert row["low"] < 0.5 < row["high"]
        assert row["n_dialogues"] == 40


def test_other_words_of_equal_length_are_detected_by_the_words_only() -> None:
    rows = two_sample(
        talk("a", 30, 1, [*COMMON, "absolutely"] * 1), talk("b", 30, 2, [*COMMON, "meh", "absolut"]), "user"
    )
    assert accuracy(rows, WORDS)["low"] > 0.5
    length = accuracy(rows, LENGTH)
    assert length["low"] < 0.5 < length["high"]


def test_the_control_detects_lengths() -> None:
    rows = two_sample(talk("a", 30, 1, longest=4), talk("b", 30, 2, longest=30), "user")
    assert accuracy(rows, LENGTH)["low"] > 0.7


def test_titles_are_masked() -> None:
    one, other = (talk("a", 30, 1), talk("b", 30, 2))
    named = [
        frame.with_columns(pl.col("text") + pl.lit(f" [[{title}]]")) for frame, title in ((one, "Heat"), (other, "Up"))
    ]
    row = accuracy(two_sample(*named, "user"), WORDS)
    assert row["low"] < 0.5 < row["high"]


@pytest.mark.parametrize(("n", "role"), [(9, "user"), (30, "recommender")])
def test_too_few_dialogues_have_no_accuracy(n: int, role: str) -> None:
    assert two_sample(talk("a", n, 1), talk("b", 30, 2), role).is_empty()


def test_the_order_of_rows_changes_nothing() -> None:
    one = two_sample(talk("a", 12, 1), talk("b", 20, 2), "user")
    assert one.equals(two_sample(talk("a", 12, 1).reverse(), talk("b", 20, 2).reverse(), "user"))


def test_the_human_value_is_that_of_two_halves_of_the_human_dialogues() -> None:
    human = talk("h", 60, 3)
    results = evaluate(talk("s", 30, 4, [*COMMON, *["furthermore"] * 9]), human, times=100, seed=0)
    assert results.by_metric.keys() == {"user_two_sample", "user_two_sample_length"}
    result = results.by_metric["user_two_sample"]
    assert result.estimate.n == 30
    assert result.human is not None and result.floor is not None
    assert result.estimate.value > 0.8 > result.floor > result.human > 0.3


def test_without_enough_dialogues_the_reason_is_given() -> None:
    human = talk("h", 60, 3)
    assert "set `redial`" in evaluate(talk("s", 30, 4), human.clear(), times=100, seed=0).missing
    few = evaluate(talk("s", 9, 4), human, times=100, seed=0)
    assert not few.by_metric
    assert few.missing == "too few dialogues: there must be 10 of either side"
