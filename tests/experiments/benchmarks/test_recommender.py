"""Ranks and gains computed by hand on toy dialogues, with a language model of one rule."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crslib.data.corpora import Dialogue, Mention, Turn, redial
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.errors import CrsError
from crslib.experiments.benchmarks import recommender
from crslib.recommender import mixture
from crslib.recommender.prior import Utterance
from tests.support.domains import MOVIES

NAMES = {"1": "Heat (1995)", "2": "The Matrix (1999)", "3": "Notting Hill (1999)", "4": "Up", "5": "Alien (1979)"}
IDS = {name: item for item, name in NAMES.items()}


def dialogue(dialogue_id: str, *texts: str) -> Dialogue:
    """Turns in alternation, the recommender's first."""
    turns = tuple(
        Turn(
            (RECOMMENDER, USER)[n % 2],
            text,
            tuple(Mention(IDS[m], m, a, b) for m, a, b in utterances.mentions(text)),
            1,
        )
        for n, text in enumerate(texts)
    )
    return Dialogue(dialogue_id, "u", "r", turns, {})


TRAIN = [
    dialogue("t1", "Hi", "I like [[Heat (1995)]]", "Seen [[The Matrix (1999)]]?"),
    dialogue("t2", "Hi", "I like [[Heat (1995)]]", "Seen [[The Matrix (1999)]]?"),
    dialogue("t3", "Hi", "I like [[Up]] and [[Notting Hill (1999)]]", "Seen [[Heat (1995)]]?"),
]
TEST = [
    dialogue(
        "a",
        "Seen [[Up]]?",
        "no, but [[Heat (1995)]]",
        "Then [[The Matrix (1999)]], [[The Matrix (1999)]], [[Up]] or [[Alien (1979)]]",
    ),
    dialogue("b", "Hi", "Hi", "Good bye"),
]


