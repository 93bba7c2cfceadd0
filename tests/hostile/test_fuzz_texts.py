"""Random texts (linked to a catalogue, as chat templates, as parameters): each gives a right value or one sentence.

The suite tries some of them, the same ones each time; `make fuzz` tries others, and more.
"""

import json
import re
from itertools import pairwise
from typing import Any

import polars as pl
from hypothesis import event, example, given
from hypothesis import strategies as st

from crslib import schemas
from crslib.cli.parameters import read_assignments
from crslib.config import BUILT_IN, RunParameters, resolve
from crslib.data.catalog import Catalog
from crslib.dialogue import utterances
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import Message
from crslib.engines.scripted import ScriptedEngine
from tests.support import tiny
from tests.support.domains import MOVIES
from tests.support.fuzz import sentence
from tests.support.metrics_frames import table
from tests.support.texts import TEXT

# ── links to the catalogue ──────────────────────────────────────────────────────────────────────────────────────

TITLE = st.one_of(
    TEXT, st.sampled_from(["Heat", "The Heat", "Heat 2", "Up", "9", "?", "It", "[REC]", "M*A*S*H", "Æon"])
)
FILM = st.fixed_dictionaries(
    {
        "title": TITLE,
        "year": st.one_of(st.none(), st.integers(1890, 2030)),
        "makers": st.lists(TEXT, max_size=1),
        "people": st.lists(TEXT, max_size=2),
        "n_ratings": st.integers(0, 9),
    }
)


@given(st.lists(FILM, max_size=5), st.data())
def test_any_words_are_linked_to_any_catalogue(films: list[dict[str, Any]], data: st.DataObject) -> None:
    catalog = Catalog(table("items", [{**film, "item_id": str(number)} for number, film in enumerate(films)]), MOVIES)
    names = [catalog.name(str(number)) for number in range(len(films))]
    word = st.one_of(
        TEXT, st.sampled_from([*names, *(film["title"] for film in films), "have you seen", "*", '"', "."])
    )
    text = " ".join(data.draw(st.lists(word, max_size=6)))
    for name in names:
        found = catalog.find(name)
        assert found is not None
        assert catalog.name(found) == name
    assert catalog.find(text) in {None, *map(str, range(len(films)))}
    spotted = catalog.spot(text)
    end = 0
    for row in spotted:
        assert end <= row["start"] < row["end"]
        assert row["title"] == text[row["start"] : row["end"]]
        assert row["item_id"] is not None
        end = row["end"]
    rows = sorted([*catalog.link(text), *spotted], key=lambda row: row["start"])
    assert all(row["end"] <= after["start"] for row, after in pairwise(rows))
    said = catalog.bracketed(text)
    for row in catalog.link(said):
        assert utterances.MENTION.fullmatch(said[row["start"] : row["end"]])
    pl.Series("items", [rows], dtype=pl.List(schemas.MENTION))


# ── chat templates ──────────────────────────────────────────────────────────────────────────────────────────────

