"""CCPE-M: utterances in the order of their index, and annotated titles where they stand."""

import json
from pathlib import Path

import pytest

from crslib.data.corpora import Item, ccpe
from crslib.errors import CrsError
from tests.support import corpora


def test_annotated_titles_are_marked_where_they_stand(tmp_path: Path) -> None:
    contents = ccpe.read(corpora.ccpe(tmp_path / "data.json"))
    (dialogue,) = contents.dialogues
    assert dialogue.dialogue_id == "CCPE-1a"
    assert [(turn.role, turn.text) for turn in dialogue.turns] == [
        ("recommender", "What films do you like?"),
        ("user", "I liked [[king kong]] (the old one) with Fay"),
        ("recommender", "Why?"),
    ]
    assert dialogue.items == {"title: king kong": Item("king kong", False, None, None, "")}
    assert contents.left_out == {"left out, titles annotated inside another": 1}


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"conversationId": "x"}]), encoding="utf-8")
    with pytest.raises(CrsError, match=r"dialogue 1 lacks 'utterances'; --as ccpe reads data\.json"):
        ccpe.read(path)
