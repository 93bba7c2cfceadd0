"""Tables of items, and items by name."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crslib import schemas
from crslib.config import ROOT
from crslib.data import histories, tables
from crslib.data.catalog import Catalog, matches, with_training_statistics
from crslib.data.titles import split_year
from crslib.dialogue import utterances
from crslib.errors import CrsError
from tests.support.domains import MOVIES
from tests.support.fuzz import tries


def films(*rows: tuple[str, str, int | None, int]) -> pl.DataFrame:
    """Table `items` from (item_id, title, year, n_ratings)."""
    empty: dict[str, object] = {
        "kinds": [],
        "makers": [],
        "people": [],
        "attributes": [],
        "external_id": None,
        "mean_rating": None,
    }
    return pl.DataFrame(
        [{"item_id": i, "title": t, "year": y, "n_ratings": n, **empty} for i, t, y, n in rows],
        schema=dict(schemas.TABLES["items"]),
    )


@pytest.fixture(scope="module")
def builtin() -> pl.DataFrame:
    return tables.load(ROOT / "data")[0]


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_items_match_attributes(items: pl.DataFrame) -> None:
    def met(**attributes: object) -> list[str]:
        return items.filter(matches(items, **attributes))["item_id"].to_list()

    assert met() == ["1", "2", "3", "4", "5", "6"]
    assert met(kinds=["action"]) == ["1", "2"]
    assert met(kinds=["action", "crime"]) == ["1"]
    assert met(decade=1990) == ["1", "2", "3"]
    assert met(decade=1930) == ["4"]
    assert met(person="Al Pacino", decade=1990, maker="Michael Mann") == ["1"]
    assert met(kinds=["action"], person="Hugh Grant") == []
    assert met(maker="Nobody") == []


def test_an_item_without_year_matches_no_decade() -> None:
    frame = films(("1", "Undated", None, 0), ("2", "Dated", 2000, 0))
    assert matches(frame, decade=2000).to_list() == [False, True]
    assert matches(frame.clear(), decade=2000).to_list() == []


def test_training_statistics_count_the_given_ratings_only(items: pl.DataFrame) -> None:
    ratings = pl.DataFrame(
        [("a", "1", 4.0, None), ("b", "1", 2.5, None), ("a", "6", 5.0, None)],
        schema=dict(schemas.TABLES["ratings"]),
        orient="row",
    )
    counted = schemas.check(with_training_statistics(items, ratings), "items")
    assert counted["item_id"].to_list() == items["item_id"].to_list()
    assert counted["n_ratings"].to_list() == [2, 0, 0, 0, 0, 1]
    assert counted["mean_rating"].to_list() == [3.25, None, None, None, None, 5.0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("1269"), st.floats(0, 5)), unique_by=lambda r: r[:2]))
def test_training_statistics_depend_on_no_order_and_no_part(rows: list[tuple[str, str, float]]) -> None:
    frame = films(*((item_id, f"Film {item_id}", 1999, 0) for item_id in "126"))  # and 9, which is none of them
    ratings = pl.DataFrame([(*row, None) for row in rows], schema=dict(schemas.TABLES["ratings"]), orient="row")
    counted = with_training_statistics(frame, ratings)
    assert_frame_equal(counted, with_training_statistics(frame, ratings.reverse()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(histories, "PART", 1)
        assert_frame_equal(counted, with_training_statistics(frame, ratings))
    marks = {item_id: [mark for _, item, mark in sorted(rows) if item == item_id] for item_id in "126"}
    assert counted["n_ratings"].to_list() == [len(marks[item_id]) for item_id in "126"]
    means = [sum(own) / len(own) if own else None for own in marks.values()]
    assert counted["mean_rating"].to_list() == pytest.approx(means)


# ── links ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_built_in_item_is_linked_by_its_name(builtin: pl.DataFrame) -> None:
    catalog = Catalog(builtin, MOVIES)
    for item_id in builtin["item_id"]:
        name = catalog.name(item_id)
        assert catalog.find(name) == item_id
        assert [row["item_id"] for row in catalog.link(f"see {utterances.mention(name)}!")] == [item_id]


@pytest.mark.parametrize(
    ("name", "item_id"),
    [
        ("Heat (1995)", "1"),
        ("HEAT (1995)", "1"),
        ("Heat", "1"),
        ("Heat (1996)", "1"),  # one year off, and no other Heat
        ("Heat (1998)", None),
        ("Matrix, The (1999)", "2"),
        ("matrix (1999)", "2"),
        ("Matrix (2000)", None),  # neither title nor year agree
        ("King Kong", "5"),  # the one with more ratings
        ("King Kong (1933)", "4"),
        ("King Kong (2005)", "5"),
        ("King Kong (1976)", None),
        ("Noting Hil (1999)", None),  # 2 letters of 11: too far
        ("Noting Hill (1999)", "3"),
        ("Noting Hill", None),
        ("Noting Hill (2000)", None),
        ("Down (2009)", None),
        ("Ups (2009)", None),
        ("Godfather, The (1972)", None),
        ("(1999)", None),
        ("", None),
    ],
)
def test_names_are_linked(items: pl.DataFrame, name: str, item_id: str | None) -> None:
    catalog = Catalog(items, MOVIES)
    assert catalog.find(name) == item_id
    assert catalog.find(name) == item_id, "the second answer comes from the cache"


@pytest.mark.parametrize(
    ("name", "item_id"),
    [
        ("Star Wars (1977)", "4"),
        ("Star Wars", "4"),  # the first of a series
        ("The Empire Strikes Back (1980)", "5"),
        ("Star Wars: The Empire Strikes Back (1980)", "5"),
        ("Star Wars (1999)", None),
        ("Hostel (2011)", None),
        ("Birdman (2014)", "7"),
        ("Hostel: Part II (2011)", None),  # digits are never a misspelling
    ],
)
def test_find_by_a_part_of_the_title(name: str, item_id: str | None) -> None:
    catalog = Catalog(
        films(
            ("4", "Star Wars: Episode IV - A New Hope", 1977, 9),
            ("5", "Star Wars: Episode V - The Empire Strikes Back", 1980, 99),
            ("6", "Hostel: Part III", 2011, 1),
            ("7", "Birdman: Or (The Unexpected Virtue of Ignorance)", 2014, 1),
        ),
        MOVIES,
    )
    assert catalog.find(name) == item_id


def test_a_name_that_fits_two_films_is_not_linked() -> None:
    catalog = Catalog(
        films(
            ("1", "Alike: One Way", 2001, 5),
            ("2", "Alike: Another", 2001, 9),
            ("3", "So", 1999, 5),
            ("4", "So", 2001, 9),
        ),
        MOVIES,
    )
    assert catalog.find("Alike (2001)") is None
    assert catalog.find("So (2000)") is None
    assert catalog.find("So") == "4"


def test_links_of_an_utterance_are_rows_of_the_mention_type(items: pl.DataFrame) -> None:
    text = "Not [[Heat (1995)]] but [[Heet 3 (1971)]], [[matrix]]"
    rows = Catalog(items, MOVIES).link(text)
    assert rows == [
        {"item_id": "1", "title": "Heat (1995)", "start": 4, "end": 19},
        {"item_id": None, "title": "Heet 3 (1971)", "start": 24, "end": 41},
        {"item_id": "2", "title": "matrix", "start": 43, "end": 53},
    ]
    assert [text[row["start"] : row["end"]] for row in rows] == ["[[Heat (1995)]]", "[[Heet 3 (1971)]]", "[[matrix]]"]
    assert pl.DataFrame({"items": [rows]}, schema={"items": pl.List(schemas.MENTION)})["items"].list.len().item() == 3


def test_an_unknown_id_is_named_in_the_error(items: pl.DataFrame) -> None:
    with pytest.raises(CrsError, match="item '99' is not in the catalogue"):
        Catalog(items, MOVIES).name("99")


NASTY = st.one_of(
    st.text(min_size=1, max_size=12),
    st.lists(
        st.sampled_from(
            ["<|im_end|>", "[[", "]]", "[", "]", "(", ")", "\n", "\u200b", "<b>", "(1999)", "the", "II", "é"]
        ),
        min_size=1,
        max_size=6,
    ).map("".join),
)


@settings(max_examples=tries(150))
@given(st.lists(st.tuples(NASTY, st.none() | st.integers(1990, 1993), st.integers(0, 3)), max_size=8))
def test_find_is_the_inverse_of_name_for_any_titles(rows: list[tuple[str, int | None, int]]) -> None:
    named = {utterances.mention(utterances.item_name(t, y)): (t, y, n) for t, y, n in rows if utterances.one_line(t)}
    frame = films(*((str(i), t, y, n) for i, (t, y, n) in enumerate(named.values())))
    catalog = Catalog(frame, MOVIES)
    for item_id in frame["item_id"]:
        name = catalog.name(item_id)
        assert catalog.find(name) == item_id
        assert catalog.find(utterances.mention(name)[2:-2]) == item_id


@settings(max_examples=tries(150))
@given(st.one_of(NASTY, st.text(st.characters(codec=None), max_size=20)))
def test_find_accepts_any_text(text: str) -> None:
    catalog = Catalog(films(("1", "Heat", 1995, 1), ("2", "...", 1999, 1)), MOVIES)
    for name in (text, f"{text} (1995)", utterances.clean(f"[[{text}]]")):
        assert catalog.find(name) in (None, "1", "2")
        catalog.link(name)


def test_titles_typed_by_hand_are_linked_correctly(builtin: pl.DataFrame, shared_data: Path) -> None:
    """ReDial's titles, with IMDb ids as truth; the limits are a little below the measured values (.986, .964)."""
    truth = dict(builtin.drop_nulls("external_id").select("external_id", "item_id").iter_rows())
    catalog = Catalog(builtin.filter(pl.col("external_id").is_not_null()), MOVIES)
    right = wrong = missed = 0
    for line in (shared_data / "redial" / "item_facts.jsonl").read_text(encoding="utf-8").splitlines():
        film = json.loads(line)
        if film.get("imdb_id") is None or split_year(film["name"])[1] is None:
            continue
        linked, item_id = catalog.find(" ".join(film["name"].split())), truth.get(film["imdb_id"])
        right += linked == item_id is not None
        wrong += linked not in (None, item_id)
        missed += linked is None and item_id is not None
    assert right / (right + wrong) > 0.97
    assert right / (right + wrong + missed) > 0.94


