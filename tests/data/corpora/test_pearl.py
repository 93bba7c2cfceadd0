"""PEARL: a persona without the film to be found, titles in texts, and files that are something else."""

import json
from pathlib import Path

import pytest

from crslib.data.corpora import Item, pearl
from crslib.errors import CrsError
from tests.support import corpora

HARBOUR = "title: the quiet harbour (1996)"


def test_the_seeker_knows_the_persona_and_not_the_film_to_be_found(tmp_path: Path) -> None:
    contents = pearl.read(corpora.pearl(tmp_path / "train.json"))
    first, second = contents.dialogues
    assert (first.dialogue_id, first.user, first.recommender) == ("0001", "ur9", "recommender of 0001")
    assert first.summary == (
        "Slow stories about families won the seeker over in Heat. Loud sequels tire them. "
        "They would watch anything with Ada Moon."
    )
    assert first.attributes == "drama/romance movie"
    assert first.targets == second.targets == (HARBOUR,)
    assert second.attributes == ""
    assert contents.left_out == {"personas without the sentences that name the film to be found": 2}


def test_titles_are_marked_where_they_are_no_ordinary_words(tmp_path: Path) -> None:
    contents = pearl.read(corpora.pearl(tmp_path / "train.json"))
    first, second = contents.dialogues
    assert [(turn.role, turn.text) for turn in first.turns] == [
        ("user", "Hi! I want something slow like [[Heat (1995)]]. What's up?"),
        ("recommender", "Have you seen '[[The Quiet Harbour (1996)]]'?"),
        ("user", "No. [[Up (2009)]] was too sweet for me, though."),
        ("recommender", "Then watch [[The Quiet Harbour (1996)]]: no sweets."),
    ]
    assert first.items == {
        "title: heat (1995)": Item("Heat (1995)", False, True, None, ""),
        HARBOUR: Item("The Quiet Harbour (1996)", True, None, None, ""),
        "title: up (2009)": Item("Up (2009)", False, True, None, ""),
    }
    assert second.items[HARBOUR] == Item("The Quiet Harbour (1996)", None, None, None, "")  # nobody names it
    assert not contents.marked  # other titles may stand in the texts


def test_the_film_to_be_found_has_its_facts(tmp_path: Path) -> None:
    facts = pearl.read(corpora.pearl(tmp_path / "train.json")).facts
    assert facts.select("item_id", "title", "year", "kinds", "makers", "people").rows() == [
        (HARBOUR, "The Quiet Harbour", 1996, ["drama", "mystery", "romance"], ["Ada Moon"], ["Ben Vale", "Cy Orr"])
    ]


def test_a_long_persona_is_cut_after_a_sentence(tmp_path: Path) -> None:
    record = json.loads(corpora.pearl(tmp_path / "train.json").read_text(encoding="utf-8"))[0]
    sentences = [f"{'word ' * 39}{number}." for number in range(3)]  # of 40 words each
    record["user_persona"] = "\n\n".join(sentences)
    (tmp_path / "one.json").write_text(json.dumps(record), encoding="utf-8")
    contents = pearl.read(tmp_path / "one.json")
    assert contents.dialogues[0].summary == " ".join(sentences[:2])
    assert contents.left_out["personas shortened to 100 words"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"dialogue": ["Narrator: Once"]}]', "dialogue 1: role 'Narrator' is unknown"),
        ('[{"conversation": []}]', "dialogue 1 lacks 'dialogue'; --as pearl reads a list of records"),
        ('[{"dialogue": [3]}]', "dialogue 1 has another shape"),
        ("nothing", "line 1 is not JSON"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    with pytest.raises(CrsError, match=message):
        pearl.read(tmp_path / "x.json")
