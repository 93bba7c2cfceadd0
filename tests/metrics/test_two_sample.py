"""The two-sample test detects differences only where there are some, and its control detects lengths only."""

import random
import re

import polars as pl
import pytest

from crslib import schemas, stats
from crslib.data.corpora import Dialogue, Turn
from crslib.metrics.two_sample import FORM, LENGTH, WORDS, evaluate, reserved, two_sample

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


def bounds(estimate: stats.Estimate) -> tuple[float, float]:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low, estimate.high


def dialogues(turns: pl.DataFrame, n_people: int) -> list[Dialogue]:
    """Human dialogues of `n_people` users, the same recommender."""
    talks = turns.group_by("dialogue_id", maintain_order=True)
    return [
        Dialogue(
            str(name), f"person {number % n_people}", "r", tuple(Turn("user", t, (), None) for t in talk["text"]), {}
        )
        for number, ((name,), talk) in enumerate(talks)
    ]


def test_dialogues_of_one_source_cannot_be_distinguished() -> None:
    accuracy = two_sample(talk("a", 40, 1), talk("b", 60, 2), "user", (WORDS, LENGTH, FORM), mask="FILM", times=200)
    for estimate in accuracy.values():
        low, high = bounds(estimate)
        assert low < 0.5 < high
        assert estimate.n == 40
        assert estimate.replicates is not None and len(estimate.replicates) == 200


def test_other_words_of_equal_length_are_detected_by_the_words_only() -> None:
    accuracy = two_sample(
        talk("a", 30, 1, [*COMMON, "absolutely"] * 1),
        talk("b", 30, 2, [*COMMON, "meh", "absolut"]),
        "user",
        mask="FILM",
    )
    assert bounds(accuracy[WORDS])[0] > 0.5
    low, high = bounds(accuracy[LENGTH])
    assert low < 0.5 < high


def test_the_control_detects_lengths() -> None:
    accuracy = two_sample(talk("a", 30, 1, longest=4), talk("b", 30, 2, longest=30), "user", mask="FILM")
    assert bounds(accuracy[LENGTH])[0] > 0.7


def test_the_second_judge_reads_how_turns_are_written_and_not_what_they_say() -> None:
    dragons = [*COMMON, *["dragons"] * 3]
    cats = [*COMMON, *["meadows"] * 3]  # another word of content, as long and as frequent
    low, high = bounds(two_sample(talk("a", 30, 1, dragons), talk("b", 30, 2, cats), "user", [FORM], mask="FILM")[FORM])
    assert low < 0.5 < high
    loud = talk("b", 30, 2).with_columns(pl.col("text") + pl.lit("!"))
    assert bounds(two_sample(talk("a", 30, 1), loud, "user", [FORM], mask="FILM")[FORM])[0] > 0.9


def test_titles_are_masked() -> None:
    one, other = (talk("a", 30, 1), talk("b", 30, 2))
    named = [
        frame.with_columns(pl.col("text") + pl.lit(f" [[{title}]]")) for frame, title in ((one, "Heat"), (other, "UP!"))
    ]
    for estimate in two_sample(*named, "user", (WORDS, FORM), mask="FILM").values():
        low, high = bounds(estimate)
        assert low < 0.5 < high


@pytest.mark.parametrize(("n", "role"), [(9, "user"), (30, "recommender")])
def test_too_few_dialogues_have_no_accuracy(n: int, role: str) -> None:
    assert not two_sample(talk("a", n, 1), talk("b", 30, 2), role, mask="FILM")


def test_the_order_of_rows_changes_nothing() -> None:
    one = two_sample(talk("a", 12, 1), talk("b", 20, 2), "user", mask="FILM")
    assert one == two_sample(talk("a", 12, 1).reverse(), talk("b", 20, 2).reverse(), "user", mask="FILM")


def test_the_human_value_is_that_of_two_halves_of_the_human_dialogues() -> None:
    human = dialogues(talk("h", 120, 3), 30)
    results = evaluate(talk("s", 30, 4, [*COMMON, *["furthermore"] * 9]), human, "FILM", times=100, seed=0)
    assert results.by_metric.keys() == {"user_two_sample", "user_two_sample_length", "user_two_sample_form"}
    result = results.by_metric["user_two_sample"]
    assert result.estimate.n == 30
    assert result.human is not None and result.floor is not None
    assert result.estimate.value > 0.8 > result.floor > result.human > 0.3


def test_a_manner_of_ones_own_tells_nobody_from_people() -> None:
    """Everybody has a word of their own: whoever is read in one fold is not known by it in another one."""
    human = dialogues(talk("h", 120, 3), 30)
    human = [
        Dialogue(one.dialogue_id, one.user, one.recommender, tuple(
            Turn(turn.role, f"{turn.text} {one.user.replace(' ', '')}", (), None) for turn in one.turns), {})
        for one in human
    ]  # fmt: skip
    simulated = talk("s", 60, 4).with_columns(pl.format("{} {}", "text", "dialogue_id"))
    for seed in range(3):
        result = evaluate(simulated, human, "FILM", times=100, seed=seed).by_metric["user_two_sample"]
        assert result.human is not None
        assert result.estimate.value < 0.6 > result.human


def test_each_judge_reads_people_of_its_own() -> None:
    """People of the second judge shout: the first one sees none of it, though its words include `!`."""
    human = [
        Dialogue(one.dialogue_id, one.user, one.recommender, tuple(
            Turn(turn.role, turn.text + "!" * reserved(one.user), (), None) for turn in one.turns), {})
        for one in dialogues(talk("h", 120, 3), 30)
    ]  # fmt: skip
    results = evaluate(talk("s", 40, 4), human, "FILM", times=100, seed=0).by_metric
    assert results["user_two_sample"].estimate.value < 0.7
    assert results["user_two_sample_form"].estimate.value > 0.9


def test_without_enough_dialogues_the_reason_is_given() -> None:
    assert "set `redial`" in evaluate(talk("s", 30, 4), [], "FILM", times=100, seed=0).missing
    few = evaluate(talk("s", 9, 4), dialogues(talk("h", 60, 3), 20), "FILM", times=100, seed=0)
    assert not few.by_metric
    assert few.missing == "too few dialogues: there must be 10 of either side"