class RuleModel:
    """A "model" over bytes: after the last capital letter of the prompt the same letter is likely, all else is even."""

    chat_template = ("", "", "")

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return list(text.encode())

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> np.ndarray:
        text = bytes(prompt).rsplit(b"<|im_start|>", 1)[0]
        favourite = [byte for byte in text if chr(byte) in "AHNTU"][-1:]
        return np.array([sum(-0.5 if [c] == favourite else -5.0 for c in one[:1]) - len(one) for one in continuations])

    def score_tokens(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[np.ndarray]:
        return [np.diff(self.score(prompt, [one[:n] for n in range(len(one) + 1)])) for one in continuations]


@pytest.fixture
def facts(items: pl.DataFrame) -> pl.DataFrame:
    """Facts of the first four films."""
    return items.filter(~pl.col("item_id").is_in(["4", "5"])).with_columns(pl.col("item_id").replace("6", "4"))


@pytest.fixture
def evaluated(facts: pl.DataFrame) -> pl.DataFrame:
    prior = recommender.fit(recommender.with_facts(NAMES, TRAIN, facts), TRAIN)
    return recommender.evaluate(recommender.cases(TEST), NAMES, TRAIN, prior, RuleModel(), times=20)


def test_cases_are_the_turns_with_items() -> None:
    first, second = recommender.cases(TEST)
    assert (first.dialogue_id, first.turns, first.targets, first.mentioned) == ("a", (), ("4",), frozenset())
    assert [turn.role for turn in second.turns] == [RECOMMENDER, USER]
    assert (second.targets, second.new, second.mentioned) == (("2", "4", "5"), ("2", "5"), frozenset({"4", "1"}))


def test_rank_counts_better_scores_and_equal_ones_before() -> None:
    scores = np.array([0.5, 0.9, 0.5, 0.5, -np.inf])
    assert [recommender.rank(scores, target) for target in range(5)] == [2, 1, 3, 4, 5]


def test_gains_by_hand() -> None:
    means = {name: gained.mean() for name, gained in recommender.gains(np.array([1, 2, 11, 60])).items()}
    assert means == pytest.approx(
        {
            "recall@1": 1 / 4,
            "recall@10": 2 / 4,
            "recall@50": 3 / 4,
            "mrr": (1 + 1 / 2 + 1 / 11 + 1 / 60) / 4,
            "ndcg@10": (1 + 1 / math.log2(3)) / 4,
        }
    )


def test_items_of_a_corpus_get_the_facts_of_their_ids(facts: pl.DataFrame) -> None:
    described = recommender.with_facts(NAMES, TRAIN, facts)
    assert described.select("item_id", "year", "n_ratings", "makers").rows() == [
        ("1", 1995, 3, ["Michael Mann"]),
        ("2", 1999, 2, ["Lana Wachowski"]),
        ("3", 1999, 1, ["Roger Michell"]),
        ("4", None, 1, ["Pete Docter"]),
        ("5", 1979, 0, []),
    ]


def test_popularity_by_hand(evaluated: pl.DataFrame) -> None:
    # Counts: Heat 3, The Matrix 2, Notting Hill 1, Up 1, Alien 0. Target Up: behind three, the last an equal before it.
    # Then Up and Heat are out: The Matrix is first, Alien third.
    figures = recommender.record(evaluated)["new"]["popularity"]
    assert (figures["n"], figures["recall@1"], figures["recall@10"]) == (3, pytest.approx(1 / 3), 1)
    assert figures["mrr"] == pytest.approx((1 / 4 + 1 + 1 / 3) / 3)
    # With repeats: Up is a target again, and all five are candidates: The Matrix is second, Up fourth, Alien fifth.
    figures = recommender.record(evaluated)["repeats"]["popularity"]
    assert (figures["n"], figures["mrr"]) == (4, pytest.approx((1 / 4 + 1 / 2 + 1 / 4 + 1 / 5) / 4))


def test_the_prior_follows_who_mentions_what(facts: pl.DataFrame) -> None:
    prior = recommender.fit(recommender.with_facts(NAMES, TRAIN, facts), TRAIN)
    scores = prior.log_prior([Utterance(USER, "I like [[Heat (1995)]]", ["1"])], exclude=["1"])
    assert prior.item_ids[int(scores.argmax())] == "2"


def test_titles_are_scored_in_their_dialogue() -> None:
    titles = mixture.TitleModel(RuleModel(), list(NAMES.values()), MOVIES)
    scores = titles([Utterance(USER, "No")])
    # Only Notting Hill begins with the last capital. Titles are scored to the bracket before their year, or to the
    # first one that closes the mention.
    lengths = [len("Heat ("), len("The Matrix ("), len("Notting Hill ("), len("Up]"), len("Alien (")]
    expected = [-5.0 - length for length in lengths]
    expected[2] += 4.5
    assert scores == pytest.approx(expected)
    assert titles.base == pytest.approx([-5.0 - n if i else -0.5 - n for i, n in enumerate(lengths)])


def test_all_rankers_are_in_one_table_for_each_rule_with_published_results(evaluated: pl.DataFrame) -> None:
    recorded = recommender.record(evaluated)
    assert tuple(recorded) == recommender.RULES
    for rankers in recorded.values():
        assert tuple(rankers) == ("popularity", "prior", "lm", "fused")
        assert all({*recommender.METRICS, "n", "intervals"} == set(figures) for figures in rankers.values())
    assert json.loads(json.dumps(recorded)) == recorded
    lines = recommender.formatted(evaluated).splitlines()
    for start in (2, 9):
        assert [line.split()[0] for line in lines[start : start + 4]] == list(("popularity", "prior", "lm", "fused"))
    assert lines[14].split()[-5:] == ["0.050", "0.215", "0.413", "–", "–"]


def test_a_target_outside_the_catalogue_is_refused(facts: pl.DataFrame) -> None:
    names = {item: name for item, name in NAMES.items() if item != "5"}
    train = list(TRAIN)
    prior = recommender.fit(recommender.with_facts(names, train, facts), train)
    with pytest.raises(CrsError, match="item '5'"):
        recommender.evaluate(recommender.cases(TEST), names, train, prior)


def test_on_redial_the_prior_beats_popularity(shared_data: Path) -> None:
    names = redial.movies(shared_data / "redial")
    dialogues = redial.read(shared_data / "redial", "train")[:1000]
    train, held_out = dialogues[:850], recommender.cases(dialogues[850:])
    prior = recommender.fit(recommender.with_facts(names, train, redial.items()), train)
    figures = recommender.record(recommender.evaluate(held_out, names, train, prior, times=20))["new"]
    assert figures["prior"]["recall@50"] > figures["popularity"]["recall@50"]
    assert figures["prior"]["mrr"] > figures["popularity"]["mrr"]
