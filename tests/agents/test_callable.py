"""A recommender or user that is a Python function."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib.agents import callable as own
from crslib.agents.base import Ask, Reply
from crslib.config import ROOT
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.dialogue.views import RecommenderView, UserKnowledge, UserView, View
from crslib.errors import CrsError
from crslib.identity import derive_seed, file_sha256
from tests.support.domains import MOVIES
from tests.support.titles import bracketed


@pytest.fixture
def catalog(items: pl.DataFrame) -> Catalog:
    return Catalog(items, MOVIES)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def agent(function: Callable[..., Any], catalog: Catalog, role: str = RECOMMENDER) -> own.FunctionAgent:
    return own.FunctionAgent(function, role, catalog, lambda text: bracketed(text, catalog), "python:my_crs:reply")


def asked(agent: own.FunctionAgent, view: View, seed: int = 7) -> Reply:
    agent.ask(Ask("d1", view, seed))
    ((dialogue_id, reply),) = agent.step(wait=True)
    assert dialogue_id == "d1"
    return reply


def heard(text: str) -> RecommenderView:
    view = RecommenderView(MOVIES)
    view.hear(text)
    return view


def test_a_recommender_gets_the_turns_and_its_titles_are_linked(catalog: Catalog) -> None:
    got = []

    def reply(turns: list) -> str:
        got.append([(turn["role"], turn["text"]) for turn in turns])
        turns.clear()  # its own copy
        return "Try The Matrix (1999)"

    view = heard("I like [[Heat (1995)]]")
    answered = asked(agent(reply, catalog), view)
    assert got == [[("user", "I like Heat (1995)")]]
    assert len(view.turns) == 1
    assert (answered.text, answered.finish, answered.n_tokens) == ("Try [[The Matrix (1999)]]", "end", 4)
    assert answered.sent.text == 'user: {"text": "I like Heat (1995)", "items": []}'


def test_a_user_gets_its_knowledge_and_leaves_with_none(catalog: Catalog) -> None:
    view = UserView(UserKnowledge(MOVIES, "You enjoy drama.", "a drama"))
    said = agent(lambda turns, knowledge: f"I want {knowledge['attributes']}", catalog, USER)
    assert asked(said, view).text == "I want a drama"
    assert asked(agent(lambda turns, knowledge: None, catalog, USER), view).finish == "left"


def test_seed_and_dialogue_are_given_to_those_who_take_them(catalog: Catalog) -> None:
    both = agent(lambda turns, seed, dialogue_id: f"{seed} {dialogue_id}", catalog)
    seed, name = asked(both, heard("hi")).text.split()
    assert int(seed) == derive_seed(0, name, 1)  # the run's own seed, 7, would say whose ratings to look up
    one = agent(lambda turns, *, dialogue_id: dialogue_id, catalog)
    called = asked(one, heard("hi")).text
    assert len(called) == 32  # the run's own id would say whose ratings to look up
    assert asked(one, heard("hi")).text == called
    one.release("d1")
    assert asked(one, heard("hi")).text != called
    assert asked(agent(lambda turns, **named: " ".join(sorted(named)), catalog), heard("hi")).text == "dialogue_id seed"


@pytest.mark.parametrize("error", [KeyError("genre"), SystemExit(3)])
def test_what_it_raises_is_a_failed_utterance(error: BaseException, catalog: Catalog) -> None:
    def reply(turns: list) -> str:
        raise error

    failed = asked(agent(reply, catalog), heard("hi"))
    assert failed.finish == "failed"
    line = reply.__code__.co_firstlineno + 1
    expected = f"python:my_crs:reply raised {type(error).__name__}: {error} (test_callable.py, line {line})"
    assert failed.error == expected
    assert failed.sent.text


def test_what_it_returns_is_judged(catalog: Catalog) -> None:
    failed = asked(agent(lambda turns: None, catalog), heard("hi"))
    assert failed.error.startswith("python:my_crs:reply returned nothing (None); expected is text")


@pytest.mark.parametrize(
    ("function", "role", "sentence"),
    [
        (lambda: "", RECOMMENDER, r"cannot be called as recommender .*; write it as reply\(turns\)"),
        (lambda turns, knowledge: "", RECOMMENDER, "missing a required argument: 'knowledge'"),
        (lambda turns: "", USER, r"write it as reply\(turns, knowledge\)"),
    ],
)
def test_a_function_of_other_parameters_is_refused(function: Any, role: str, sentence: str, catalog: Catalog) -> None:
    with pytest.raises(CrsError, match=sentence):
        agent(function, catalog, role)


def test_an_async_function_is_refused(catalog: Catalog) -> None:
    async def reply(turns: list) -> str:
        return ""

    with pytest.raises(CrsError, match="is an async function"):
        agent(reply, catalog)


def test_found_in_the_working_directory(folder: Path, catalog: Catalog) -> None:
    """A module, one in a package, and a file with a neighbour, each by its name."""
    (folder / "my_own_crs.py").write_text("def reply(turns):\n    return 'one'\n")
    (folder / "my_pack").mkdir()
    (folder / "my_pack" / "__init__.py").touch()
    (folder / "my_pack" / "talk.py").write_text("from my_pack import near\ndef reply(turns):\n    return near.WORD\n")
    (folder / "my_pack" / "near.py").write_text("WORD = 'two'\n")
    names = ("python:my_own_crs:reply", "python:my_pack.talk:reply", "python:my_pack/talk.py:reply")
    opened = [own.open_function(name, RECOMMENDER, catalog, str) for name in names]
    assert [asked(each, heard("hi")).text for each in opened] == ["one", "two", "two"]
    assert opened[0].identity == {
        "agent": "python",
        "name": "my_own_crs:reply",
        "source_sha256": file_sha256(folder / "my_own_crs.py"),
    }


def test_without_a_source_there_is_no_hash() -> None:
    assert own.source_sha256(len) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("python:", "names no function; write python:MODULE:FUNCTION"),
        ("python:broken", "names no function"),
        ("python:no_such_module:reply", "there is no module 'no_such_module'; start in the folder that holds it"),
        ("python:no_such_file.py:reply", "there is no file no_such_file.py; give a path below the working directory"),
        ("python:broken:reply", r"importing broken raised ValueError: no model here \(broken.py, line 1\)"),
        ("python:needy:reply", "importing needy raised ModuleNotFoundError: No module named 'no_such_library'"),
        ("python:sound:replay", "sound.py has no 'replay'; it has reply"),
        ("python:sound:WORDS", "is a value of type int, not a function"),
        ("python:json.py:reply", "another module has this name, .*; rename json.py"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(name: str, sentence: str, folder: Path) -> None:
    (folder / "broken.py").write_text("raise ValueError('no model here')\n")
    (folder / "needy.py").write_text("import no_such_library\n")
    (folder / "sound.py").write_text("WORDS = 3\ndef reply(turns):\n    return ''\n")
    (folder / "json.py").touch()
    with pytest.raises(CrsError, match=sentence):
        own.load(name)


@pytest.mark.parametrize("place", ["", ".", "..", "a..b", "~nobody-has-this-name/x.py", "x" * 5000, "x\0.py", "/"])
def test_what_cannot_be_a_path_names_no_file(place: str) -> None:
    assert own.find_file(place) is None


def test_the_example_recommends_what_nobody_has_named() -> None:
    """The shipped recommender, on the shipped catalogue: the newest dramas, since the user said so."""
    items = pl.read_parquet(ROOT / "data/items.parquet")
    catalog = Catalog(items, MOVIES)
    newest = own.open_function("python:data/protocol/newest.py:reply", RECOMMENDER, catalog, str)
    dramas = items.filter(pl.col("kinds").list.contains("drama"))
    view = RecommenderView(MOVIES)
    view.hear("I like Drama movies")
    for item_id in dramas.sort("year", "item_id", descending=True, nulls_last=True)["item_id"][:3]:
        reply = asked(newest, view)
        (item,) = catalog.link(reply.text)
        assert item["item_id"] == item_id
        view.say(reply.text, items=[item])
        view.hear("no")
