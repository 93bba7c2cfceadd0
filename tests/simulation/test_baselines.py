"""The conditions that are told the targets: they are told, they say so, and nothing of it reaches another condition."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.config import ROOT, BaselineParameters, RunParameters, SimulationParameters
from crslib.data.catalog import Catalog
from crslib.engines.scripted import ScriptedEngine
from crslib.experiments import pipeline
from crslib.metrics import leakage
from crslib.recommender.grounding import CatalogTitles, Grounding
from crslib.recommender.mixture import Mixture
from crslib.recommender.prior import heard
from crslib.simulation import baselines
from crslib.simulation.baselines import InformedPopulation, ScriptConstraint
from crslib.store import Run
from tests.conftest import make_profiles
from tests.experiments.test_pipeline import TINY
from tests.simulation.test_loop import NO_RATINGS, Fixed, frames
from tests.simulation.test_replay import Reader
from tests.support.agents import simulate
from tests.support.domains import MOVIES

NO_HOLDOUTS = pl.DataFrame(schema=dict(schemas.TABLES["holdouts"]))
SCRIPT = "User: Hi, a film?\nRecommender: [[Up (2009)]] or\n[[Heat (1995)]]\n**User:** Thanks"


@pytest.fixture
def holdouts() -> pl.DataFrame:
    """Of u0 four hidden films liked and one not, of u1 none liked."""
    rows = [("u0", "1", 5.0, True), ("u0", "2", 5.0, True), ("u0", "6", 4.0, True), ("u0", "3", 4.0, True)]
    rows += [("u0", "4", 1.0, False), ("u1", "5", 2.0, False)]
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["holdouts"]), orient="row")


def informed(items: pl.DataFrame, titles: Mapping[str, Sequence[str]], n: int) -> InformedPopulation:
    """`n` profiles that know `titles`."""
    population = InformedPopulation(make_profiles([f"u{i}" for i in range(n)]), items, NO_RATINGS, MOVIES, NO_HOLDOUTS)
    population.titles = {profile: tuple(names) for profile, names in titles.items()}
    population.opinions = Fixed()
    return population


def write(
    folder: Path, items: pl.DataFrame, titles: Mapping[str, Sequence[str]], engine: ScriptedEngine, n: int = 5, **given
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    with Run(folder).journal() as journal:
        parameters = BaselineParameters(baseline="scripted", grounding="off", **given)
        population = informed(items, titles, n)
        writer = baselines.script_writer(engine, population, parameters)
        return frames(baselines.write_scripts(population, writer, parameters, journal))


def test_targets_are_the_best_rated_then_the_less_known(holdouts: pl.DataFrame, items: pl.DataFrame) -> None:
    titles = baselines.targets(holdouts, items)
    assert titles == {"u0": ("Heat (1995)", "The Matrix (1999)", "Notting Hill (1999)")}
    assert baselines.targets(holdouts.reverse(), items.reverse()) == titles


def test_a_script_becomes_the_tables_of_a_simulation(
    tmp_path: Path, items: pl.DataFrame, holdouts: pl.DataFrame
) -> None:
    titles = baselines.targets(holdouts, items)
    engine = ScriptedEngine(lambda prompt, seed: SCRIPT if "The recommender suggests:" in prompt else "")
    dialogues, turns, prompts = write(tmp_path, items, titles, engine, n=2, dialogues_per_profile=2)
    for name, frame in (("dialogues", dialogues), ("turns", turns), ("prompts", prompts)):
        schemas.check(frame, name)
    assert dialogues.select("dialogue_id", "opener", "stop_reason", "n_turns").rows() == [
        ("u0.0", "user", "script_ended", 3),
        ("u0.1", "user", "script_ended", 3),
        ("u1.0", "user", "script_ended", 0),
        ("u1.1", "user", "script_ended", 0),
    ]
    first = turns.filter(dialogue_id="u0.0")
    assert first["role"].to_list() == ["user", "recommender", "user"]
    assert first["text"][1] == "[[Up (2009)]] or [[Heat (1995)]]"
    assert [item["item_id"] for item in first["items"][1]] == ["6", "1"]
    told = prompts.filter(dialogue_id="u0.0")
    assert told["role"].sort().to_list() == ["recommender", "user"]
    assert "Heat (1995); The Matrix (1999); Notting Hill (1999)" in told["text"][0]
    found = leakage.audit(prompts, make_profiles(["u0", "u1"]), holdouts, items, dialogues, turns, MOVIES).counts
    assert found["hidden_title"] == 2
    assert found["profile_text"] == 4
    assert not engine.alive


def test_a_script_that_does_not_end_is_cut(tmp_path: Path, items: pl.DataFrame) -> None:
    dialogues, *_ = write(tmp_path, items, {}, ScriptedEngine(lambda prompt, seed: SCRIPT, n_ctx=10), n=1)
    assert dialogues["stop_reason"].to_list() == ["script_cut"]


def test_scripts_depend_on_nothing_around_them_and_are_written_once(tmp_path: Path, items: pl.DataFrame) -> None:
    whole = write(tmp_path / "a", items, {}, ScriptedEngine(lambda prompt, seed: f"User: {seed}"))
    other = write(tmp_path / "b", items, {}, ScriptedEngine(lambda prompt, seed: f"User: {seed}", width=1), n=3)
    for one, part in zip(whole, other, strict=True):
        assert one.filter(pl.col("dialogue_id").str.slice(0, 2).is_in(["u0", "u1", "u2"])).equals(part)
    journal = tmp_path / "a" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]) + b"torn")
    engine = ScriptedEngine(lambda prompt, seed: f"User: {seed}")
    again = write(tmp_path / "a", items, {}, engine)
    assert len(engine.prompts) == 3
    assert all(one.equals(two) for one, two in zip(whole, again, strict=True))
    told_otherwise = ScriptedEngine(engine.reply)
    write(tmp_path / "a", items, {"u0": ["Up (2009)"]}, told_otherwise)
    assert [dialogue_id for dialogue_id, _ in told_otherwise.prompts] == ["u0.0"]  # the others know what they knew


class Letters(Reader):
    """A writer's tokenizer: every byte is a token."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode()


