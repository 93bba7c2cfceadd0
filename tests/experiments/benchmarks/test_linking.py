"""Retyped mentions, counted by hand."""

import json

import polars as pl
import pytest

from crslib.data.catalog import Catalog
from crslib.data.corpora import Dialogue, Mention, Turn
from crslib.dialogue import utterances
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.experiments.benchmarks import linking
from tests.support.domains import MOVIES

NAMES = {
    "1": "Titanic (1997)",
    "2": "Titanic (1953)",
    "3": "The Silence of the Lambs (1991)",
    "4": "It (2017)",
    "5": "Everything Else (1999)",
}
IDS = {name: item_id for item_id, name in NAMES.items()}


def dialogue(dialogue_id: str, *texts: str) -> Dialogue:
    turns = tuple(
        Turn(
            (RECOMMENDER, USER)[n % 2],
            text,
            tuple(Mention(IDS.get(m, "?"), m, a, b) for m, a, b in utterances.mentions(text)),
            1,
        )
        for n, text in enumerate(texts)
    )
    return Dialogue(dialogue_id, "u", "r", turns, {})


TALK = [
    dialogue("a", "Have you seen [[Titanic (1997)]]?", "yes, and [[It (2017)]] too"),
    dialogue("b", "I love [[The Silence of the Lambs (1991)]].", "and [[Titanic (1953)]]", "And [[Nothing (2000)]]?"),
    dialogue("c", "Have you seen Titanic?"),
]
COUNTED = [dialogue("t", *["[[Titanic (1997)]] [[It (2017)]] [[The Silence of the Lambs (1991)]]"] * 40)]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    items = linking.corpus_items(NAMES, [*COUNTED, dialogue("e", *["[[Everything Else (1999)]]"] * 4000)])
    return Catalog(items, MOVIES)


@pytest.fixture(scope="module")
def measured(catalog: Catalog) -> dict[str, dict[str, object]]:
    return {row["variant"]: row for row in linking.measure(TALK, catalog).to_dicts()}


def test_items_of_a_corpus_count_its_mentions() -> None:
    items = linking.corpus_items(NAMES, COUNTED)
    assert items.select("item_id", "title", "year", "n_ratings").rows() == [
        ("1", "Titanic", 1997, 40),
        ("2", "Titanic", 1953, 0),
        ("3", "The Silence of the Lambs", 1991, 40),
        ("4", "It", 2017, 40),
        ("5", "Everything Else", 1999, 0),
    ]


def test_with_the_year_all_four_known_mentions_are_found(measured: dict[str, dict[str, object]]) -> None:
    row = measured["title (year)"]
    assert (row["utterances"], row["mentions"], row["right"], row["wrong"], row["elsewhere"]) == (6, 4, 4, 0, 1)
    assert (row["precision"], row["recall"]) == (1.0, 1.0)
    assert row["elsewhere_per_1000"] == pytest.approx(1000 / 6)


def test_without_the_year_a_short_title_is_missed_and_the_less_known_film_is_mistaken(
    measured: dict[str, dict[str, object]],
) -> None:
    row = measured["title"]
    assert (row["mentions"], row["right"], row["wrong"], row["elsewhere"]) == (4, 2, 1, 1)
    assert row["precision"] == pytest.approx(2 / 3)
    assert row["recall"] == 0.5


def test_without_mentions_only_unlinked_titles_are_spotted(measured: dict[str, dict[str, object]]) -> None:
    row = measured["mentions cut out"]
    assert (row["mentions"], row["right"], row["wrong"], row["elsewhere"]) == (0, 0, 0, 1)
    assert row["precision"] is None
    assert row["recall"] is None


@pytest.mark.parametrize("where", [f"d.{n}" for n in range(40)])
def test_a_slip_is_one_error_in_a_long_title_and_always_the_same(where: str) -> None:
    slipped = linking.VARIANTS["one slip"]("The Silence of the Lambs (1991)", where)
    title = "The Silence of the Lambs"
    assert slipped == linking.VARIANTS["one slip"]("The Silence of the Lambs (1991)", where)
    assert abs(len(slipped) - len(title)) <= 1
    head = next((i for i, (a, b) in enumerate(zip(slipped, title, strict=False)) if a != b), len(title))
    tails = zip(reversed(slipped), reversed(title), strict=False)
    tail = next((i for i, (a, b) in enumerate(tails) if a != b), len(title))
    assert head + tail >= len(title) - 2, "at most two neighbouring letters differ"
    assert linking.VARIANTS["one slip"]("Titanic (1997)", where) == "Titanic"


def test_rows_are_json_and_text(catalog: Catalog) -> None:
    frame = linking.measure(TALK, catalog)
    assert json.loads(json.dumps(frame.to_dicts())) == frame.to_dicts()
    lines = linking.formatted(frame).splitlines()
    assert len(lines) == 1 + len(linking.VARIANTS)
    assert lines[2].split() == ["title", "(year)", "4", "1.000", "1.000", "166.7"]
    assert linking.formatted(linking.measure([], catalog)).count("–") == 3 * len(linking.VARIANTS)


def test_an_empty_catalogue_is_no_error() -> None:
    empty = Catalog(linking.corpus_items({}, []), MOVIES)
    assert isinstance(linking.measure(TALK, empty), pl.DataFrame)
