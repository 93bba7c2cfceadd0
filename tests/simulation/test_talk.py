"""`crslib.talk`: dialogues with functions of one's own."""

import sys
from pathlib import Path
from typing import Any

import pytest

import crslib
from crslib import schemas
from crslib.errors import CrsError
from crslib.metrics import leakage
from crslib.store import Run
from tests.support.domains import MOVIES


def recommend(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Names one film after the other, by the number of turns."""
    names = ("The Matrix (1999)", "Heat (1995)", "Titanic (1997)")
    return {"text": "Have you seen this?", "items": [names[len(turns) // 2 % 3]]}


def wish(turns: list[dict[str, Any]], knowledge: dict[str, Any]) -> str | None:
    """Says what it looks for, then what its notes say, and leaves."""
    said = sum(turn["role"] == "user" for turn in turns)
    if not said:
        return f"I want a {knowledge['attributes']}"
    return f"seen: {knowledge['notes'][0]['seen']}" if said == 1 else None


def test_two_functions_talk_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    talked = crslib.talk(recommender=recommend, user=wish, n_profiles=2, opener="user")
    assert talked.dialogues["stop_reason"].to_list() == ["user_left"] * 2
    turns = talked.turns.filter(dialogue_id=talked.dialogues["dialogue_id"][0])
    assert turns["role"].to_list() == ["user", "recommender"] * 2
    first, named, second, again = turns["text"]
    assert first.startswith("I want a ")
    assert (named, again) == ("Have you seen this? [[The Matrix (1999)]]", "Have you seen this? [[Heat (1995)]]")
    assert second in ("seen: True", "seen: False")
    assert all(item["item_id"] for items in turns["items"] for item in items)
    assert talked.agents["recommender"]["name"] == f"{__name__}:recommend"
    assert not talked.agents["recommender"]["reproducible"]
    assert not list(tmp_path.iterdir())


def test_a_folder_is_a_run_that_goes_on(tmp_path: Path) -> None:
    """Tables, audit and names as of any run; what has ended is not asked for again."""
    asked = []

    def reply(turns: list[dict[str, Any]]) -> dict[str, Any]:
        asked.append(turns)
        return recommend(turns)

    talked = crslib.talk(reply, wish, 3, to=tmp_path / "mine", condition="mine", max_turns=4)
    run = Run(tmp_path / "mine")
    for name in ("profiles", "holdouts", "items", "ratings", "dialogues", "turns", "prompts", "failures"):
        schemas.check(run.read(name), name)
    assert run.info["status"] == "success"
    assert run.info["parameters"]["condition"] == "mine"
    assert run.info["parameters"]["recommender_model"].startswith(f"python:{__name__}:")
    n_asked = len(asked)
    again = crslib.talk(reply, wish, 3, to=tmp_path / "mine", condition="mine", max_turns=4)
    assert len(asked) == n_asked
    assert again.turns.equals(talked.turns)
    names = ("prompts", "profiles", "holdouts", "items", "dialogues", "turns")
    audit = leakage.audit(*(run.read(name) for name in names), MOVIES)
    assert sum(audit.table()["findings"]) == 0
    assert sum(audit.table()["read"]) > 0


def test_what_the_recommender_was_given_is_audited() -> None:
    """A user that gives its summary away word by word is no leak; the recommender's prompts hold all that it got."""
    talked = crslib.talk(recommend, lambda turns, knowledge: knowledge["summary"], 1, opener="user", max_turns=2)
    prompts = talked.prompts.sort("turn")
    assert prompts["role"].to_list() == ["user", "recommender"]
    assert "About" not in prompts["text"][1]
    assert prompts["text"][0].startswith('knowledge: {"summary": "You ')
    assert prompts["text"][1].startswith('user: {"text": "You ')


def test_a_dialogue_that_fails_stops_no_other() -> None:
    def reply(turns: list[dict[str, Any]], dialogue_id: str) -> str | None:
        seen.setdefault(dialogue_id, len(seen))
        return None if seen[dialogue_id] == 0 else "Hello there"

    seen: dict[str, int] = {}
    talked = crslib.talk(reply, wish, 3, max_turns=2)
    assert len(talked.dialogues) == 2
    (failure,) = talked.failures.to_dicts()
    assert failure["role"] == "recommender"
    ids = {failure["dialogue_id"], *talked.dialogues["dialogue_id"]}
    assert len(ids) == len(seen) == 3
    assert not ids & seen.keys()  # the function hears drawn names
    assert "returned nothing (None); expected is text" in failure["error"]


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the working directory for one party, an agent of another kind for the other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_named_crs.py").write_text("def reply(turns):\n    return 'Try Heat (1995)'\n")
    talked = crslib.talk("python:my_named_crs:reply", wish, 1, max_turns=2)
    assert "Try [[Heat (1995)]]" in talked.turns["text"].to_list()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"n_profile": 3}, "unknown parameter 'n_profile': did you mean 'n_profiles'"),
        ({"n_profiles": 0}, "parameter n_profiles = 0 is not valid"),
        ({"recommender": "python:no_such_module:reply"}, "there is no module 'no_such_module'"),
        ({"recommender": lambda: ""}, r"cannot be called as recommender .*; write it as reply\(turns\)"),
        ({"recommender": lambda turns: 1 / 0}, "no dialogue could be simulated: .* raised ZeroDivisionError"),
        ({"baseline": "scripted", "recommender": recommend}, "talk simulates no baseline"),
    ],
)
def test_bad_input_is_a_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CrsError, match=sentence):
        crslib.talk(**{"recommender": recommend, "user": wish, "n_profiles": 1, **given})


def test_the_library_is_light_and_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'walk'"):
        _ = crslib.walk