ATOMS = (
    "messages message message.content message['content'] message.role loop.index0 loop.first none 1 "
    "'x' true loop.last bos_token eos_token add_generation_prompt messages[0] messages[1:] messages[0].content "
    "tools ns.x range(9) namespace strftime_now('%Y') raise_exception('no') message.content[0].text "
    "cycler(1,2) joiner().__class__"
)
FILTERS = "trim upper list length tojson first join reverse default string"
OPERATORS = "+ ~ == and or in * % - is"
CALLS = ("strip()", "split('x')", "items()", "replace('a', 'b')", "format()", "pop()")
EXPRESSION = st.recursive(
    st.sampled_from(ATOMS.split(" ")),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(FILTERS.split())).map(" | ".join),
        st.tuples(inner, st.sampled_from(OPERATORS.split()), inner).map(" ".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} if {pair[1]} else '')"),
        st.tuples(inner, st.sampled_from(CALLS)).map(lambda pair: f"({pair[0]}).{pair[1]}"),
    ),
    max_leaves=4,
)
STATEMENT = st.recursive(
    st.one_of(
        EXPRESSION.map(lambda one: "{{ " + one + " }}"),
        EXPRESSION.map(lambda one: "{%- set ns = namespace(x=" + one + ") %}"),
        EXPRESSION.map(lambda one: "{% set message = " + one + " %}"),
        st.sampled_from(["<|im_start|>", "\n", " ", "{# note #}", "{{ message.content }}", "{% break %}", "[INST]"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map("".join),
        st.tuples(EXPRESSION, inner).map(lambda pair: f"{{% if {pair[0]} %}}{pair[1]}{{% endif %}}"),
        st.tuples(EXPRESSION, inner).map(lambda pair: f"{{% for message in {pair[0]} %}}{pair[1]}{{% endfor %}}"),
        inner.map(lambda body: f"{{% for message in messages %}}{body}{{% endfor %}}"),
        inner.map(lambda body: f"{{% macro m(x) %}}{body}{{% endmacro %}}{{{{ m(1) }}}}"),
        inner.map(lambda body: f"{{% generation %}}{body}{{% endgeneration %}}"),
    ),
    max_leaves=6,
)
KNOWN = [re.split(r"(?=\{[{%])", kind.template) for kind in tiny.KINDS.values()]


@st.composite
def changed(draw: st.DrawFn) -> str:
    """A template of a known kind of model, with pieces of it lost, doubled, exchanged or put in between."""
    pieces = list(draw(st.sampled_from(KNOWN)))
    for what in draw(st.lists(st.sampled_from(["lose", "double", "exchange", "insert"]), max_size=2)):
        at, other = (draw(st.integers(0, len(pieces) - 1)) for _ in range(2))
        if what == "lose":
            pieces[at] = ""
        elif what == "double":
            pieces[at] *= 2
        elif what == "exchange":
            pieces[at], pieces[other] = pieces[other], pieces[at]
        else:
            pieces.insert(at, draw(STATEMENT))
    return "".join(pieces)


VIEW = st.lists(st.sampled_from(["user", "assistant"]), max_size=4).map(lambda roles: ["system", *roles])
ENGINE = ScriptedEngine(lambda prompt, seed: "")


@given(st.one_of(STATEMENT, changed()), VIEW)
@example("{% for message in messages %}{{ message.content }}{% endfor %}", ["system", "user"])
def test_any_template_has_each_text_once_or_is_refused(source: str, roles: list[str]) -> None:
    texts = [f"({number} {role})" for number, role in enumerate(roles)]
    messages = [Message(role, text) for role, text in zip(roles, texts, strict=True)]
    ids = sentence(lambda: ChatTemplate(source, "<s>", "</s>", True).encode(messages, ENGINE))
    event("accepted" if ids is not None else "refused")
    if ids is not None:
        prompt = ENGINE.decode(ids)
        assert [prompt.count(text) for text in texts] == [1] * len(texts)
        assert not prompt.startswith("<s><s>")


# ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────

WORDS = (
    *("", "~", "~nobody/x", "\0", "a" * 5000, "/", ".", "..", "python:", "python:a:b:c", "openai:@", "http://", "="),
    *("010", "1e400", "-0", "nan", "inf", "1_000", "0x10", "true", "TRUE", "null", "[1]", "{}", "9" * 400, "١", "²"),
    BUILT_IN,
)
VALUE = st.one_of(TEXT, st.sampled_from(WORDS), st.integers().map(str), st.floats().map(str))


@given(st.sampled_from(sorted(RunParameters.model_fields)), VALUE)
def test_any_text_is_the_value_of_a_parameter_or_refused(name: str, text: str) -> None:
    parameters = sentence(lambda: RunParameters.parse(read_assignments([f"{name}={text}"])))
    if parameters is None:
        return
    located = sentence(parameters.located)
    if located is None:
        return
    assert json.dumps(located.identity(), allow_nan=False)
    value = getattr(parameters, name)
    if isinstance(value, str):
        assert value == text
    elif isinstance(value, bool):
        assert text.lower() == str(value).lower()
    else:
        assert type(value)(text) == value
    for role in ("user", "recommender"):
        sentence(lambda role=role: resolve(located.model(role)))


@given(st.lists(st.text(max_size=20), max_size=3))
def test_any_words_are_assignments_or_refused(words: list[str]) -> None:
    sentence(lambda: RunParameters.parse(read_assignments(words)))
