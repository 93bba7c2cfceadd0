"""A dialogue in a thread, with a person who may take their time, and the states of its page."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from crslib.config import RunParameters
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.simulation import opening
from crslib.simulation.conversation import Ending
from crslib.store import Run
from crslib.web import talk as web_talk
from crslib.web.talk import Talk


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits for another thread, and gives up after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def new_talk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Talk]]:
    """Creates a `Talk` with a function in place of `converse`."""
    talks = []

    def make(converse: Callable[..., Ending], show: Callable[[dict], None] = lambda state: None) -> Talk:
        monkeypatch.setattr(web_talk, "converse", converse)
        talks.append(Talk(RunParameters(), tmp_path, show))
        return talks[-1]

    yield make
    for talk in talks:
        talk.close()


def echo(
    role: str, parameters: RunParameters, run: Run, ask: Callable, show: Callable, profile_id: str, begin: Callable
) -> Ending:
    """The other party repeats what the person said, with a title, until the person leaves."""
    begin()
    while (text := ask()) is not None:
        show(role, text)
        show("recommender" if role == "user" else "user", f"{text}? [[Heat (1995)]]")
    return Ending(f"The {role} left.", "You enjoy drama.", "", ["(Heat (1995): seen)"])


def test_the_page_gets_every_turn_and_at_the_end_what_was_private(new_talk: Callable, tmp_path: Path) -> None:
    states: list[dict[str, Any]] = []
    talk = new_talk(echo, states.append)
    talk.do("say", {"text": "too early"})
    talk.do("start", {"role": "recommender", "profile": " u1 "})
    wait_until(lambda: talk.state["phase"] == "yours")
    talk.do("start", {"role": "user"})  # one at a time
    talk.do("say", {"text": "  "})
    talk.do("say", {"text": "Hello"})
    talk.do("say", {"text": "pressed twice"})
    wait_until(lambda: talk.state["phase"] == "yours")
    talk.do("leave", {})
    wait_until(lambda: talk.state["phase"] == "over")
    assert talk.state["turns"] == [
        {"role": "recommender", "pieces": [["Hello", False]]},
        {"role": "user", "pieces": [["Hello? ", False], ["Heat (1995)", True]]},
    ]
    assert [state["phase"] for state in states] == [
        *("opening", "theirs", "yours", "theirs", "theirs", "theirs", "yours", "yours", "over")
    ]
    assert {str(state["private"]) for state in states[:-1]} == {"None"}
    assert talk.state["private"] == {
        "summary": "You enjoy drama.",
        "attributes": "",
        "notes": ["(Heat (1995): seen)"],
    }
    assert talk.state["note"] == "The recommender left."
    assert Path(talk.state["path"]).parent == tmp_path / "chats"
    talk.do("start", {"role": "user"})  # a second dialogue, in the other role
    wait_until(lambda: talk.state["phase"] == "yours")
    assert (talk.state["role"], talk.state["turns"], talk.state["private"]) == ("user", [], None)
    talk.close()
    assert (talk.state["phase"], talk.state["private"]) == ("over", None)  # a recommender has no private knowledge


def test_a_person_who_says_nothing_for_long_has_left(new_talk: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_talk, "PATIENCE", 0.01)
    talk = new_talk(echo)
    talk.do("start", {"role": "user"})
    wait_until(lambda: talk.state["phase"] == "over")
    assert talk.state["note"] == "The user left."


def test_an_error_is_shown_and_a_new_dialogue_can_begin(new_talk: Callable) -> None:
    def fails(role: str, parameters: RunParameters, run: Run, ask: Callable, *given: Any) -> Ending:
        raise CrsError("there is no profile 'x' among 4")

    talk = new_talk(fails)
    talk.do("start", {"role": "recommender", "profile": "x"})
    wait_until(lambda: talk.state["phase"] == "start")
    assert talk.state["note"] == "there is no profile 'x' among 4"
    talk = new_talk(echo)
    talk.do("start", {"role": "recommender"})
    wait_until(lambda: talk.state["phase"] == "yours")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_unexpected_error_is_shown(new_talk: Callable) -> None:
    def fails(role: str, parameters: RunParameters, run: Run, ask: Callable, show: Callable, *given: Any) -> Ending:
        show("recommender", "Hello")
        raise ZeroDivisionError("by 0")

    talk = new_talk(fails)
    talk.do("start", {"role": "user"})
    wait_until(lambda: talk.state["phase"] == "over")
    assert talk.state["note"] == "It failed: ZeroDivisionError: by 0"


def test_a_dialogue_is_stored_as_a_run_and_its_engine_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real `converse`: the thread that waits for a text is not the one that sends it."""
    closed = threading.Event()
    engine = ScriptedEngine(lambda prompt, seed: "Try [[Heat (1995)]]", 1)
    monkeypatch.setattr(engine, "close", closed.set)
    monkeypatch.setattr(opening, "open_engines", lambda *given: nullcontext((engine,)))
    talk = Talk(RunParameters(opener="user", grounding="off", n_profiles=4), tmp_path)
    talk.do("start", {"role": "user"})
    wait_until(lambda: talk.state["phase"] == "yours")
    talk.do("say", {"text": "I loved the matrix (1999)"})
    wait_until(lambda: len(talk.state["turns"]) == 2)
    assert talk.state["turns"][0]["pieces"] == [["I loved ", False], ["The Matrix (1999)", True]]
    assert not closed.is_set()
    talk.close()
    assert closed.is_set()
    run = Run(Path(talk.state["path"]))
    assert run.read("turns")["text"].to_list() == ["I loved [[The Matrix (1999)]]", "Try [[Heat (1995)]]"]
    assert run.info["status"] == "success"
