"""Finished dialogues are used again where all that decides their words is the same, and only there."""

import ast
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import polars as pl
import pytest

from crslib import identity, schemas
from crslib.config import ROOT, SimulationParameters
from crslib.engines import weights
from crslib.engines.scripted import ScriptedEngine
from crslib.simulation.baselines import InformedPopulation
from crslib.simulation.dialogues import DECIDE_THE_WORDS, shows_facts, style_files, words_key
from crslib.simulation.population import Population, table_sha256
from crslib.store import Run
from tests.conftest import make_profiles
from tests.simulation.test_loop import NO_RATINGS, Fixed, chatter, ids
from tests.support.agents import simulate
from tests.support.domains import BOOKS, MOVIES


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the library's sources, which a test may edit."""
    copy = tmp_path / "crslib"
    shutil.copytree(ROOT / "crslib", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "LIBRARY", copy)
    return copy


def talk(
    folder: Path,
    items: pl.DataFrame,
    ratings: pl.DataFrame = NO_RATINGS,
    n: int = 4,
    changes: Sequence[pl.Expr] = (),
    **parameters: object,
) -> tuple[pl.DataFrame, pl.DataFrame, int]:
    """Tables `dialogues` and `turns` of `n` profiles with `changes`, and how many dialogues were there when the
    simulation began."""
    reached: list[int] = []
    Run(folder).update(run_id=folder.name)
    with Run(folder).journal(reuse=True) as journal:
        dialogues = simulate(
            Population(make_profiles(ids(n)).with_columns(changes), items, ratings, MOVIES, Fixed()),
            ScriptedEngine(chatter, 3),
            ScriptedEngine(chatter, 3),
            SimulationParameters(grounding="off", **parameters),
            journal,
            progress=lambda done, total: reached.append(done),
        )
    return dialogues.dialogues, dialogues.turns, reached[0]


def test_dialogues_of_another_run_are_used_again(tmp_path: Path, items: pl.DataFrame) -> None:
    """Under another condition's name, and as far as the other got; not when anything that decides the words differs."""
    _, first, n_reused = talk(tmp_path / "a", items)
    assert n_reused == 0
    dialogues, again, n_reused = talk(tmp_path / "b", items, condition="another name")
    assert n_reused == 4
    assert again.equals(first)
    assert set(dialogues.select("run_id", "condition").rows()) == {("b", "another name")}
    journal = tmp_path / "a" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]) + b"torn")
    (tmp_path / "b" / "journal.jsonl").unlink()
    assert talk(tmp_path / "c", items)[2] == 2
    ratings = pl.DataFrame([("u00", "1", 4.0, None)], schema=NO_RATINGS.schema, orient="row")
    assert talk(tmp_path / "d", items, ratings)[2] == 0
    assert talk(tmp_path / "e", items.with_columns(year=pl.lit(1999, pl.Int32)))[2] == 0
    assert talk(tmp_path / "f", items, seed=1)[2] == 0


def test_more_people_cost_only_theirs(tmp_path: Path, items: pl.DataFrame) -> None:
    """And one whose summary has changed is asked again."""
    _, of_four, _ = talk(tmp_path / "a", items)
    _, of_six, n_reused = talk(tmp_path / "b", items, n=6)
    assert n_reused == 4
    assert of_six.filter(pl.col("dialogue_id").is_in(of_four["dialogue_id"].implode())).equals(of_four)
    assert talk(tmp_path / "c", items, n=3)[2] == 3
    summary = pl.when(profile_id="u01").then(pl.lit("You like nothing.")).otherwise("summary").alias("summary")
    assert talk(tmp_path / "d", items, changes=[summary])[2] == 3


def test_more_dialogues_of_the_same_people_cost_only_those(tmp_path: Path, items: pl.DataFrame) -> None:
    _, one_each, _ = talk(tmp_path / "a", items)
    _, three_each, n_reused = talk(tmp_path / "b", items, dialogues_per_profile=3)
    assert n_reused == 4
    again = three_each.filter(pl.col("dialogue_id").is_in(one_each["dialogue_id"].implode()))
    assert again.sort("dialogue_id", "turn").equals(one_each.sort("dialogue_id", "turn"))
    assert talk(tmp_path / "c", items, dialogues_per_profile=2)[2] == 8
    assert talk(tmp_path / "c", items)[2] == 4  # in the folder of a run of more