# ── brackets ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "bracketed"),
    [
        ("[[Heat (1995)]] and The Matrix (1999), thanks", "[[Heat (1995)]] and [[The Matrix (1999)]], thanks"),
        ("**Heat** (1995) is great", "[[Heat (1995)]] is great"),
        ("I'd say *Heat (1995)*!", "I'd say [[Heat (1995)]]!"),
        ("Try **matrix** (1999), _Notting Hill_", "Try [[The Matrix (1999)]], [[Notting Hill (1999)]]"),
        ('Seen "Heat" or “The Matrix”?', "Seen [[Heat (1995)]] or [[The Matrix (1999)]]?"),
        ("'Heat' (1995) and *Notting Hill*’s end", "[[Heat (1995)]] and [[Notting Hill (1999)]]’s end"),
        ('"Yes!" she said, "Heat" (1995)', '"Yes!" she said, [[Heat (1995)]]'),
        ("[Heat (1995)], [Heat](1995), [[Heat]] (1995)", "[[Heat (1995)]], [[Heat (1995)]], [[Heat (1995)]]"),
        # nobody's titles: no item, and counted as such
        ("See *Fake Film* (2011)", "See [[Fake Film (2011)]]"),
        ("or Night of the Fakes (2011)", "or [[Night of the Fakes (2011)]]"),
        ("I saw Heat (1977)", "I saw [[Heat (1977)]]"),
        ('"I loved Fake Film (2011)"', '"I loved [[Fake Film (2011)]]"'),
        # no titles
        ("I *love* a **comedy**, up to you", "I *love* a **comedy**, up to you"),
        ("back then (1995) it was hot", "back then (1995) it was hot"),
        ("M*A*S*H, [sic] and 2 * 3", "M*A*S*H, [sic] and 2 * 3"),
        ("", ""),
    ],
)  # fmt: skip
def test_titles_get_brackets(items: pl.DataFrame, text: str, bracketed: str) -> None:
    assert Catalog(items, MOVIES).bracketed(text) == bracketed


def test_a_title_with_brackets_of_its_own_stays_one_mention() -> None:
    catalog = Catalog(films(("1", "[REC]", 2007, 9)), MOVIES)
    for text in ("REC (2007)", "[REC] (2007)", "**REC** (2007)", "[REC (2007)]"):
        assert [row["item_id"] for row in catalog.link(catalog.bracketed(f"see {text} now"))] == ["1"], text


BRACKETS = ["Heat", " ", "(1995)", "*", "**", "_", '"', "“", "”", "'", "[", "]", "[[", "]]", "[[Up (2009)]]", "Matrix",
            "Fake Film", "of the", "(2011)", ",", "s", "`", "!"]  # fmt: skip


@settings(max_examples=tries(200))
@given(st.lists(st.sampled_from(BRACKETS), max_size=14).map("".join))
def test_written_mentions_stay(text: str) -> None:
    catalog = Catalog(films(("1", "Heat", 1995, 9), ("2", "Up", 2009, 9), ("3", "The Matrix", 1999, 9)), MOVIES)
    linked = iter([row["item_id"] for row in catalog.link(catalog.bracketed(text))])
    assert all(row["item_id"] in linked for row in catalog.link(text) if row["item_id"])  # in the same order
