"""`crs data import-dialogues` and what uses its folders: references, styles, trainings."""

from pathlib import Path

import polars as pl
from click.testing import CliRunner, Result

from crslib.cli.main import main
from crslib.config import ROOT
from crslib.data.corpora import frames, redial
from crslib.data.source import Source
from crslib.metrics import reference
from tests.support import corpora, tiny_redial


def crs(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def test_what_was_understood_is_printed(tmp_path: Path) -> None:
    done = crs(
        "data", "import-dialogues", corpora.ccpe(tmp_path / "data.json"), "--as", "ccpe", "--to", tmp_path / "to"
    )
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:2] == [
        "1 dialogues, 3 turns",
        "1 titles in 1 mentions; 1 of them (1 mentions) are items of the catalogue",
    ]
    assert lines[-1] == f"{tmp_path / 'to'}: a corpus about movies"
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        *(f"{name}.parquet" for name in ("conversations", "utterances", "answers", "items")),
        "domain.json",
        "source.json",
        "corpus.json",
    }


def test_a_file_of_another_form_is_one_sentence(tmp_path: Path) -> None:
    file = corpora.ccpe(tmp_path / "data.json")
    refused = crs("data", "import-dialogues", file, "--as", "pearl", "--to", tmp_path / "to")
    assert refused.exit_code == 1
    assert "dialogue 1 lacks 'dialogue'; --as pearl reads" in refused.output
    assert not (tmp_path / "to").exists()


def test_people_of_a_corpus_are_those_of_its_file(tmp_path: Path) -> None:
    file = tiny_redial.write(tmp_path / "test.jsonl")
    crs("data", "import-dialogues", file, "--as", "redial", "--to", tmp_path / "to")
    done = crs("data", "reference", "--corpus", tmp_path / "to")
    assert done.exit_code == 0, done.output
    people = tmp_path / "to" / "human"
    assert done.output == f"{people}: people to compare with, `crs run -p human={people}`\n"
    assert crs("data", "reference", "--redial", file, "--to", tmp_path / "direct").exit_code == 0
    for name in ("turns", "mentions", "reactions", "acts"):
        assert (people / f"{name}.parquet").read_bytes() == (tmp_path / "direct" / f"{name}.parquet").read_bytes()
    assert reference.read(people).reference["messages"]["value"] == 4
    assert Source.read(people) == Source.read(tmp_path / "direct") == Source.read(ROOT / "data/human")


def test_people_of_any_corpus_can_be_compared_with(tmp_path: Path) -> None:
    file = corpora.dialoguekit(tmp_path / "k.json")
    crs("data", "import-dialogues", file, "--as", "dialoguekit", "--to", tmp_path / "to", "--name", "Ours")
    assert crs("data", "reference", "--corpus", tmp_path / "to", "--to", tmp_path / "people").exit_code == 0
    human = reference.read(tmp_path / "people")
    assert human.facts.turns["n_words"].to_list() == [7, 4]
    assert human.facts.mentions["linked"].to_list() == [True, True]
    assert "messages" not in human.reference  # the file does not say how many there were
    assert Source.read(tmp_path / "people").name == "Ours"


def test_unlinked_titles_are_no_items_of_the_catalogue(tmp_path: Path) -> None:
    file = corpora.cikm(tmp_path / "train.jsonl")
    crs("data", "import-dialogues", file, "--as", "cikm", "--to", tmp_path / "to")
    assert crs("data", "reference", "--corpus", tmp_path / "to").exit_code == 0
    mentions = reference.read(tmp_path / "to" / "human").facts.mentions
    assert mentions.filter(~pl.col("linked"))["item"].to_list() == ["title: nope (2022)"]


def test_styles_of_a_corpus_are_those_of_its_file(tmp_path: Path) -> None:
    file = tiny_redial.write(tmp_path / "train.jsonl")
    crs("data", "import-dialogues", file, "--as", "redial", "--to", tmp_path / "to")
    assert crs("data", "styles", "--corpus", tmp_path / "to").exit_code == 0
    assert crs("data", "styles", "--redial", file, "--to", tmp_path / "direct").exit_code == 0
    written = tmp_path / "to" / "human" / "styles.parquet"
    assert written.read_bytes() == (tmp_path / "direct" / "styles.parquet").read_bytes()


def test_one_of_two_sources_is_given(tmp_path: Path) -> None:
    for words in ([], ["--redial", str(tmp_path), "--corpus", str(tmp_path)]):
        refused = crs("data", "reference", *words)
        assert refused.exit_code == 1
        assert "give either --redial PATH or --corpus FOLDER" in refused.output


def test_a_folder_that_is_no_corpus_is_refused_before_training(tmp_path: Path) -> None:
    refused = crs("train", "user", "--corpus", tmp_path, "--to", tmp_path / "to")
    assert refused.exit_code == 1
    assert "is no corpus; make one with" in refused.output


def test_frames_of_redial_have_its_ids(tmp_path: Path) -> None:
    _, turns = frames(redial.read(tiny_redial.write(tmp_path / "test.jsonl", 1), "test"))
    assert [[item["item_id"] for item in items] for items in turns["items"]] == [[], ["100"], ["1009"], []]
