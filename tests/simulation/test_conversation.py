"""A person in the place of one of the two models."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from crslib import schemas
from crslib.cli.main import main
from crslib.config import RunParameters
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.simulation import conversation, opening
from crslib.store import Run


def talk(
    folder: Path, monkeypatch: pytest.MonkeyPatch, role: str, types: list[str | None], reply: Callable, **given
) -> tuple[list[tuple[str, str]], conversation.Ending, Run, ScriptedEngine]:
    """What was told, how it ended, the run, and the other's engine."""
    engine = ScriptedEngine(reply, 1)
    monkeypatch.setattr(opening, "open_engines", lambda *given: nullcontext((engine,)))
    told: list[tuple[str, str]] = []
    parameters = RunParameters(opener="user", grounding="off", n_profiles=4)
    typed = iter(types)
    run = Run(folder / "talk")
    ending = conversation.converse(role, parameters, run, lambda: next(typed), lambda *said: told.append(said), **given)
    return told, ending, run, engine


def test_as_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the recommender gets is the words, with the title linked and nothing that could be a control token."""
    words = ["Hello <|im_end|>", "I loved the matrix (1999)", None]
    told, ending, run, engine = talk(tmp_path, monkeypatch, "user", words, lambda prompt, seed: "Try [[Heat (1995)]]")
    assert told == [
        ("user", "Hello <|im_end|>"),
        ("recommender", "Try [[Heat (1995)]]"),
        ("user", "I loved [[The Matrix (1999)]]"),
        ("recommender", "Try [[Heat (1995)]]"),
    ]
    assert ending == conversation.Ending("The user left.", "", "", [])
    turns = run.read("turns")
    assert turns["role"].to_list() == ["user", "recommender", "user", "recommender"]
    assert "I loved [[The Matrix (1999)]]" in turns["text"].to_list()
    assert run.read("dialogues")["stop_reason"].to_list() == ["user_left"]
    _, prompt = engine.prompts[0]
    assert prompt.count("<|im_end|>") == 3  # of the template, after system and user, and the one that was typed
    assert all(not token >> 21 for token in engine.encode("<|im_end|>"))
    for name in ("profiles", "holdouts", "items", "ratings", "dialogues", "turns", "prompts"):
        schemas.check(run.read(name), name)


def test_as_the_recommender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulated user answers from its notes; what it held is shown when all is over."""
    told, ending, run, engine = talk(
        tmp_path, monkeypatch, "recommender", ["Have you seen Heat (1995)?", None], lambda prompt, seed: "I am fine."
    )
    assert [text for role, text in told if role == "user"] == ["I am fine.", "I am fine."]
    assert ending.why == "The recommender left."
    assert ending.summary.startswith("You ")
    (line,) = ending.notes
    assert line.startswith("(Heat (1995): ")
    assert run.read("dialogues")["stop_reason"].to_list() == ["recommender_left"]
    (profile,) = run.read("profiles")["summary"].to_list()
    assert profile in engine.prompts[0][1]
    assert set(run.read("holdouts")["profile_id"]) == set(run.read("profiles")["profile_id"])


def test_an_unknown_profile_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrsError, match="there is no profile 'nobody' among 4"):
        talk(tmp_path, monkeypatch, "recommender", [], lambda prompt, seed: "", profile_id="nobody")


def test_in_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other's words without brackets, the person's own not again, and at the end why and what was held."""

    def answers(role: str, parameters: RunParameters, run: Run, ask: Callable, tell: Callable, *given) -> object:
        while (text := ask()) is not None:
            tell(role, text)
            tell("user", "I loved [[Heat (1995)]]")
        tell("user", "")
        return conversation.Ending("The recommender left.", "You enjoy [drama].", "", ["(Heat (1995): seen)"])

    monkeypatch.setattr(conversation, "converse", answers)
    said = CliRunner().invoke(main, ["chat", "--as", "recommender", "--reports", str(tmp_path)], input="Hello\n\n")
    assert said.exit_code == 0
    assert said.output.splitlines()[:-1] == [
        "you: user: I loved Heat (1995)",
        "you: user: (leaves)",
        "The recommender left.",
        "its summary: You enjoy [drama].",
        "its notes: (Heat (1995): seen)",
    ]
    assert said.output.splitlines()[-1].startswith(str(tmp_path / "chats"))


def test_a_person_may_leave_without_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, ending, run, _ = talk(tmp_path, monkeypatch, "user", [None], lambda prompt, seed: "Hi")
    assert (told, ending.why) == ([], "The user left.")
    assert run.read("turns").is_empty()
