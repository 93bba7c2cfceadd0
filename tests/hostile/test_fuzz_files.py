"""Random files (imports, dialogues, journals): each gives a right value or one sentence.

The suite tries some of them, the same ones each time; `make fuzz` tries others, and more.
"""

import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib import schemas
from crslib.data import imports, movielens
from crslib.data.catalog import Catalog
from crslib.data.corpora import forms, iard, redial, stored
from crslib.data.tables import load
from crslib.dialogue import utterances
from crslib.store import Run
from tests.support.domains import MOVIES
from tests.support.fuzz import SLOW, folder, sentence
from tests.support.metrics_frames import table
from tests.support.texts import NASTY, TEXT

# ── importers ───────────────────────────────────────────────────────────────────────────────────────────────────

CELL = st.one_of(
    TEXT,
    st.sampled_from(["", "1", "2", "5.0", "0", "-1", "nan", "1e999", "1995", "-720.0", "Heat (1995)", "-", "\\N", '"']),
    st.integers().map(str),
)
COLUMN = st.one_of(
    st.sampled_from(
        (
            *("item_id", "title", "year", "genres", "directors", "cast", "imdb_id", "user_id", "rating", "rated_at"),
            *("movieId", "name", "timestamp", "Item ID", "ISBN", "book_id", "authors"),
        )
    ),
    TEXT,
)
TABLE = st.tuples(st.lists(COLUMN, min_size=1, max_size=6), st.lists(st.lists(CELL, max_size=7), max_size=5))
DELIMITER = st.sampled_from([",", ";", "\t", "|"])
ENCODING = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
BYTES = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=60).map(lambda raw: b"user_id,item_id,rating,title\n1,1,3,Heat\n" + raw),
    st.sampled_from([b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"[", b"{"]).flatmap(
        lambda magic: st.binary(max_size=60).map(lambda raw: magic + raw)
    ),
)


def written(header: list[str], rows: list[list[str]], delimiter: str, quoted: bool) -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if quoted else text

    return "\n".join(delimiter.join(map(cell, line)) for line in [header, *rows])


def imported(to: Path, done: Any) -> None:
    """Both tables where the import gave something, else none."""
    if done is None:
        assert not list(to.glob("*"))
        return
    items, ratings = load(to)
    assert (done.items, done.ratings) == (items.height, ratings.height)
    schemas.check(items, "items")
    schemas.check(ratings, "ratings")
    names = [utterances.item_name(*row) for row in items.select("title", "year").iter_rows()]
    assert len(set(names)) == len(names)
    assert all(utterances.MENTION.fullmatch(utterances.mention(name)) for name in names)


@given(BYTES, st.one_of(st.none(), BYTES))
def test_any_bytes_are_imported_or_refused(ratings: bytes, items: bytes | None) -> None:
    with folder() as there:
        (there / "r").write_bytes(ratings)
        if items is not None:
            (there / "i").write_bytes(items)
        given = there / "i" if items is not None else None
        imported(there / "to", sentence(lambda: imports.import_ratings(there / "r", given, there / "to")))


@SLOW
@given(TABLE, TABLE, DELIMITER, st.booleans(), ENCODING)
def test_any_cells_are_imported_or_refused(
    ratings: tuple[list[str], list[list[str]]],
    items: tuple[list[str], list[list[str]]],
    delimiter: str,
    quoted: bool,
    encoding: str,
) -> None:
    with folder() as there:
        for name, (header, rows) in (("r", ratings), ("i", items)):
            (there / name).write_bytes(written(header, rows, delimiter, quoted).encode(encoding, "replace"))
        imported(there / "to", sentence(lambda: imports.import_ratings(there / "r", there / "i", there / "to")))


ITEM_CELLS = st.fixed_dictionaries(
    {"item_id": CELL, "title": CELL},
    optional={name: CELL for name in ("year", "genres", "directors", "cast", "imdb_id")},
)


