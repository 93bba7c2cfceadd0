"""Diversity of words and items, by hand and against sacrebleu."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from crslib import stats
from crslib.metrics import diversity, facts
from tests.support.domains import MOVIES
from tests.support.metrics_frames import share, talk


def exact(monkeypatch: pytest.MonkeyPatch, words: int) -> None:
    monkeypatch.setattr(diversity, "BUDGET", words)


def test_distinct_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch, 6)
    estimates = diversity.distinct([[["a", "b", "a"], ["b", "a", "b"]]], times=100, seed=0)
    # Unigrams a b a b a b: 2 of 6. Bigrams ab ba | ba ab: 2 of 4. Trigrams aba | bab: 2 of 2.
    assert [e and e.value for e in estimates] == pytest.approx([2 / 6, 2 / 4, 1.0])


def test_the_last_dialogue_is_cut_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch, 4)
    (unigrams, bigrams, _) = diversity.distinct([[["a", "b", "c"], ["d", "e"]]], times=100, seed=0)
    # a b c | d: four of four; ab bc, and no de.
    assert unigrams is not None and bigrams is not None
    assert (unigrams.value, bigrams.value) == (1.0, 1.0)
    exact(monkeypatch, 6)
    assert diversity.distinct([[["a", "b", "c"], ["d", "e"]]], times=100, seed=0) == [None, None, None]


def test_single_words_have_no_bigrams(monkeypatch: pytest.MonkeyPatch) -> None:
    exact(monkeypatch, 3)
    unigrams, bigrams, _ = diversity.distinct([[["a"], ["b"], ["a"]]], times=100, seed=0)
    assert unigrams is not None
    assert unigrams.value == pytest.approx(2 / 3)
    assert bigrams is None


def test_distinct_n_does_not_grow_with_the_run() -> None:
    generator = np.random.default_rng(0)
    spoken = [[[f"w{generator.zipf(1.5)}" for _ in range(10)] for _ in range(4)] for _ in range(400)]
    few, many = (diversity.distinct(spoken[:n], times=100, seed=0)[0] for n in (100, 400))
    assert few is not None and many is not None
    assert few.value == pytest.approx(many.value, abs=0.03)
    assert many.low is not None and many.high is not None
    assert many.low < many.value < many.high


utterances = st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=8), min_size=2, max_size=8)


@given(utterances)
def test_self_bleu_is_sacrebleus(spoken: list[list[str]]) -> None:
    bleu = BLEU(tokenize="none", effective_order=True, smooth_method="exp")
    texts = [" ".join(words) for words in spoken]
    expected = [bleu.sentence_score(text, texts[:i] + texts[i + 1 :]).score / 100 for i, text in enumerate(texts)]
    assert diversity.mean_bleu([diversity._count(words) for words in spoken]) == pytest.approx(np.mean(expected))


def test_self_bleu_of_equal_and_of_different_utterances() -> None:
    equal = [[["have", "you", "seen", "it", "yet"]]] * 60
    distinct = [[[f"{i}a", f"{i}b", f"{i}c"]] for i in range(60)]
    same, different = (diversity.self_bleu(spoken, times=100, seed=0) for spoken in (equal, distinct))
    assert same is not None and different is not None
    assert (same.value, same.low, same.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    assert different.value == 0
    assert diversity.self_bleu(equal[:29], times=100, seed=0) is None


def test_loops_are_repetitions_by_the_same_speaker_in_the_dialogue() -> None:
    parts = diversity.parts(
        facts(*talk({"p": ["R: Seen it?", "U: seen it", "R: seen it!", "U: no", "R: Seen it"], "q": ["U: no"]}), MOVIES)
    )
    assert share(parts, "recommender_loops") == pytest.approx(2 / 3)
    assert share(parts, "user_loops") == 0


def test_duplicates_occur_in_another_dialogue_too() -> None:
    run = facts(
        *talk({"a": ["U: hi", "R: x", "U: hi"], "b": ["U: Hi!"], "c": ["U: hello"], "d": ["U: bye", "U: bye"]}), MOVIES
    )
    results = diversity.whole(run, run, times=100, seed=0)
    # Of six user utterances, three say hi in two dialogues; bye comes twice in one dialogue only.
    assert results["user_duplicates"].estimate.value == pytest.approx(3 / 6)
    assert results["user_duplicates"].human == pytest.approx(3 / 6)
    assert results["recommender_duplicates"].estimate.value == 0


def test_entropy() -> None:
    values = diversity.entropy(np.array([[1.0, 1, 1, 1], [4, 0, 0, 0], [2, 1, 1, 0], [0, 0, 0, 0]]))
    assert values[:3] == pytest.approx([2.0, 0.0, 1.5])
    assert math.isnan(values[3])


def test_item_entropy_is_compared_at_equal_numbers_of_dialogues() -> None:
    names = ["Heat (1995)", "The Matrix (1999)", "Notting Hill (1999)", "Up (2009)"]
    run = facts(*talk({f"r{i}": [f"R: [[{names[i]}]]"] for i in range(2)}), MOVIES)
    human = facts(*talk({f"h{i}": [f"R: [[{names[i % 4]}]]"] for i in range(8)}), MOVIES)
    result = diversity.whole(run, human, times=100, seed=0)["item_entropy"]
    assert result.estimate.value == 1.0
    assert result.human is not None
    assert 0 < result.human <= 1.0  # two dialogues name two films at most, although all eight name four
    bigger = diversity.whole(human, run, times=100, seed=0)["item_entropy"]
    assert bigger.estimate.value <= 1.0
    assert bigger.human == 1.0


def test_no_items_no_entropy() -> None:
    run = facts(*talk({"a": ["U: hi"]}), MOVIES)
    assert set(diversity.whole(run, run, times=100, seed=0)) == {"user_duplicates"}


def test_metrics_of_texts_need_enough_text() -> None:
    _, turns = talk({f"d{i:02d}": ["R: " + " ".join(f"word{j % 9}" for j in range(20)), "U: yes"] for i in range(60)})
    estimates = diversity.texts(turns, times=100, seed=0)
    assert set(estimates) == {
        "recommender_distinct_1",
        "recommender_distinct_2",
        "recommender_distinct_3",
        "recommender_self_bleu",
        "user_self_bleu",
    }
    assert estimates["recommender_distinct_1"].value == pytest.approx(9 / 1000)
    assert isinstance(estimates["user_self_bleu"], stats.Estimate)
    assert isinstance(turns, pl.DataFrame)


def test_repetition_within_utterances_and_of_sentences_by_hand() -> None:
    _, turns = talk(
        {
            "p": [
                "R: It is great. It is great.",
                "U: ok",
                "R: It is great. Have you seen [[Heat (1995)]]?",
                "U: it is great",
                "R: Have you seen [[Up (2009)]]? Yes.",
            ],
            "q": ["R: It is great."],
        }
    )
    parts = diversity.repetition(turns)
    assert share(parts, "recommender_self_repetition") == 1 / 4
    # Of 2 + 2 + 1 + 1 sentences of three words and more, "it is great" and the question were said in a turn before.
    assert share(parts, "recommender_said_again") == 2 / 6
    assert share(parts, "user_said_again") == 0


@given(st.lists(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=4), min_size=1, max_size=4))
def test_codes_of_n_grams_are_equal_where_their_words_are(spoken: list[list[list[str]]]) -> None:
    for order, dialogues in zip(diversity.ORDERS, diversity._grams(spoken), strict=True):
        codes = [code for own, _ in dialogues for code in own.tolist()]
        grams, ends = [], []
        for dialogue in spoken:
            read = 0
            for utterance in dialogue:
                here = range(order, len(utterance) + 1)
                grams += [tuple(utterance[end - order : end]) for end in here]
                ends += [read + end for end in here]
                read += len(utterance)
        assert [end for _, own in dialogues for end in own.tolist()] == ends
        assert len(codes) == len(grams)
        assert len(set(zip(codes, grams, strict=True))) == len(set(codes)) == len(set(grams))
