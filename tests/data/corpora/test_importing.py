"""A file of human dialogues becomes a corpus: linked, credited, with a summary of what it holds and lacks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import files, schemas, store
from crslib.data.corpora import folder, importing
from crslib.data.corpora.redial import items as redial_items
from crslib.data.source import Source
from crslib.errors import CrsError
from tests.support import corpora

CASES: list[tuple[str, str, Callable[[Path], Path], list[str]]] = [
    ("pearl", "train.json", corpora.pearl, [
        "2 dialogues, 6 turns",
        "3 titles in 4 mentions; 2 of them (2 mentions) are items of the catalogue",
        "titles that are not in the catalogue: 1, most often The Quiet Harbour (1996)",
        "answers on what a seeker has seen or likes: 4",
        "dialogues that say who the seeker is: 2",
        "dialogues with an item to be found: 2; no view holds it before it is named",
        "seekers: 1",
        "personas without the sentences that name the film to be found: 2",
    ]),
    ("opendialkg", "opendialkg.csv", corpora.opendialkg, [
        "2 dialogues, 5 turns",
        "2 titles in 3 mentions; 1 of them (1 mentions) are items of the catalogue",
        "titles that are not in the catalogue: 1, most often Insomnia",
        "answers on what a seeker has seen or likes: 0; so views have no private notes, and no summary made from them",
        "dialogues that say who the seeker is: 0; so summaries come from the answers, and attributes from what is "
        "asked for",
        "seekers: 2; each dialogue is another person's",
        "left out, dialogues that name nothing of movies: 1",
    ]),
    ("inspired", "dev.tsv", corpora.inspired, [
        "2 dialogues, 4 turns",
        "2 titles in 2 mentions; 2 of them (2 mentions) are items of the catalogue",
    ]),
    ("ccpe", "data.json", corpora.ccpe, [
        "1 dialogues, 3 turns",
        "1 titles in 1 mentions; 1 of them (1 mentions) are items of the catalogue",
    ]),
    ("cikm", "test_raw.jsonl", corpora.cikm, [
        "2 dialogues, 6 turns",
        "4 titles in 4 mentions; 3 of them (3 mentions) are items of the catalogue",
    ]),
    ("dialoguekit", "dialogues.json", corpora.dialoguekit, [
        "1 dialogues, 2 turns",
        "2 titles in 2 mentions; 2 of them (2 mentions) are items of the catalogue",
    ]),
]  # fmt: skip


@pytest.fixture
def data(items: pl.DataFrame, tmp_path: Path) -> Path:
    """A folder with a small catalogue of films."""
    files.write_parquet(items, tmp_path / "data" / "items.parquet")
    return tmp_path / "data"


@pytest.mark.parametrize(("form", "name", "make", "lines"), CASES, ids=[case[0] for case in CASES])
def test_every_form_is_imported_and_read_back(
    form: str, name: str, make: Callable[[Path], Path], lines: list[str], data: Path, tmp_path: Path
) -> None:
    corpus = importing.import_dialogues(make(tmp_path / name), form, tmp_path / "to", data=data)
    assert [*corpus.about.lines[: len(lines)]] == lines
    for one in corpus.dialogues:
        for turn in one.turns:
            assert all(turn.text[m.start : m.end] == f"[[{m.name}]]" for m in turn.mentions)
            assert {m.item_id for m in turn.mentions} <= one.items.keys()
    again = folder.read(tmp_path / "to")
    assert list(again.dialogues) == list(corpus.dialogues)
    assert again.items.equals(corpus.items)
    assert (again.source, again.about) == (corpus.source, corpus.about)


def test_parts_are_known_by_the_name_of_the_file_or_said(data: Path, tmp_path: Path) -> None:
    def part(name: str, **given: Any) -> str:
        file = corpora.inspired(tmp_path / name)
        return importing.import_dialogues(file, "inspired", tmp_path / "to", data=data, **given).about.part

    assert [part(name) for name in ("train.tsv", "dev.tsv", "test.tsv", "mine.tsv")] == [
        "train",
        "validation",
        "test",
        "",
    ]
    assert part("dev.tsv", part="test") == "test"


def test_a_known_corpus_is_credited_and_others_as_it_is_said(data: Path, tmp_path: Path) -> None:
    file = corpora.ccpe(tmp_path / "data.json")
    known = importing.import_dialogues(file, "ccpe", tmp_path / "to", data=data)
    assert known.source.licence == "CC BY 4.0"
    assert known.credit.startswith(
        "CCPE-M (https://github.com/google-research-datasets/ccpe); licence: CC BY 4.0; cite"
    )
    kit = corpora.dialoguekit(tmp_path / "k.json")
    stated = {"name": "Our talks", "licence": "", "url": "", "citation": ""}
    own = importing.import_dialogues(kit, "dialoguekit", tmp_path / "own", data=data, stated=stated)
    assert own.source == Source(name="Our talks", domain="movies")
    assert own.credit == "Our talks; licence: not stated"


def test_books_are_linked_to_a_catalogue_of_books_only(data: Path, tmp_path: Path) -> None:
    file = corpora.opendialkg(tmp_path / "opendialkg.csv")
    with pytest.raises(CrsError, match="the catalogue is about movies, not books; give a folder of books with --data"):
        importing.import_dialogues(file, "opendialkg", tmp_path / "to", domain="books", data=data)
    alone = importing.import_dialogues(file, "opendialkg", tmp_path / "to", domain="books")
    assert alone.about.lines[1].endswith("0 of them (0 mentions) are items of the catalogue")
    assert alone.items.equals(schemas.empty("items"))
    row = {**store.read_parquet(data / "items.parquet", "items").row(0, named=True), "item_id": "b1", "title": "Dune"}
    books = pl.DataFrame([{**row, "year": 1965}], schema=dict(schemas.TABLES["items"]))
    files.write_parquet(books, tmp_path / "books" / "items.parquet")
    Source(domain="books").write(tmp_path / "books")
    linked = importing.import_dialogues(file, "opendialkg", tmp_path / "to", data=tmp_path / "books")
    assert linked.source.domain == "books"
    assert linked.dialogues[0].turns[-1].text == "Who wrote [[Dune (1965)]]?"


@pytest.mark.parametrize("hub", [False, True], ids=["official", "hub"])
def test_redial_keeps_its_ids_facts_and_every_title(hub: bool, tmp_path: Path) -> None:
    file = corpora.redial(tmp_path / "train_x.jsonl", hub)
    corpus = importing.import_dialogues(file, "redial", tmp_path / "to")
    assert corpus.about.lines[:3] == (
        "2 dialogues, 6 turns",
        "3 titles in 6 mentions; 3 of them (6 mentions) are items of the catalogue",
        "answers on what a seeker has seen or likes: 3",
    )
    assert [turn.text for turn in corpus.dialogues[1].turns] == [
        "Hi, I liked [[Super Troopers (2001)]] a lot",
        "Then try [[Iron Man (2008)]] or [[Pineapple Express]]",
        "Thanks, bye",
    ]
    assert corpus.items.equals(redial_items())
    assert corpus.about.part == "train"


def test_redials_zip_or_folder_is_read_by_part(tmp_path: Path) -> None:
    for part in ("train", "test"):
        corpora.redial(tmp_path / f"{part}_x.jsonl", hub=False)
    assert importing.import_dialogues(tmp_path, "redial", tmp_path / "to").about.part == "train"
    assert importing.import_dialogues(tmp_path, "redial", tmp_path / "to", part="test").about.part == "test"
    with pytest.raises(CrsError, match="ReDial has no part 'validation'"):
        importing.import_dialogues(tmp_path, "redial", tmp_path / "to", part="validation")


def test_what_cannot_be_imported_is_said(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="does not exist; give a file of dialogues"):
        importing.import_dialogues(tmp_path / "none.json", "pearl", tmp_path / "to", data=data)
    file = tmp_path / "x.json"
    file.write_text('[{"dialogue": []}]', encoding="utf-8")
    with pytest.raises(CrsError, match=r"x\.json holds no dialogues about movies"):
        importing.import_dialogues(file, "pearl", tmp_path / "to", data=data)
    said = '{"conversationId": 1, "utterances": [{"speaker": "USER", "text": "a"}]}'
    file.write_text(f"[{said}, {said}]", encoding="utf-8")
    with pytest.raises(CrsError, match=r"x\.json holds two dialogues with the id '1'; give each its own"):
        importing.import_dialogues(file, "ccpe", tmp_path / "to", data=data)
    with pytest.raises(CrsError, match="PEARL is about movies; leave --domain out"):
        importing.import_dialogues(file, "pearl", tmp_path / "to", domain="books")
    assert not (tmp_path / "to").exists()


def test_a_folder_that_is_no_corpus_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="is no corpus; make one with `crs data import-dialogues"):
        folder.read(tmp_path)
    importing.import_dialogues(corpora.ccpe(tmp_path / "data.json"), "ccpe", tmp_path / "to", data=data)
    (tmp_path / "to" / "corpus.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CrsError, match=r"corpus\.json is damaged; import the dialogues again"):
        folder.read(tmp_path / "to")