def titles_of(items: pl.DataFrame) -> ScriptConstraint:
    grounding = Grounding(CatalogTitles(items, Letters(), MOVIES, cache=None), None, Mixture())
    catalog = Catalog(items, MOVIES)
    return ScriptConstraint(lambda turns: grounding.constraint(heard(turns)), catalog, Letters())


def may_follow(titles: ScriptConstraint, script: str) -> str | None:
    """The letters that may follow a script so far; None: any."""
    choice = titles.allowed(list(script.encode()))
    return None if choice is None else "".join(sorted(bytes(choice.tokens.tolist()).decode()))


def test_the_recommender_of_a_grounded_script_names_titles_as_in_a_simulation(items: pl.DataFrame) -> None:
    """Heat, The Matrix, Notting Hill, King Kong (twice) and Up."""
    titles = titles_of(items)
    talk = "User: Hi, like [["
    assert may_follow(titles, talk) is None  # as in a simulation, the user's titles are free
    talk += "Up (2009)]] or [[Jaws]]\nRecommender"
    assert may_follow(titles, talk) is None
    talk += ": Seen [["
    assert may_follow(titles, talk) == "HKNTU"
    assert titles.forced(list((talk + "K").encode())) == list(b"ing Kong (")
    talk += "Heat (1995)]] and [["
    assert may_follow(titles, talk) == "KNTU"
    talk += "The Matrix (1999)]]?\nor maybe [["  # the same turn goes on
    assert may_follow(titles, talk) == "KNU"
    talk += "Up (2009)]]\nUser: I liked [[Heat (1995)]], not [["
    assert may_follow(titles, talk) is None
    talk += "K]]\nAssistant: [["
    assert may_follow(titles, talk) == "KN"
    assert may_follow(titles, "User: [[") is None  # an earlier script, or another one
    assert may_follow(titles, "Recommender: [[") == "HKNTU"


def test_where_no_title_is_left_a_grounded_script_opens_no_mention(items: pl.DataFrame) -> None:
    titles = titles_of(items[:1])
    talk = "Recommender: Seen [[Heat (1995)]]?\nUser: No\nRecommender: Oh "
    assert may_follow(titles, talk) is None
    assert ord("[") in titles.never
    assert may_follow(titles, talk + "\nUser: well ") is None
    assert not titles.never.size


def test_the_user_knows_its_targets_and_the_recommender_does_not(tmp_path: Path, items: pl.DataFrame) -> None:
    def reply(prompt: str, seed: int) -> str:
        return "" if prompt.count("assistant") > 2 else "words"

    user, recommender = ScriptedEngine(reply), ScriptedEngine(reply)
    titles = {"u0": ["Heat (1995)"], "u1": ["Up (2009)"]}
    with Run(tmp_path).journal() as journal:
        simulate(informed(items, titles, 3), user, recommender, SimulationParameters(grounding="off"), journal)
    for key, prompt in user.prompts:
        assert ("You hope to hear of: Heat (1995)" in prompt) == key.startswith("u0")
        assert ("You hope to hear of: Up (2009)" in prompt) == key.startswith("u1")
        assert "secret" in prompt
    assert not [prompt for _, prompt in recommender.prompts if "Heat" in prompt or "Up (" in prompt]


@pytest.mark.model
@pytest.mark.notebook
def test_runs_of_the_baselines(tmp_path: Path) -> None:
    """One through its notebooks; the other for the same people, by the one call that its notebook makes."""
    given = {**TINY, "baseline": "scripted", "n_profiles": 2, "user_adapter": "data/adapters/scripted.gguf"}
    run = pipeline.execute(pipeline.plan(given, tmp_path))
    assert list(json.loads((run.path / "run.json").read_text())["stages"]) == [
        "01_profiles", "02_baselines", "03_evaluate"
    ]  # fmt: skip
    assert run.info["audit"]["hidden_title"] > 0
    assert run.read("dialogues").height == 2
    assert (run.path / "report.html").exists()

    other = {"baseline": "user-target", "user_adapter": str(ROOT / "data" / "adapters" / "user-target.gguf")}
    assert "02_baselines" in RunParameters.parse(other).stages
    parameters = BaselineParameters.pick({**run.info["parameters"], **other})
    with Run(tmp_path / "other").journal() as journal:
        dialogues, turns, prompts = frames(
            baselines.simulate_baseline(InformedPopulation.read(run), parameters, journal)
        )
    profiles, holdouts, items = map(run.read, ("profiles", "holdouts", "items"))
    assert leakage.audit(prompts, profiles, holdouts, items, dialogues, turns, MOVIES).counts["hidden_title"] > 0
    assert dialogues.height == 2
