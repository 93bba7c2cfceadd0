"""A model that llama.cpp runs as an agent."""

import pytest

from crslib.agents.base import Ask, faultless
from crslib.agents.format import Told
from crslib.agents.local import LocalAgent
from crslib.config import resolve
from crslib.dialogue.prompts import Prompt
from crslib.dialogue.views import RecommenderView
from crslib.engines.scripted import ScriptedEngine
from tests.support.domains import MOVIES


@pytest.mark.parametrize(
    ("said", "n_ctx", "finish"), [("Hi there", 400, "end"), ("", 400, "left"), ("Hi there", 1, "context_full")]
)
def test_a_trained_model_leaves_without_a_word_but_not_for_want_of_room(said: str, n_ctx: int, finish: str) -> None:
    view = RecommenderView(MOVIES)
    form = Told(Prompt.read(resolve("data/prompts/trained.md")), "recommender", str)
    agent = LocalAgent(ScriptedEngine(lambda prompt, seed: said, 1, n_ctx=n_ctx), form, view)
    view.hear("Hello")
    agent.ask(Ask("d", view, 5, faultless))
    ((_, reply),) = agent.step(wait=True)
    assert (reply.text, reply.finish) == (said if finish == "end" else "", finish)
