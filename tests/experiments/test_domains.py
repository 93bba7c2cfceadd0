"""The whole path in another domain than films: books, told by prompts, by rules, and by adapters that are for films."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import crslib
from crslib.cli.main import main
from crslib.config import ROOT, SimulationParameters
from crslib.dialogue.utterances import plain
from crslib.engines import weights
from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.metrics.definitions import METRICS
from crslib.schemas import agent_words
from crslib.simulation import Population
from crslib.simulation.opening import untried
from crslib.store import Run
from tests.conftest import make_profiles
from tests.simulation.test_loop import NO_RATINGS
from tests.support.books import books, write
from tests.support.domains import BOOKS, MOVIES
from tests.test_architecture import FILM_WORDS

SEEN = re.compile(r"\b(?:seen|saw)\b", re.IGNORECASE)


def of_films(text: str) -> list[str]:
    """The words of films in a text."""
    return [match[0] for pattern in (FILM_WORDS, SEEN) for match in pattern.finditer(text)]


def tried(turns: Sequence[dict[str, Any]]) -> str:
    """A recommender that knows ten books."""
    return f"Have you read [[The Salt Orchard (1950)]] or {books()['title'][len(turns) % 10]}?"


def test_rules_talk_of_books(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    talked = crslib.talk(tried, "agenda", 12, data=str(data), min_k=4, max_turns=8, to=tmp_path / "run")
    words = " ".join(talked.turns["text"])
    assert "book" in words
    assert of_films(words) == []
    prompts = " ".join(talked.prompts["text"])
    assert "You are chatting with a book recommender." in prompts
    assert "read" in prompts
    assert of_films(prompts) == []
    assert Run(tmp_path / "run").read("profiles")["summary"].str.contains("books").any()


def test_an_adapter_of_another_domain_is_said_to_be_untried() -> None:
    parameters = SimulationParameters()
    of_books, of_movies = (Population(make_profiles(["a"]), books(), NO_RATINGS, domain) for domain in (BOOKS, MOVIES))
    said = untried("user", of_books, parameters)
    assert said == "untried on books: its adapter was trained on movies"
    assert untried("user", of_movies, parameters) == ""
    assert untried("user", of_books, SimulationParameters(user_adapter="")) == ""
    assert untried("recommender", of_books, parameters) == said
    assert weights.domain_of(ROOT / "data/adapters/user.gguf") == "movies"
    assert weights.domain_of(ROOT / "data/adapters/scripted.gguf") == ""  # older than domains
    agent = {"model_sha256": "m", "adapter_sha256": "a", "untried": said}
    assert agent_words(agent) == f"model m, adapter a; {said}"


def test_a_domain_is_part_of_a_runs_identity_and_checked_before_it_starts(tmp_path: Path) -> None:
    given = {"data": str(write(tmp_path / "data")), "n_profiles": 2, "min_k": 4, "weights": "Q8_0"}
    planned = pipeline.plan(given, tmp_path)
    assert planned.inputs["domain"] == BOOKS.sha256
    assert pipeline.plan({**given, "domain": "books"}, tmp_path).run_id == planned.run_id
    assert pipeline.plan({**given, "domain": "movies"}, tmp_path).inputs["domain"] == MOVIES.sha256
    with pytest.raises(CrsError, match="there is no domain 'moveis'"):
        pipeline.plan({**given, "domain": "moveis"}, tmp_path)


def test_a_domain_is_written_filled_in_and_checked_by_commands(tmp_path: Path) -> None:
    file = str(tmp_path / "games.yaml")
    call = CliRunner().invoke
    assert call(main, ["domain", "new", "games", "--to", file]).exit_code == 0
    checked = call(main, ["domain", "check", file])
    assert checked.exit_code == 0
    assert "games: nothing is wrong; 6 kinds" in checked.output
    again = call(main, ["domain", "new", "games", "--to", file])
    assert again.exit_code == 1
    assert "exists" in again.output


def test_no_metric_is_defined_in_words_of_films() -> None:
    texts = " ".join(f"{metric.title} {metric.definition}" for metric in METRICS.values())
    assert "of interest" in texts
    assert of_films(texts) == []


@pytest.mark.model
@pytest.mark.notebook
def test_a_run_of_books_by_models_that_are_told_speaks_of_no_film(tmp_path: Path) -> None:
    data = write(tmp_path / "data")
    given = {
        **{"data": str(data), "n_profiles": 2, "min_k": 4, "user_adapter": "", "recommender_adapter": ""},
        **{"max_turns": 4, "max_tokens": 16, "width": 2, "n_bootstrap": 100, "weights": "as they are"},
        **{"title_model": 0.0, "title_base": 0.0, "resample": 1},
    }
    run = pipeline.execute(pipeline.plan(given, tmp_path / "reports"))
    turns = run.read("turns")
    own_words = sorted({plain(text) for text in turns["text"] if text}, key=len, reverse=True)

    def without_own_words(text: str) -> str:
        for words in own_words:  # what small models say is their own affair
            text = text.replace(words, " ")
        return text

    prompts = without_own_words(" ".join(plain(text) for text in run.read("prompts")["text"]))
    assert "You are a person in a chat with a book recommender." in prompts
    assert "Recommend only books that exist." in prompts
    assert of_films(prompts) == []
    page = html.unescape(re.sub(r"<[^>]+>", " ", (run.path / "report.html").read_text(encoding="utf-8")))
    page, people = " ".join(page.split()), "human dialogues (ReDial, about movies)"
    assert people in page  # whom the books are compared with is said
    assert of_films(without_own_words(page.replace(people, " "))) == []
    assert json.loads((run.path / "domain.json").read_text())["name"] == "books"
    assert run.info["audit"]["hidden_title"] == 0
