"""Agents by their names in one simulation: barrier, failures, runs that go on, and the built-in model in each kind."""

import json
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import schemas
from crslib.agents.base import Ask
from crslib.config import SimulationParameters
from crslib.dialogue.utterances import RECOMMENDER
from crslib.dialogue.views import RecommenderView
from crslib.engines.base import Constraint
from crslib.errors import CrsError
from crslib.recommender.grounding import CatalogTitles
from crslib.simulation import opening
from crslib.simulation.dialogues import Dialogues
from crslib.simulation.loop import HOPELESS, simulate
from crslib.simulation.opening import ROLES, open_agents, planned
from crslib.simulation.population import Population
from crslib.store import Run
from tests.conftest import make_profiles
from tests.recommender.test_grounding import Even
from tests.simulation.test_loop import NO_RATINGS, Fixed, ids
from tests.support.domains import MOVIES
from tests.support.server import Answer, Handler, Server, completion, serving


def said(handler: Handler) -> list[str]:
    """What a server was sent: the texts of the messages of its last request."""
    return [message["content"] for message in handler.server.requests[-1][2]["messages"]]


def talk(
    folder: Path, items: pl.DataFrame, n: int = 3, progress=lambda done, total: None, **given: object
) -> Dialogues:
    population = Population(make_profiles(ids(n)), items, NO_RATINGS, MOVIES, Fixed())
    parameters = SimulationParameters.parse({"max_turns": 6, "resample": 1, "grounding": "off", **given})
    run = Run(folder)
    with open_agents(parameters, population, folder) as (user, recommender), run.journal() as journal:
        talked = simulate(population, user, recommender, parameters, journal, progress)
    talked.write(run)
    return talked


def both(server: Server) -> dict[str, str]:
    return {f"{role}_model": f"openai:m@{server.url}" for role in ("user", "recommender")}


def test_a_server_speaks_for_both_roles_and_neither_sees_what_it_must_not(tmp_path: Path, items: pl.DataFrame) -> None:
    with serving((200, "I would say **Heat** (1995) [END]")) as server:
        talked = talk(tmp_path, items, **both(server))
        systems = [body["messages"][0]["content"] for _, _, body in server.requests]
        texts = [" ".join(m["content"] for m in body["messages"]) for _, _, body in server.requests]
    recommenders = [text for text, system in zip(texts, systems, strict=True) if system.startswith("You are a movie")]
    assert recommenders and not [text for text in recommenders if "secret" in text or "hush" in text]
    assert [text for text in texts if "secret" in text]
    # The user's mark ends a dialogue; the recommender has none. Titles are linked without double brackets too.
    assert set(talked.dialogues["stop_reason"]) == {"user_left"}
    assert set(talked.turns["text"]) == {"I would say [[Heat (1995)]]"}
    sent = talked.prompts.filter(pl.col("role") == "recommender")["text"]
    assert all("You are a movie recommender in a chat" in text for text in sent)
    assert not [text for text in sent if "secret" in text]
    info = Run(tmp_path).info
    assert info["usage"]["user"]["tokens_in"] == 7 * len(talked.prompts.filter(pl.col("role") == "user"))
    assert not info["agents"]["user"]["reproducible"]
    for name in ("dialogues", "turns", "prompts", "failures"):
        schemas.check(Run(tmp_path).read(name), name)


