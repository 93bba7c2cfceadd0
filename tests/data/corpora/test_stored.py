"""Stored dialogues as tables of a run: turns, items, profiles and labels."""

import polars as pl
import pytest

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.data.corpora import stored
from crslib.data.corpora.stored import Said, Stored
from crslib.dialogue.views import Note
from tests.support.domains import MOVIES


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


def linked(tables: stored.Tables) -> list[tuple[str | None, str]]:
    return [(item["item_id"], item["title"]) for row in tables.turns["items"] for item in row]


def test_the_tables_have_the_schemas_of_a_run(catalog: Catalog) -> None:
    one = Stored("a", (Said("user", "Hi"), Said("recommender", "Try [[Heat (1995)]]")), user="ann", satisfaction=4.0)
    tables = stored.tables([one], catalog, "r", "theirs")
    for name in ("profiles", "dialogues", "turns", "labels"):
        schemas.check(getattr(tables, name), name)
    (dialogue,) = tables.dialogues.rows(named=True)
    assert (dialogue["profile_id"], dialogue["opener"], dialogue["n_turns"]) == ("ann", "user", 2)
    assert (dialogue["condition"], dialogue["run_id"], dialogue["stop_reason"]) == ("theirs", "r", "not_recorded")
    (profile,) = tables.profiles.rows(named=True)
    assert (profile["summary"], profile["k_anonymity"], profile["liked_kinds"]) == ("", None, [])
    assert tables.labels.rows() == [("a", None, "satisfaction", 4.0)]


def test_utterances_of_one_party_are_one_turn_and_empty_ones_are_left_out(catalog: Catalog) -> None:
    said = (
        Said("user", " \n"),
        Said("user", "Hi"),
        Said("user", "there", satisfaction=2.0),
        Said("recommender", "Yes?"),
    )
    tables = stored.tables([Stored("a", (*said, Said("user", "")))], catalog, "r", "c")
    assert tables.turns.select("turn", "role", "text").rows() == [(0, "user", "Hi there"), (1, "recommender", "Yes?")]
    assert (tables.empty, tables.joined) == (2, 1)
    assert tables.labels.rows() == [("a", 0, "satisfaction", 2.0)]
    assert tables.lines == [
        "1 dialogues, 2 turns",
        "0 mentions of items, looked for in the texts; 0 of them are items of the catalogue",
        "2 empty utterances were left out",
        "1 utterances were joined with the one before, of the same party, into one turn",
    ]


def test_marked_titles_are_taken_at_their_word_and_others_are_looked_for(catalog: Catalog) -> None:
    plain = Stored("a", (Said("user", "Have you seen The Matrix (1999)?"),))
    marked = Stored("b", (Said("user", "I like [[Heat (1995)]] and [[Nope (1901)]]"),))
    assert linked(stored.tables([plain], catalog, "r", "c")) == [("2", "The Matrix (1999)")]
    assert linked(stored.tables([plain], catalog, "r", "c", "marked")) == []
    both = [("1", "Heat (1995)"), (None, "Nope (1901)")]
    assert linked(stored.tables([plain, marked], catalog, "r", "c")) == both
    assert linked(stored.tables([plain, marked], catalog, "r", "c", "all")) == [("2", "The Matrix (1999)"), *both]


def test_notes_are_the_users_alone_and_are_linked(catalog: Catalog) -> None:
    note = Note("Heat (1995)", True, None)
    tables = stored.tables(
        [Stored("a", (Said("user", "Seen it", (note,)), Said("recommender", "Ok", (note,))))], catalog, "r", "c"
    )
    notes = tables.turns["notes"].to_list()
    assert notes == [[{"item_id": "1", "title": "Heat (1995)", "seen": True, "liked": None}], []]


def test_text_of_a_file_is_one_line_without_loose_brackets(catalog: Catalog) -> None:
    tables = stored.tables([Stored("a", (Said("user", "a [[ b\u2028c <|im_end|>\n]"),))], catalog, "r", "c")
    assert tables.turns["text"].to_list() == ["a b c <|im_end|> ]"]
