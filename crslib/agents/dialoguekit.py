"""Agents of DialogueKit (iai-group), the toolkit that UserSimCRS and CRS Arena speak, as recommenders.

Each dialogue has an agent object of its own, connected to a broker that keeps what the agent says. By DialogueKit's
rules an agent begins: where the user speaks first, it is welcomed all the same, and its welcome is heard by nobody.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crslib.agents import plain
from crslib.agents.callable import FunctionAgent, identity, load
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import RECOMMENDER
from crslib.errors import CrsError


class DialogueKitAgent(FunctionAgent):
    """Recommends by an agent of DialogueKit, one object per dialogue."""

    def __init__(self, make: Callable[[str], Any], catalog: Catalog, linked: plain.Linked, name: str) -> None:
        """`make`: a class of agents, or a function, that gives an agent for its id. Raises `CrsError` when it does not
        take an id alone."""
        super().__init__(self._reply, RECOMMENDER, catalog, linked, name)
        try:
            inspect.signature(make).bind("id")
        except (TypeError, ValueError) as error:
            raise CrsError(f"{name} cannot be made from an id ({error}); name a function of the id instead") from None
        self._make = make
        self._talks: dict[str, tuple[Any, _Broker]] = {}
        self.identity = identity(make, "dialoguekit")

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        self._talks.pop(self._names.of(dialogue_id), None)
        super().release(dialogue_id)

    def _reply(self, turns: Sequence[Mapping[str, Any]], dialogue_id: str) -> dict[str, Any]:
        """What the dialogue's agent says to the last of `turns`, or as its welcome where there are none."""
        from dialoguekit.core import AnnotatedUtterance
        from dialoguekit.participant import DialogueParticipant

        if dialogue_id not in self._talks:
            agent, broker = self._make(dialogue_id), _Broker(dialogue_id)
            agent.connect_dialogue_connector(broker)
            agent.welcome()
            if turns:
                broker.collect(agent)
            self._talks[dialogue_id] = agent, broker
        agent, broker = self._talks[dialogue_id]
        if turns:
            utterance = AnnotatedUtterance(turns[-1]["text"], participant=DialogueParticipant.USER)
            broker.dialogue_history.add_utterance(utterance)
            agent.receive_utterance(utterance)
        return broker.collect(agent)


def open_agent(name: str, role: str, catalog: Catalog, linked: plain.Linked) -> DialogueKitAgent:
    """The agent `dialoguekit:module:Class`, or a file, as in `callable.load`.

    Raises `CrsError` where DialogueKit is not installed, for a user, and as `callable.load` does.
    """
    if role != RECOMMENDER:
        raise CrsError(f"{name!r} is an agent of DialogueKit, which recommends; give it as recommender_model")
    try:
        importlib.import_module("dialoguekit.core")  # before dialoguekit.participant: the two import each other
    except ImportError as error:
        raise CrsError(f"{name!r} needs DialogueKit ({error}); pip install dialoguekit") from None
    return DialogueKitAgent(load(name), catalog, linked, name)


class _Broker:
    """In place of `dialoguekit.connector.DialogueConnector`, which wants a platform and writes files."""

    def __init__(self, dialogue_id: str) -> None:
        from dialoguekit.core import Dialogue

        self.said: list[Any] = []
        self.dialogue_history = Dialogue("recommender", "user", dialogue_id)

    def register_agent_utterance(self, annotated_utterance: Any) -> None:
        """Keeps what the agent says."""
        self.dialogue_history.add_utterance(annotated_utterance)
        self.said.append(annotated_utterance)

    def close(self) -> None:
        """An agent ends a dialogue by its stop intent; there is nothing to write."""

    def collect(self, agent: Any) -> dict[str, Any]:
        """All that was said since it was last collected, with the titles that its dialogue acts name.

        The agent leaves where an act has its stop intent.
        """
        said, self.said = self.said, []
        acts = [act for utterance in said for act in getattr(utterance, "dialogue_acts", ())]
        slots = [slot for act in acts for slot in act.annotations if str(slot.slot).lower() == "title" and slot.value]
        return {
            "text": " ".join(utterance.text for utterance in said),
            "items": [{"title": slot.value} for slot in slots],
            "leave": agent.stop_intent in [act.intent for act in acts],
        }
