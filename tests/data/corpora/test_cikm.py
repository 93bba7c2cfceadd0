"""The CIKM'23 lines: an utterance a line, names beside them."""

from pathlib import Path

import pytest

from crslib.data.corpora import Dialogue, cikm
from crslib.errors import CrsError
from tests.support import corpora


def texts(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in dialogue.turns]


def test_lines_become_dialogues_and_ids_titles(tmp_path: Path) -> None:
    contents = cikm.read(corpora.cikm(tmp_path / "test_raw.jsonl"))
    first, second = contents.dialogues
    assert texts(first) == [
        ("user", "Films like [[Heat (1995)]]?"),
        ("recommender", "[[Up (2009)]], or [[The Matrix]]"),
    ]
    assert (first.dialogue_id, second.dialogue_id, contents.marked) == ("t0", "t1", True)


def test_parties_take_turns_where_a_context_has_no_lines(tmp_path: Path) -> None:
    contents = cikm.read(corpora.cikm(tmp_path / "test_raw.jsonl"))
    assert texts(contents.dialogues[1]) == [
        ("user", "Any horror?"),
        ("recommender", "How old?"),
        ("user", "New"),
        ("recommender", "[[Nope (2022)]] then"),
    ]
    unsaid = "utterances without a line of their own, whose speaker is read from the order"
    assert contents.left_out[unsaid] == 3


def test_without_names_nothing_is_marked(tmp_path: Path) -> None:
    contents = cikm.read(corpora.cikm(tmp_path / "test_raw.jsonl", names=False))
    assert texts(contents.dialogues[0])[1] == ("recommender", "up, or the matrix")
    assert not contents.marked
    assert contents.left_out["no entity2id.json beside the file, so titles are looked for in the texts of lines"] == 3


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = corpora.cikm(tmp_path / "test_raw.jsonl")
    (tmp_path / "entity2id.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(CrsError, match=r"entity2id\.json does not map names to ids"):
        cikm.read(path)
    (tmp_path / "entity2id.json").unlink()
    path.write_text('{"dialog_id": "a"}\n', encoding="utf-8")
    with pytest.raises(CrsError, match="dialogue 1 lacks 'context'; --as cikm reads lines"):
        cikm.read(path)
