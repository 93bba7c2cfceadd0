"""The trigram model: a distribution, computed by hand, under which human words are more likely than others."""

import itertools
import math

import polars as pl
import pytest

from crslib.metrics import ngram
from crslib.metrics.ngram import END, ITEM, Trigrams, tokens
from tests.support.metrics_frames import talk


def test_films_are_one_word() -> None:
    assert tokens("I loved [[Heat (1995)]], didn't you?") == ["i", "loved", ITEM, "didn't", "you"]
    assert tokens("") == []


def test_kneser_ney_by_hand() -> None:
    model = Trigrams([["a", "b"], ["a", "b"], ["a", "a", "b"]])
    # Trigrams: <s><s>a 3, <s>ab 2, <s>aa 1, aab 1, ab</s> 3: two once, one twice, D₃ = 2/4.
    # Bigrams, by contexts: <s>a 1, ab 2, aa 1, b</s> 1: three once, one twice, D₂ = 3/5.
    # Words, by contexts: a 2, b 1, </s> 1: two once, one twice, D₁ = 2/4; a, b, </s> and rare are the vocabulary.
    p1 = {word: (n - 0.5) / 4 + 0.5 * 3 / 4 / 4 for word, n in (("a", 2), ("b", 1), (END, 1))}
    a2 = {"a after <s>": 0.4 / 1 + 0.6 * 1 / 1 * p1["a"], "b after a": 1.4 / 3 + 0.6 * 2 / 3 * p1["b"]}
    end = 0.4 + 0.6 * p1[END]
    first = 2.5 / 3 + 0.5 / 3 * a2["a after <s>"]
    second = 1.5 / 3 + 0.5 * 2 / 3 * a2["b after a"]
    third = 2.5 / 3 + 0.5 / 3 * end
    assert model.nats(["a", "b"]) == pytest.approx(-math.log(first * second * third))


def test_probabilities_of_all_short_utterances_add_up() -> None:
    model = Trigrams([["a", "b"], ["b"], ["a", "b", "c", "c"], ["d"]])
    # Words a, b, c, rare (d): of all utterances of two words at most, and all beginnings of three.
    known = ["a", "b", "c", "d"]
    short = sum(math.exp(-model.nats(words)) for n in range(3) for words in itertools.product(known, repeat=n))
    assert 0.5 < short < 1
    longer = sum(math.exp(-model.nats(words)) for words in itertools.product(known, repeat=3))
    assert short + longer < 1


def test_rare_and_unknown_words_have_the_same_probability() -> None:
    model = Trigrams([["a", "x"], ["a", "y"], ["a", "z"]])
    assert model.nats(["a", "x"]) == pytest.approx(model.nats(["a", "never"]))
    assert model.nats(["a", "x"]) > math.log(3)


def test_cross_entropy_of_a_run_and_of_human_dialogues() -> None:
    _, train = talk({f"t{i}": ["R: hi there", "U: i like comedies", "R: try [[Heat (1995)]]"] for i in range(5)})
    _, test = talk({"h": ["U: i like comedies"]})
    _, turns = talk({"a": ["U: i like comedies", "R: hi there"], "b": ["U: comedies like i", "R: "]})
    results = ngram.evaluate(turns, test, train, times=100, seed=0)
    result, parts = results.by_metric["user_cross_entropy"], results.parts
    assert result.floor is None
    assert result.human is not None
    assert result.human < result.estimate.value
    rows = {(row["dialogue_id"], row["metric"]): row for row in parts.iter_rows(named=True)}
    assert rows["a", "user_cross_entropy"]["part"] < rows["b", "user_cross_entropy"]["part"]
    assert rows["a", "recommender_cross_entropy"]["whole"] == 3
    assert ("b", "recommender_cross_entropy") not in rows
    assert result.estimate.value == pytest.approx(
        parts.filter(metric="user_cross_entropy").select(pl.col("part").sum() / pl.col("whole").sum()).item()
    )


def test_without_human_dialogues_the_reason_is_given() -> None:
    _, turns = talk({"a": ["U: hello"]})
    results = ngram.evaluate(turns, turns.clear(), turns.clear(), times=100, seed=0)
    assert not results.by_metric
    assert results.parts.is_empty()
    assert "set `redial`" in results.missing
