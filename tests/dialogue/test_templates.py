"""Views as token ids: text stays text, and every chat template works or is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue.templates import CHATML, ChatTemplate
from crslib.dialogue.views import Message, RecommenderView, UserKnowledge, UserView
from crslib.engines.scripted import CONTROL, ScriptedEngine
from crslib.errors import CrsError
from tests.support import tiny
from tests.support.domains import MOVIES
from tests.support.texts import TEXT

ENGINE = ScriptedEngine(lambda prompt, seed: "")


@given(TEXT, TEXT, TEXT)
def test_text_never_becomes_a_control_token(summary: str, theirs: str, own: str) -> None:
    """Control ids of a prompt are those of the same dialogue with harmless words: texts add none."""

    def controls(summary: str, theirs: str, own: str) -> list[int]:
        view = UserView(UserKnowledge(MOVIES, summary or "x", "y"))
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
    view = RecommenderView(MOVIES)
    view.say("Hello", [7, 8, 9])
    ids = ChatTemplate("").encode(view.messages, ENGINE)
    assert any(ids[i : i + 3] == [7, 8, 9] for i in range(len(ids)))


# ── every text once ──

SYSTEM, HI, YO, OK = (
    Message(role, text) for role, text in (("system", "S"), ("user", "Hi"), ("assistant", "Yo"), ("user", "Ok"))
)
DIALOGUE = [SYSTEM, HI, YO, OK]
ASSISTANT_FIRST = [SYSTEM, YO, OK]
NO_SYSTEM = (  # passes over the roles that it does not know
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}<{{ m.role }}>{{ m.content }}</>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARTS = (  # as templates of models that also see pictures
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
    "{% endif %}{% endfor %}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SYSTEM_LAST = (  # Mistral's way: before the last message of the user
    "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role == 'user' %}<user>{% if loop.last %}{{ s }}|{% endif %}{{ m.content }}</>"
    "{% elif m.role == 'assistant' %}<assistant>{{ m.content }}</>{% endif %}{% endfor %}<assistant>"
)
TOLD_FIRST = "<user>S\n\nHi</><assistant>Yo</><user>Ok</><assistant>"


def read(source: str, messages: list[Message], **options: object) -> str:
    return ENGINE.decode(ChatTemplate(source, "<bos>", "<eos>", **options).encode(messages, ENGINE))


@pytest.mark.parametrize(
    ("source", "messages", "prompt"),
    [
        (NO_SYSTEM, DIALOGUE, TOLD_FIRST),
        (NO_SYSTEM, ASSISTANT_FIRST, "<user>S</><assistant>Yo</><user>Ok</><assistant>"),
        (NO_SYSTEM, [SYSTEM], "<user>S</><assistant>"),
        (PARTS, DIALOGUE, "<system>S</><user>Hi</><assistant>Yo</><user>Ok</><assistant>"),
        (
            PARTS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}"),
            DIALOGUE,
            TOLD_FIRST,
        ),
        (SYSTEM_LAST, DIALOGUE, "<user>Hi</><assistant>Yo</><user>S|Ok</><assistant>"),
        (SYSTEM_LAST, [SYSTEM, HI], "<user>S|Hi</><assistant>"),
        ("{{ messages | tojson }}", [HI], '[{"role": "user", "content": "Hi"}]'),
    ],
)
def test_no_text_is_lost(source: str, messages: list[Message], prompt: str) -> None:
    assert read(source, messages) == prompt


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("{% for m in messages[-2:] %}{{ m.content }}{% endfor %}", r"loses the text of message 1 \(user\)"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", r"loses the text of message 1 \(user\)"),
        ("{% for m in messages %}{{ m.content * 2 }}{% endfor %}", r"says the text of message 1 \(user\) 2 times"),
        ("{% for m in messages | reverse %}{{ m.content }}{% endfor %}", "changes the order of the messages"),
        ("{% for m in messages %}{{ m.content[:2] }}{% endfor %}", r"loses the text of message 1 \(user\)"),
        ("{{ 1 / 0 }}", r"refuses this dialogue \(ZeroDivisionError: division by zero\)"),
        ("{{ messages.no.where }}", "refuses this dialogue .*no attribute"),
        ("{% include 'other' %}", "refuses this dialogue .*no loader"),
        ("{{ messages.append(1) }}", "refuses this dialogue .*unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", r"refuses this dialogue \(RecursionError"),
    ],
)
def test_a_template_that_loses_texts_is_refused_in_one_sentence(source: str, fault: str) -> None:
    with pytest.raises(CrsError, match=f"^the model's chat template {fault}") as raised:
        read(source, DIALOGUE)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% for a in range(9999) %}{{ 'long words' }}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{% for a in [1] recursive %}{{ loop(range(999)) }}{% endfor %}",
    ],
)
def test_a_template_that_does_not_end_is_refused(source: str) -> None:
    with pytest.raises(CrsError, match="the model's chat template refuses this dialogue"):
        read(source, [HI])


@given(st.text(alphabet="{}%# \n'()[]|.~*+-ab01", max_size=40))
def test_any_text_is_a_template_or_one_sentence(source: str) -> None:
    try:
        assert read(source, [HI]).count("Hi") == 1
    except CrsError as error:
        assert str(error).startswith("the model's chat template ")


def test_templates_get_what_transformers_gives() -> None:
    assert read("{% if tools is none and documents is none %}{{ messages[0].content }}{% endif %}", [HI]) == "Hi"
    assert read("{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}", [HI]) == "26 Jul 2024Hi"
    assert read("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", [HI]) == "<bos>Hi<eos>"
    marked = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert read(marked, [HI]) == "Hi"


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_templates_of_known_kinds(kind: str) -> None:
    """Each in its own form; Gemma 3 has no system role, and Qwen 3 is told not to think."""
    expected = {
        "llama3": "<bos><|start_header_id|>system<|end_header_id|>\n\nToday is 26 Jul 2024.\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "qwen3": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n\n</think>\n\n",
        "gemma3": "<bos><start_of_turn>user\nS\n\nHi<end_of_turn>\n<start_of_turn>model\n",
        "phi3": "<|system|>\nS<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n",
        "mamba": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    }
    assert read(tiny.KINDS[kind].template, [SYSTEM, HI]) == expected[kind]


def test_gemma_gets_a_user_message_where_the_assistant_begins() -> None:
    begun = "<bos><start_of_turn>user\nS<end_of_turn>\n<start_of_turn>model\nYo<end_of_turn>\n"
    assert read(tiny.GEMMA3, ASSISTANT_FIRST) == begun + "<start_of_turn>user\nOk<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize(("written", "count"), [("", 0), ("{{ bos_token }}", 1), ("{{ bos_token * 2 }}", 2)])
def test_the_begin_token_stands_once_where_the_vocabulary_wants_it(add_bos: bool, written: str, count: int) -> None:
    assert read(written + CHATML, [HI], add_bos=add_bos).count("<bos>") == (1 if add_bos else count)


def test_a_form_is_rendered_once_for_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    template, rendered = ChatTemplate(CHATML), []
    render = template._render
    monkeypatch.setattr(template, "_render", lambda *given: rendered.append(given) or render(*given))
    prompts = [template.encode([Message("system", str(n)), Message("user", "x" * n)], ENGINE) for n in range(5)]
    assert len(rendered) == 1
    assert len(set(map(tuple, prompts))) == 5