def test_a_run_that_was_killed_asks_only_for_what_is_not_there(tmp_path: Path, items: pl.DataFrame) -> None:
    """Those of dialogues that had not ended too; but what was being asked at that moment is asked again.

    Five are alive at a time, so the last ones have not begun when the second has ended.
    """

    def killed(done: int, total: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with serving((200, "Well, what else?")) as server:
        with pytest.raises(KeyboardInterrupt):
            talk(tmp_path, items, 12, killed, **both(server), max_concurrency=2)
        before = len(server.requests)
        talked = talk(tmp_path, items, 12, **both(server), max_concurrency=2)
        asked = [json.dumps([body["messages"], body["seed"]]) for _, _, body in server.requests]
    assert len(talked.dialogues) == 12
    assert 0 < before < len(asked)
    assert len(set(asked)) == 12 * 6
    assert len(asked) - len(set(asked)) <= 2


def test_what_one_role_drops_at_the_end_makes_no_room_for_the_others_requests(
    tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recommender is being answered and the user waits; the user's agent is closed some time after the other."""
    population = Population(make_profiles(["u"]), items, NO_RATINGS, MOVIES, Fixed())
    answered = threading.Event()

    def answer(handler: Handler) -> None:
        answered.wait(10)
        handler.reply((200, completion("Well, what else?")))

    with serving(answer) as server:
        parameters = SimulationParameters(**both(server), max_concurrency=1, grounding="off")
        with open_agents(parameters, population) as (user, recommender):
            close = user.close
            monkeypatch.setattr(user, "close", lambda: (time.sleep(0.3), close()))
            recommender.ask(Ask("a", RecommenderView(MOVIES), 1))
            while not server.requests:
                time.sleep(0.01)
            user.ask(Ask("a", population.view(population.profiles.row(0, named=True)), 1))
        answered.set()
        assert len(server.requests) == 1


def test_a_dialogue_that_fails_is_a_row_and_the_next_call_tries_it_again(tmp_path: Path, items: pl.DataFrame) -> None:
    ill = True

    def answer(handler: Handler) -> None:
        bad = ill and any("secret1secret" in text for text in said(handler))
        handler.reply((400, b'{"error": {"message": "no such luck"}}') if bad else (200, completion("Fine, thanks")))

    with serving(answer) as server:
        first = talk(tmp_path, items, 3, **both(server), max_concurrency=1)
        assert Run(tmp_path).info["n_failed"] == 1
        (failure,) = first.failures.to_dicts()
        assert (failure["dialogue_id"], failure["role"]) == ("u01.0", "user")
        assert "no such luck" in failure["error"]
        assert first.dialogues["dialogue_id"].to_list() == ["u00.0", "u02.0"]
        ill = False
        second = talk(tmp_path, items, 3, **both(server), max_concurrency=1)
    assert second.failures.is_empty()
    assert second.dialogues["dialogue_id"].to_list() == ["u00.0", "u01.0", "u02.0"]
    kept = second.turns.filter(pl.col("dialogue_id") != "u01.0")
    assert kept.equals(first.turns)


def test_where_nothing_works_the_others_are_not_tried(tmp_path: Path, items: pl.DataFrame) -> None:
    answer: Answer = (400, b'{"error": {"message": "never"}}')
    with (
        serving(answer) as server,
        pytest.raises(CrsError, match=f"{HOPELESS} dialogues failed and none ended: .*never"),
    ):
        talk(tmp_path, items, 40, **both(server), max_concurrency=1)


@pytest.mark.parametrize(
    ("name", "body", "sentence"),
    [
        ("raises", "raise ValueError('no such film')", "raised ValueError: no such film"),
        ("is_silent", "return None", "returned nothing"),
        ("goes_on", "return 'word ' * 10_000", "said 10,000 words"),
    ],
)
def test_a_bad_function_is_a_sentence(
    name: str, body: str, sentence: str, tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(f"def reply(turns):\n    {body}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CrsError, match=sentence):
        talk(tmp_path / "run", items, user_model="agenda", recommender_model=f"python:{name}.py:reply")


def test_rules_talk_with_a_function(tmp_path: Path, items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same words, for the user by rules; the function's titles are linked."""
    (tmp_path / "mine.py").write_text("def reply(turns):\n    return 'Have you seen The Matrix (1999)?'\n")
    monkeypatch.chdir(tmp_path)
    given = {"user_model": "agenda", "recommender_model": "python:mine.py:reply"}
    first, second = (talk(tmp_path / name, items, **given) for name in ("a", "b"))
    assert first.turns.equals(second.turns)
    items_named = first.turns.filter(pl.col("role") == "recommender").explode("items")["items"].struct.field("item_id")
    assert items_named.null_count() == 0


def test_what_a_run_is_known_by(tmp_path: Path) -> None:
    """The address of a server and the instructions; a prompt of other words is another run."""
    prompt = tmp_path / "mine.md"
    prompt.write_text("{% set opening %}Hi{% endset %}Be brief.")
    told = SimulationParameters(user_model="openai:m@http://localhost:1/v1", user_prompt=str(prompt))
    one = planned("user", told)
    assert (one["model"], one["url"]) == ("m", "http://localhost:1/v1")
    prompt.write_text("{% set opening %}Hi{% endset %}Be long.")
    assert planned("user", told) != one
    with pytest.raises(CrsError, match="'agenda' is a user; name another recommender_model"):
        planned("recommender", SimulationParameters(recommender_model="agenda"))


def test_a_server_writes_scripts(tmp_path: Path, items: pl.DataFrame) -> None:
    """Told what to do, with the targets; titles are linked, thoughts left out, and one that fails is a row."""
    from crslib.config import BaselineParameters
    from crslib.simulation import baselines
    from tests.simulation.test_baselines import informed

    script = "<think>User: no</think>User: Hi, a film?\nRecommender: Try **Heat** (1995)\nUser: Bye"

    def answer(handler: Handler) -> None:
        bad = any("secret1secret" in text for text in said(handler))
        handler.reply((400, b"{}") if bad else (200, completion(script)))

    population = informed(items, {"u0": ["Up (2009)"]}, 2)
    with serving(answer) as server, Run(tmp_path).journal() as journal:
        parameters = BaselineParameters(baseline="scripted", user_model=f"openai:m@{server.url}", max_concurrency=1)
        talked = baselines.simulate_baseline(population, parameters, journal, folder=tmp_path)
        told = [body["messages"][0]["content"] for _, _, body in server.requests]
    assert talked.turns["text"].to_list() == ["Hi, a film?", "Try [[Heat (1995)]]", "Bye"]
    assert [row["dialogue_id"] for row in talked.failures.to_dicts()] == ["u1.0"]
    assert sum("Up (2009)" in text for text in told) == 1


def test_instructions_that_a_model_of_this_machine_reads(tmp_path: Path, items: pl.DataFrame) -> None:
    assert SimulationParameters().prompt("user") == ""
    told = SimulationParameters(user_adapter="")
    assert (told.prompt("user"), told.context) == ("data/prompts/user.md", 2048)
    assert SimulationParameters(user_adapter="", user_prompt="").context == 768
    assert SimulationParameters(user_model="other.gguf").adapter("user") == ""
    assert SimulationParameters().adapter("user") == "data/adapters/user.gguf"


def test_a_function_is_known_by_its_file_and_not_by_its_folder(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "my.py").write_text("def reply(turns):\n    return 'Hi'\n")
    names = [f"python:{tmp_path / folder / 'my.py'}:reply" for folder in ("here", "there")]
    here, there = (planned("recommender", SimulationParameters(recommender_model=name)) for name in names)
    assert here == there
    (tmp_path / "there" / "my.py").write_text("def reply(turns):\n    return 'Ho'\n")
    assert planned("recommender", SimulationParameters(recommender_model=names[1])) != here


def test_an_address_with_a_password_is_refused_before_anything_is_stored() -> None:
    with pytest.raises(CrsError, match="holds a name, a password or a query"):
        planned("recommender", SimulationParameters(recommender_model="http://me:hush@localhost/reply"))


def test_of_its_favourites_a_user_names_those_that_go_with_its_wish_or_were_named(items: pl.DataFrame) -> None:
    """Letters that may follow `[[`; the recommender, who does not know them, may begin any title."""
    profile = {"loved_items": ["1", "6"], "target_kinds": ["crime"]}
    profiles = make_profiles(["u"]).with_columns(**{name: pl.lit(ids) for name, ids in profile.items()})
    population = Population(profiles, items, NO_RATINGS, MOVIES, Fixed())
    view = population.view(population.profiles.row(0, named=True))
    assert (view.knowledge.loved, view.knowledge.unrelated) == (("Heat (1995)", "Up (2009)"), ("Up (2009)",))
    letters, plain = Even(), SimulationParameters(title_model=0, title_base=0)
    of_user, of_recommender = population.of_user(letters, plain), population.of_recommender(letters, plain)
    assert of_user is not None and of_recommender is not None

    def initials(constraint: Constraint) -> str:
        choice = constraint.allowed(list(b"I love [["))
        assert choice is not None
        return "".join(sorted(map(chr, choice.tokens.tolist())))

    assert initials(of_user(view)) == "HKNT"
    assert initials(of_recommender(view.turns)) == "HKNTU"
    view.follow({"role": RECOMMENDER, "text": "Seen [[Up (2009)]]?", "items": population.catalog.link("[[Up (2009)]]")})
    assert initials(of_user(view)) == "HKNTU"
    assert of_user(view).forced(list(b"It is by P")) == list(b"ete Docter"), "of what is at hand a user, too, knows who"
    wishing = population.of_user(letters, SimulationParameters(title_wish=2))
    level = population.of_user(letters, SimulationParameters(title_wish=0))
    assert wishing is not None and level is not None
    (tilted, plain) = (of(view).allowed(list(b"I love [[")) for of in (wishing, level))
    assert tilted is not None and plain is not None and tilted.tokens.tolist() == plain.tokens.tolist()
    more = dict(zip(map(chr, plain.tokens.tolist()), (tilted.weights - plain.weights).tolist(), strict=True))
    of_named = more.pop("U") - more["K"]
    assert {name: more[name] - more["K"] for name in "HNT"} == pytest.approx({"H": 2, "N": 0, "T": 0})
    assert 0 < of_named < 2, "what was named stays as likely beside all others together"
    free = SimulationParameters(grounding="off")
    assert population.of_user(letters, free) is population.of_recommender(letters, free) is None


def test_titles_are_spelled_once_for_each_vocabulary(items: pl.DataFrame) -> None:
    population = Population(make_profiles(["u"]), items, NO_RATINGS, MOVIES, Fixed())
    unread = SimulationParameters(title_model=0, title_base=0)
    one, same, other = Even(), Even("same"), Even()
    other.pieces = (*Even.pieces, b"")
    titles = population.catalog_titles(one, unread)
    assert population.catalog_titles(same, unread, titles) is titles
    assert population.catalog_titles(other, unread, titles) is not titles


def test_the_recommenders_model_reads_the_titles_of_both(items: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else can be computed before anybody speaks is computed for those who speak by an engine."""
    population = Population(make_profiles(["u"]), items, NO_RATINGS, MOVIES, Fixed())
    engines = {role: Even(role) for role in ROLES}
    got: list[CatalogTitles] = []
    prepared: list[Sequence[str]] = []

    def local_agent(*given: Any) -> StringIO:
        got.append(given[-1])
        return StringIO()

    monkeypatch.setattr("crslib.simulation.population.CatalogTitles", partial(CatalogTitles, cache=None))
    monkeypatch.setattr(opening, "open_engines", lambda given, roles: nullcontext([engines[role] for role in roles]))
    monkeypatch.setattr(opening, "local_agent", local_agent)
    monkeypatch.setattr(opening, "remote_agent", lambda *given: StringIO())
    monkeypatch.setattr(population, "prepare", lambda parameters, roles: prepared.append(roles))
    of_http = {"recommender_model": "http://localhost/reply"}
    with open_agents(SimulationParameters(), population):
        assert got[0] is got[1]
    assert [engine.asked for engine in engines.values()] == [0, 1]
    with open_agents(SimulationParameters(**of_http), population):
        assert [engine.asked for engine in engines.values()] == [1, 1]
    with open_agents(SimulationParameters(user_model="agenda", **of_http), population):
        assert prepared == [["user", "recommender"], ["user"]]
