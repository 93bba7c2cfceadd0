"""INSPIRED: separators of lines inside texts, and files that a spreadsheet saved again."""

from pathlib import Path

import pytest

from crslib.data.corpora import Dialogue, inspired
from crslib.errors import CrsError
from tests.support import corpora


def texts(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in dialogue.turns]


def test_messages_become_turns_with_their_titles(tmp_path: Path) -> None:
    contents = inspired.read(corpora.inspired(tmp_path / "dev.tsv"))
    first, second = contents.dialogues
    assert texts(first) == [
        ("recommender", "Hi there. What do you like?"),
        ("user", '"[[Heat (1995)]]" and [[Up (2009)]]. nothing old'),
        ("recommender", "See Notting Hil!"),
    ]
    assert [turn.n_messages for turn in first.turns] == [1, 2, 1]
    assert (first.dialogue_id, texts(second)) == ("a.pkl", [("user", "Bye")])
    assert {item.name: item.suggested for item in first.items.values()} == {"Heat (1995)": False, "Up (2009)": False}
    assert all(item.seen is None and item.liked is None for item in first.items.values())
    assert contents.left_out["left out, titles that are not in their text as they are spelt"] == 1
    assert contents.marked


def test_a_spreadsheets_file_is_the_same(tmp_path: Path) -> None:
    whole = inspired.read(corpora.inspired(tmp_path / "dev.tsv")).dialogues
    rows = [row.split("\t") for row in corpora.INSPIRED.split("\n")[:-1]]
    rows[1][4] = '"Hi there.\tWhat do you like?"'
    rows[2][4] = '"' + rows[2][4] + '"'
    rows[4][4] = '"See Notting Hil!"'
    saved = "\ufeff" + "".join("\t".join(row) + "\r\n" for row in rows)
    (tmp_path / "saved.tsv").write_bytes(saved.encode())
    assert inspired.read(tmp_path / "saved.tsv").dialogues == whole


def test_the_form_without_most_columns_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_bytes("text\tspeaker\tdialog_id\nHeat?\x85Or Up\tSEEKER\t7\n\n".encode())
    (dialogue,) = inspired.read(tmp_path / "x.tsv").dialogues
    assert (dialogue.dialogue_id, texts(dialogue)) == ("7", [("user", "Heat? Or Up")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\n", "has no column dialog_id; --as inspired reads TSV with dialog_id, speaker, text"),
        (
            "dialog_id\tspeaker\ttext\nd\tSEEKER\n",
            "line 2 is not a message of INSPIRED: 2 fields where the header has 3",
        ),
        ("dialog_id\tspeaker\ttext\nd\tBOSS\thi\n", "line 2 is not a message of INSPIRED: role 'BOSS' is unknown"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.tsv").write_text(content, encoding="utf-8")
    with pytest.raises(CrsError, match=message):
        inspired.read(tmp_path / "x.tsv")


def test_a_folder_and_another_encoding_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="is a folder"):
        inspired.read(tmp_path)
    (tmp_path / "x.tsv").write_bytes("dialog_id\tspeaker\ttext\nd\tSEEKER\tcafé\n".encode("latin-1"))
    with pytest.raises(CrsError, match="is not UTF-8 at byte 35"):
        inspired.read(tmp_path / "x.tsv")