@pytest.mark.parametrize("edited", ["metrics/consistency.py", "reporting/html.py", "training/rewards.py", "stats.py"])
def test_after_an_edited_metric_dialogues_are_used_again(
    tmp_path: Path, items: pl.DataFrame, library: Path, edited: str
) -> None:
    _, first, _ = talk(tmp_path / "runs" / "a", items)
    with (library / edited).open("a") as file:
        file.write("# edited\n")
    _, again, n_reused = talk(tmp_path / "runs" / "b", items)
    assert n_reused == 4
    assert again.equals(first)


@pytest.mark.parametrize(
    "edited",
    ["simulation/loop.py", "dialogue/reactions.py", "recommender/prior.py", "users/opinions.py", "identity.py"],
)
def test_after_an_edited_loop_dialogues_are_simulated_anew(
    tmp_path: Path, items: pl.DataFrame, library: Path, edited: str
) -> None:
    talk(tmp_path / "runs" / "a", items)
    with (library / edited).open("a") as file:
        file.write("# edited\n")
    assert talk(tmp_path / "runs" / "b", items)[2] == 0


def test_all_that_a_simulation_imports_is_hashed() -> None:
    """But for what carries parameters, tables and files: those are hashed by their values."""
    carriers = {
        "config.py",
        "errors.py",
        "files.py",
        "journal.py",
        "json_files.py",
        "schemas.py",
        "stats.py",
        "store.py",
    }
    carriers |= {"__init__.py", "data/tables.py"}
    waiting, reached = ["crslib.simulation.loop", "crslib.simulation.baselines"], set()
    while waiting:
        base = ROOT / Path(*waiting.pop().split("."))
        path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if path is None or path in reached:
            continue
        reached.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("crslib"):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    names = {path.relative_to(ROOT / "crslib").as_posix() for path in reached} - carriers - {"data/__init__.py"}
    assert len(names) > 20
    assert not [name for name in names if not name.startswith(DECIDE_THE_WORDS)]


def test_key_and_person_follow_what_the_users_know(items: pl.DataFrame) -> None:
    profiles, engines = make_profiles(["u0", "u1"]), [ScriptedEngine(chatter)]
    parameters = SimulationParameters(grounding="off")
    holdouts = pl.DataFrame([("u0", "6", 5.0, True)], schema=dict(schemas.TABLES["holdouts"]), orient="row")
    plain = Population(profiles, items, NO_RATINGS, MOVIES)
    key = words_key(parameters, plain, engines)
    assert words_key(parameters, Population(profiles.head(1), items, NO_RATINGS, MOVIES), engines) == key
    assert words_key(parameters.model_copy(update={"condition": "another name"}), plain, engines) == key
    assert words_key(parameters.model_copy(update={"max_turns": 3}), plain, engines) != key
    for given in ((items.head(2), NO_RATINGS, MOVIES), (items, NO_RATINGS, BOOKS)):
        assert words_key(parameters, Population(profiles, *given), engines) != key
    first, second = profiles.iter_rows(named=True)
    informed = InformedPopulation(profiles, items, NO_RATINGS, MOVIES, holdouts)
    nobody = InformedPopulation(profiles, items, NO_RATINGS, MOVIES, holdouts.clear())
    people = [
        *(plain.person_sha256(person) for person in (first, second, {**first, "summary": "You like nothing."})),
        *(population.person_sha256(first) for population in (informed, nobody)),
    ]
    assert len(set(people)) == len(people)