@given(st.lists(ITEM_CELLS, min_size=1, max_size=4, unique_by=lambda row: row["item_id"]), st.lists(CELL, min_size=4))
def test_any_items_are_imported_or_refused(rows: list[dict[str, str]], ratings: list[str]) -> None:
    """Tables that are otherwise in order, as Parquet: texts reach the reader as they are."""
    with folder() as there:
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(there / "i")
        rated = [(f"u{n}", rows[n % len(rows)]["item_id"], cell) for n, cell in enumerate(ratings)]
        pl.DataFrame(rated, schema=["user_id", "item_id", "rating"], orient="row").write_parquet(there / "r")
        imported(there / "to", sentence(lambda: imports.import_ratings(there / "r", there / "i", there / "to")))


@SLOW
@given(st.dictionaries(st.sampled_from(["ratings.csv", "movies.csv", "ratings.dat", "movies.dat", "u.data"]), BYTES))
def test_any_archive_is_imported_or_refused(members: dict[str, bytes]) -> None:
    with folder() as there:
        with zipfile.ZipFile(there / "z", "w") as archive:
            for name, content in members.items():
                archive.writestr(f"ml/{name}", content)
        imported(there / "to", sentence(lambda: movielens.import_movielens(there / "z", there / "to")))


# ── files of dialogues ──────────────────────────────────────────────────────────────────────────────────────────

KEYS = [
    *("conversation", "participant", "utterance", "annotations", "metadata", "satisfaction", "conversation ID"),
    *("dialog", "role", "text", "movies", "items", "messages", "content", "prompt", "completion", "dialogue_id"),
    *("conversationId", "senderWorkerId", "initiatorWorkerId", "respondentWorkerId", "movieMentions", "movieId"),
    *("initiatorQuestions", "respondentQuestions", "movieName", "liked", "seen", "suggested", "turns", "dialogs"),
]
SCALAR = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    TEXT,
    st.text(alphabet=st.characters(categories=["Cs"]), max_size=2),
    st.sampled_from(["user", "assistant", "system", "@1", "AGENT", "USER", "Heat (1995)", "About you: x"]),
)
JSON = st.recursive(
    SCALAR,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)),
    max_leaves=25,
)
# Records that are nearly of a form: the shape is right, one value or another is not.
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.one_of(JSON, st.sampled_from(["user", "assistant", "hi @1", 1, 2]))
            for name in (
                "role",
                "content",
                "text",
                "participant",
                "utterance",
                "senderWorkerId",
                "movies",
                "annotations",
            )
        },
    ),
    max_size=4,
)
RECORD = st.fixed_dictionaries(
    {},
    optional={
        **{name: st.one_of(MESSAGES, JSON) for name in ("messages", "conversation", "dialog", "prompt", "completion")},
        "conversationId": st.one_of(st.just("1"), SCALAR),
        "initiatorWorkerId": st.one_of(st.just(1), SCALAR),
        "respondentWorkerId": st.one_of(st.just(2), SCALAR),
        **{name: JSON for name in ("movieMentions", "initiatorQuestions", "respondentQuestions", "metadata")},
    },
)
CATALOG = Catalog(
    table("items", [{"item_id": "1", "title": "Heat", "year": 1995, "n_ratings": 3}, {"item_id": "2", "title": "Up"}]),
    MOVIES,
)


@pytest.mark.parametrize("form", [form for form in forms.FORMS if form != "dataset"])
@SLOW
@given(st.one_of(JSON, st.lists(st.one_of(RECORD, JSON), max_size=3), RECORD), st.booleans())
def test_any_json_is_a_file_of_dialogues_or_refused(form: str, content: Any, lines: bool) -> None:
    with folder() as there:
        path = there / "file.json"
        rows = content if lines and isinstance(content, list) else [content]
        path.write_text("\n".join(map(json.dumps, rows)))
        read = sentence(lambda: forms.read(path, form, MOVIES))
        if read is not None:
            made = sentence(lambda: stored.tables(read, CATALOG, "r", "c"))
            if made is not None:
                schemas.check(made.turns, "turns").write_parquet(there / "turns")
                schemas.check(made.dialogues, "dialogues").write_parquet(there / "dialogues")


