"""OpenDialKG: films and books are told apart by the facts on the chosen paths."""

import json
from pathlib import Path

import pytest

from crslib.data.corpora import opendialkg
from crslib.errors import CrsError
from tests.support import corpora


def test_dialogues_that_name_a_film_are_about_movies(tmp_path: Path) -> None:
    contents = opendialkg.read(corpora.opendialkg(tmp_path / "opendialkg.csv"), "movies")
    assert [(one.dialogue_id, [turn.text for turn in one.turns]) for one in contents.dialogues] == [
        ("0001", ['I like "[[Heat]]" a lot', "Al Pacino is in [[Insomnia]], and in heat waves", "Who wrote Dune?"]),
        ("0002", ["A book by Ursula Hill, please", "Try The Slow River, or [[Insomnia]]"]),
    ]
    assert [turn.role for turn in contents.dialogues[0].turns] == ["user", "recommender", "user"]
    assert contents.left_out == {"left out, dialogues that name nothing of movies": 1}


def test_what_was_written_and_is_no_film_is_a_book(tmp_path: Path) -> None:
    contents = opendialkg.read(corpora.opendialkg(tmp_path / "opendialkg.csv"), "books")
    assert [one.turns[-1].text for one in contents.dialogues] == [
        "Who wrote [[Dune]]?",
        "Try [[The Slow River]], or Insomnia",
    ]


def test_a_title_of_a_path_that_nobody_names_is_no_item(tmp_path: Path) -> None:
    path = corpora.opendialkg(tmp_path / "opendialkg.csv")
    silent = json.dumps([{"type": "action", "sender": "user", "action_id": "kgwalk/choose_path", "metadata": {
        "path": [1, [["Ran", "directed_by", "Akira Kurosawa"]], ""]}},
        {"type": "chat", "sender": "user", "message": "I ran away"}])  # fmt: skip
    quoted = silent.replace('"', '""')
    path.write_bytes(path.read_bytes() + f'"{quoted}",[],[]\r\n'.encode())
    last = opendialkg.read(path, "movies").dialogues[-1]
    assert ([turn.text for turn in last.turns], last.items) == (["I ran away"], {})


def test_other_domains_and_files_are_refused(tmp_path: Path) -> None:
    path = corpora.opendialkg(tmp_path / "opendialkg.csv")
    with pytest.raises(CrsError, match="no dialogues about games; give --domain movies or books"):
        opendialkg.read(path, "games")
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(CrsError, match="no column Messages"):
        opendialkg.read(path, "movies")
    path.write_text("Messages\n{\n", encoding="utf-8")
    with pytest.raises(CrsError, match="is not CSV with JSON in its column Messages"):
        opendialkg.read(path, "movies")
    path.write_text('Messages\n"[{""type"": ""chat""}]"\n', encoding="utf-8")
    with pytest.raises(CrsError, match="dialogue 1 lacks 'sender'; --as opendialkg reads CSV"):
        opendialkg.read(path, "movies")
