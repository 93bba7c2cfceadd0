"""Agents of DialogueKit, by the real package."""

import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytest.importorskip("dialoguekit", reason="dialoguekit is not installed")

from dialoguekit.core import AnnotatedUtterance, SlotValueAnnotation
from dialoguekit.core.dialogue_act import DialogueAct
from dialoguekit.core.intent import Intent
from dialoguekit.participant import Agent, DialogueParticipant

from crslib.agents import dialoguekit
from crslib.agents.base import Ask, Reply
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import RecommenderView, View
from crslib.errors import CrsError
from tests.support.domains import MOVIES
from tests.support.titles import bracketed


class Clerk(Agent):
    """Counts what it hears and names Up, in words or by a slot alone."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.heard: list[str] = []

    def say(self, text: str, *acts: DialogueAct) -> None:
        said = AnnotatedUtterance(text, participant=DialogueParticipant.AGENT, dialogue_acts=list(acts))
        self.dialogue_connector.register_agent_utterance(said)

    def welcome(self) -> None:
        self.say(f"Hello, {self.id}.")

    def goodbye(self) -> None:
        self.say("Bye!", DialogueAct(self.stop_intent))

    def receive_utterance(self, utterance: Any) -> None:
        self.heard.append(utterance.text)
        if utterance.text == "bye":
            self.goodbye()
        elif utterance.text == "slot":
            slots = [SlotValueAnnotation("TITLE", "Up"), SlotValueAnnotation("GENRE", "drama")]
            self.say("Watch this.", DialogueAct(Intent("RECOMMEND"), slots))
        elif utterance.text != "silence":
            n_utterances = len(self.dialogue_connector.dialogue_history.utterances)
            self.say(f"Number {len(self.heard)} of {n_utterances}.")
            self.say("Try The Matrix (1999).")


@pytest.fixture
def agent(items: pl.DataFrame) -> dialoguekit.DialogueKitAgent:
    catalog = Catalog(items, MOVIES)
    return dialoguekit.DialogueKitAgent(Clerk, catalog, lambda text: bracketed(text, catalog), "dialoguekit:m:Clerk")


def asked(agent: dialoguekit.DialogueKitAgent, view: View, dialogue_id: str = "d1") -> Reply:
    agent.ask(Ask(dialogue_id, view, 0))
    ((_, reply),) = agent.step(wait=True)
    return reply


def test_a_dialogue(agent: dialoguekit.DialogueKitAgent) -> None:
    """It welcomes, hears each turn once, and its broker keeps the history of both."""
    view = RecommenderView(MOVIES)
    said = []
    for words in ("hi", "more", "slot", "bye"):
        said.append(asked(agent, view))
        view.say(said[-1].text)
        view.hear(words)
    said.append(asked(agent, view))
    assert (
        len(said[0].text) == len("Hello, .") + 32
    )  # a drawn name: the run's own id would say whose ratings to look up
    assert [said[0].text[:7], *(reply.text for reply in said[1:])] == [
        "Hello, ",
        "Number 1 of 2. Try [[The Matrix (1999)]].",
        "Number 2 of 5. Try [[The Matrix (1999)]].",
        "Watch this. [[Up (2009)]]",
        "Bye!",
    ]
    assert [reply.finish for reply in said] == ["end"] * 4 + ["left"]


def test_each_dialogue_has_an_agent_of_its_own(agent: dialoguekit.DialogueKitAgent) -> None:
    """Where the user speaks first, the welcome is not heard; an ended dialogue is forgotten."""
    view = RecommenderView(MOVIES)
    view.hear("hi")
    assert [asked(agent, view, name).text[:8] for name in ("d1", "d2")] == ["Number 1", "Number 1"]
    assert asked(agent, view).text.startswith("Number 2")
    agent.release("d1")
    assert asked(agent, view).text.startswith("Number 1")
    agent.release("never begun")


def test_silence_is_a_failed_utterance(agent: dialoguekit.DialogueKitAgent) -> None:
    view = RecommenderView(MOVIES)
    view.hear("silence")
    assert asked(agent, view).error == "dialoguekit:m:Clerk said nothing; a recommender answers with text"


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, items: pl.DataFrame) -> None:
    """As a module in the working directory, in one that imports the two halves of DialogueKit the wrong way round."""
    source = (
        "from dialoguekit.participant import Agent\n"
        "class Parrot(Agent):\n"
        "    def welcome(self): ...\n"
        "    def goodbye(self): ...\n"
        "    def receive_utterance(self, utterance):\n"
        "        self.dialogue_connector.register_agent_utterance(utterance)\n"
        "def two(id, other): ...\n"
    )
    (tmp_path / "my_parrot.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    catalog = Catalog(items, MOVIES)
    agent = dialoguekit.open_agent("dialoguekit:my_parrot:Parrot", RECOMMENDER, catalog, str)
    view = RecommenderView(MOVIES)
    view.hear("polly")
    assert asked(agent, view).text == "polly"
    assert agent.identity["source_sha256"]
    with pytest.raises(CrsError, match="give it as recommender_model"):
        dialoguekit.open_agent("dialoguekit:my_parrot:Parrot", USER, catalog, str)
    with pytest.raises(CrsError, match=r"cannot be made from an id .*'other'.*; name a function of the id"):
        dialoguekit.open_agent("dialoguekit:my_parrot:two", RECOMMENDER, catalog, str)
    with pytest.raises(CrsError, match=r"my_parrot\.py has no 'Clerk'"):
        dialoguekit.open_agent("dialoguekit:my_parrot:Clerk", RECOMMENDER, catalog, str)