@pytest.mark.parametrize("form", forms.FORMS)
@SLOW
@given(BYTES)
def test_any_bytes_are_a_file_of_dialogues_or_refused(form: str, content: bytes) -> None:
    with folder() as there:
        (there / "file").write_bytes(content)
        sentence(lambda: forms.read(there / "file", form, MOVIES))


@SLOW
@given(st.lists(st.one_of(RECORD, JSON), min_size=1, max_size=3))
def test_any_json_lines_are_redial_or_refused(rows: list[Any]) -> None:
    with folder() as there:
        (there / "train_data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sentence(lambda: redial.read(there, "train"))
        sentence(lambda: redial.read_file(there / "train_data.jsonl"))


@SLOW
@given(st.one_of(JSON, st.lists(RECORD, max_size=3)))
def test_any_json_is_iards_file_or_refused(content: Any) -> None:
    with folder() as there:
        (there / "iard.json").write_text(json.dumps(content))
        sentence(lambda: iard.read(there / "iard.json"))


# ── journal ─────────────────────────────────────────────────────────────────────────────────────────────────────

LINES = [
    json.dumps({"key": "k", "dialogue": {"dialogue_id": f"d{n}"}, "text": NASTY[n % len(NASTY)]}) for n in range(5)
]
FOREIGN = [json.dumps({"key": "other", "dialogue": {"dialogue_id": "d1"}}), '{"key": 1}', "[]", "\0", "", "{", "null"]
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "double", "foreign", "swap"]), st.integers(0, 10_000), st.integers(1, 255)
    ),
    max_size=4,
)


def damaged(damage: list[tuple[str, int, int]]) -> list[bytes]:
    """The journal's lines after these faults."""
    lines = [line.encode() for line in LINES]
    for kind, place, bits in damage:
        number = place % len(lines)
        line = lines[number]
        if kind == "flip" and line:
            at = bits % len(line)
            lines[number] = line[:at] + bytes([line[at] ^ bits]) + line[at + 1 :]
        elif kind == "cut":
            lines[number] = line[: bits % (len(line) + 1)]
        elif kind == "double":
            lines.insert(number, line)
        elif kind == "foreign":
            lines.insert(number, FOREIGN[bits % len(FOREIGN)].encode())
        elif kind == "swap":
            lines[number], lines[0] = lines[0], lines[number]
    return lines


@given(DAMAGE, st.booleans())
def test_no_fault_of_a_journal_costs_or_doubles_another_record(damage: list[tuple[str, int, int]], torn: bool) -> None:
    lines = damaged(damage)
    content = b"".join(line + b"\n" for line in lines)
    whole = {line.encode() for line in LINES} & set(content.split(b"\n")[: -2 if torn else -1])
    with folder() as there, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = there / "journal.jsonl"
        file.write_bytes(content[:-1] if torn else content)
        for _ in range(2):  # the second time it is clean
            with Run(there).journal() as journal:
                journal.keep_only("k", lambda record: isinstance(record.get("dialogue"), dict))
                kept = [json.dumps(record).encode() for record in journal.records]
                assert whole <= {json.dumps(json.loads(line)).encode() for line in kept}
                assert all(record["key"] == "k" for record in journal.records)
                assert len(set(kept)) == len(kept)
        assert len(file.read_bytes().split(b"\n")) == len(kept) + 1
        with Run(there).journal() as journal:
            journal.append({"key": "k", "dialogue": {"dialogue_id": "new"}})
        with Run(there).journal() as journal:
            assert len(journal.records) == len(kept) + 1