def adapter(path: Path, parts: Sequence[str]) -> str:
    """An adapter's file that says no more than the views it was trained in."""
    writer = gguf.GGUFWriter(path, "llama")
    for name, words in weights.about("movies", parts).items():
        writer.add_string(name, words)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_parties_write_in_styles_where_their_adapters_were_trained_so(tmp_path: Path) -> None:
    plain, styled = adapter(tmp_path / "plain.gguf", ()), adapter(tmp_path / "styled.gguf", ["style"])
    shipped, own = ROOT / "data/human/styles.parquet", tmp_path / "own.parquet"

    def files(**parameters: str) -> tuple[Path | None, ...]:
        given = {"user_adapter": styled, "recommender_adapter": plain} | parameters
        return tuple(style_files(SimulationParameters.parse(given)).values())

    assert tuple(style_files(SimulationParameters()).values()) == (shipped, shipped)  # of what ships
    assert files() == (shipped, None)
    assert files(recommender_adapter=styled) == (shipped, shipped)
    assert files(user_adapter=plain) == files(user_adapter="") == files(styles="") == (None, None)
    assert files(styles=str(own)) == (own, own)  # what is asked for is done
    assert files(user_model="openai:gpt@http://localhost:1/v1") == (None, None)


def test_the_recommender_sees_facts_where_its_adapter_was_trained_so(tmp_path: Path) -> None:
    plain, knowing = adapter(tmp_path / "plain.gguf", ["style"]), adapter(tmp_path / "knowing.gguf", ["facts", "style"])

    def shown(**parameters: str) -> bool:
        return shows_facts(SimulationParameters.parse(parameters))

    assert not shown()  # of what ships
    assert shown(recommender_adapter=knowing) and not shown(recommender_adapter=plain, user_adapter=knowing)
    assert shown(recommender_adapter=plain, facts="always") and not shown(recommender_adapter=knowing, facts="never")
    assert not shown(recommender_model="openai:gpt@http://localhost:1/v1")


def test_a_table_is_hashed_by_its_cells(items: pl.DataFrame) -> None:
    assert table_sha256(items) == table_sha256(pl.concat([items[:2], items[2:]], rechunk=False))
    assert table_sha256(items) != table_sha256(items.reverse())


def _without(part: str) -> Callable[[bytes], bytes]:
    return lambda line: json.dumps({name: value for name, value in json.loads(line).items() if name != part}).encode()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda line: line[:60], "line 2 is damaged"),
        (lambda line: line + b"\n" + line, "line 3 repeats an earlier one"),
        (lambda line: line + b"\n" + line.replace(b'"text": "', b'"text": "x', 1), "dropped: line 3 "),
        (lambda line: line.replace(b"u01.0", b"alien.0"), "dropped: line 2 "),
        (lambda line: json.dumps({**json.loads(line), "key": "x" * 16}).encode(), "dropped: line 2 "),
        (lambda line: line.replace(b'"n_turns"', b'"turns"'), "dropped: line 2 "),
        (lambda line: line.replace(b'"turn": 0', b'"turn": "x"'), "dropped: line 2 "),
        *((_without(part), "dropped: line 2 ") for part in ("dialogue", "turns", "prompts", "usage")),
    ],
)
def test_every_dialogue_is_there_once_whatever_happened_to_a_line(
    damage: Callable[[bytes], bytes], said: str, tmp_path: Path, items: pl.DataFrame
) -> None:
    """Torn, twice, of nobody here, of another key, or without a field: that dialogue alone is made again."""
    whole = talk(tmp_path / "a", items)
    journal = tmp_path / "a" / "journal.jsonl"
    before = journal.read_bytes()
    lines = sorted(before.splitlines(), key=lambda line: json.loads(line)["dialogue"]["dialogue_id"])
    lines[1] = damage(lines[1])
    journal.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.warns(UserWarning, match=rf"{journal}.*{said}"):
        dialogues, turns, n_reused = talk(tmp_path / "a", items)
    assert n_reused == (4 if len(lines[1].splitlines()) == 2 else 3)
    assert dialogues.equals(whole[0])
    assert turns.equals(whole[1])
    assert sorted(journal.read_bytes().splitlines()) == sorted(before.splitlines())
