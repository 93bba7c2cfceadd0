"""Views as token ids: text stays text, and every chat template works or is refused."""

import pytest
from hypothesis import given

from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message, RecommenderView, UserKnowledge, UserView
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.errors import CrsError
from tests.support.texts import TEXT

ENGINE = ScriptedEngine(lambda prompt, seed: "")


@given(TEXT, TEXT, TEXT)
def test_text_never_becomes_a_control_token(summary: str, theirs: str, own: str) -> None:
    """Control ids of a prompt are those of the same dialogue with harmless words: texts add none."""

    def controls(summary: str, theirs: str, own: str) -> list[int]:
        view = UserView(UserKnowledge(summary or "x", "y"))
        view.hear(theirs)
        view.say(own)
        return [token for token in ChatTemplate("").encode(view.messages, ENGINE) if token & CONTROL]

    assert controls(summary, theirs, own) == controls("x", "y", "z")


STRICT = (  # as of models that have no system role and require that the user begins
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_a_template_without_a_system_role_gets_its_text_in_the_first_message() -> None:
    user_first = [Message("system", "S"), Message("user", "Hi"), Message("assistant", "Yo"), Message("user", "Ok")]
    recommender_first = [Message("system", "S"), Message("assistant", "Yo"), Message("user", "Ok")]
    read = lambda messages: ENGINE.decode(ChatTemplate(STRICT).encode(messages, ENGINE))  # noqa: E731
    assert read(user_first) == "<user>S\n\nHi</><assistant>Yo</><user>Ok</><assistant>"
    assert read(recommender_first) == "<user>S</><assistant>Yo</><user>Ok</><assistant>"


def test_unusable_templates_are_errors() -> None:
    with pytest.raises(CrsError, match="not valid Jinja"):
        ChatTemplate("{% for %}")
    with pytest.raises(CrsError, match="refuses this dialogue"):
        ChatTemplate("{{ raise_exception('never') }}").encode([Message("system", "S")], ENGINE)
    with pytest.raises(CrsError, match="refuses this dialogue"):
        ChatTemplate("{{ ''.__class__.__mro__ }}").encode([Message("system", "S")], ENGINE)


def test_own_utterances_keep_the_ids_of_the_model() -> None:
    view = RecommenderView()
    view.say("Hello", [7, 8, 9])
    ids = ChatTemplate("").encode(view.messages, ENGINE)
    assert any(ids[i : i + 3] == [7, 8, 9] for i in range(len(ids)))
