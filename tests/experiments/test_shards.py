"""Shards: which dialogues are in them, and that their union is the run in one piece, byte for byte."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib.cli.main import main
from crslib.config import SimulationParameters, resolve
from crslib.data import tables
from crslib.errors import CrsError
from crslib.experiments import pipeline, shards
from crslib.experiments.shards import Shard
from crslib.simulation import Population, open_agents, simulate
from crslib.store import Run
from crslib.users import profiles

TINY = {
    **{"n_profiles": 4, "max_turns": 3, "max_tokens": 6, "n_ctx": 512, "width": 2, "resample": 1},
    **{"weights": "Q8_0", "title_model": 0, "title_base": 0},
}


@given(st.sets(st.text(max_size=4)), st.integers(1, 9))
def test_every_dialogue_is_in_one_shard_and_shards_are_of_equal_size(ids: set[str], of: int) -> None:
    parts = [Shard(number, of).ids(list(ids)) for number in range(1, of + 1)]
    assert sorted(one for part in parts for one in part) == sorted(ids)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "a/b", "-1/2", "1/2/3", "", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(CrsError, match="is no part such as 3/8; the first number goes from 1 to the second"):
        Shard.parse(text)


def test_a_shard_gets_the_parameters_of_the_notebook(tmp_path: Path) -> None:
    """Others would be another key, and `02_simulate` would drop all dialogues and make them again."""
    planned = pipeline.plan(TINY, tmp_path)
    given = planned.parameters.model_dump()
    simulation = shards.simulation_of(planned)
    assert type(simulation) is SimulationParameters
    assert simulation.model_dump() == {name: given[name] for name in SimulationParameters.model_fields}


@pytest.mark.hostile  # three simulations take minutes: pytest tests/experiments/test_shards.py -m hostile
def test_shards_make_the_dialogues_of_the_run_in_one_piece(tmp_path: Path) -> None:
    planned = pipeline.plan(TINY, tmp_path)
    first = shards.simulate_shard(planned, Shard(1, 2), tmp_path)
    with pytest.raises(CrsError, match="shards 2/2 are missing"):
        shards.merged([first], tmp_path)
    second = shards.simulate_shard(planned, Shard(2, 2), tmp_path)
    assert Run(first).info["status"] == "success"
    merged = shards.merged([second, first], tmp_path)
    assert merged.run.path == planned.run.path
    population, parameters = Population.read(Run(first)), shards.simulation_of(merged)
    with open_agents(parameters, population) as agents, Run(tmp_path / "whole").journal() as journal:
        whole = simulate(population, *agents, parameters, journal).turns
    with merged.run.journal() as journal:
        assert len(journal.records) == 4
        turns = [row for record in journal.records for row in record["turns"]]
    assert pl.DataFrame(turns, schema=whole.schema).sort("dialogue_id", "turn").equals(whole)


def stored(
    folder: Path, run_id: str, shard: list[int] | None, status: str = "success", inputs: dict[str, object] | None = None
) -> Path:
    given = {"weights": "Q8_0"}
    Run(folder).update(run_id=run_id, shard=shard, status=status, parameters_given=given, inputs=inputs or {})
    return folder


def test_folders_that_are_no_shards_of_one_run_are_refused(tmp_path: Path) -> None:
    first = stored(tmp_path / "a", "r", [1, 2])
    cases = {
        "is a shard of another run than": [first, stored(tmp_path / "b", "other", [2, 2])],
        "is no shard; give the folders": [first, stored(tmp_path / "c", "r", None)],
        "is not done; give `crs run --shard 2/2`": [first, stored(tmp_path / "d", "r", [2, 2], "started")],
        "shards 2/3, 3/3 are missing": [stored(tmp_path / "e", "r", [1, 3])],
        "here the shards' run would be another one": [first, stored(tmp_path / "f", "r", [2, 2])],
    }
    for sentence, folders in cases.items():
        with pytest.raises(CrsError, match=sentence):
            shards.merged(folders, tmp_path / "reports")


def test_a_baseline_has_no_shards(tmp_path: Path) -> None:
    command = ["run", "-p", "baseline=scripted", "-p", "weights=Q8_0", "--shard", "1/2", "--reports", str(tmp_path)]
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, "a baseline has no shards" in result.output) == (1, True)


LIGHT = {"n_profiles": 4, "max_turns": 2, "user_model": "agenda"}
BROKEN = """
def reply(turns):
    raise RuntimeError("no such luck")
"""


def profiles_of(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Instead of the first notebook: its tables, without a kernel. Returns the names of what is executed."""
    executed = []

    def execute(name: str, run_dir: Path, parameters: dict[str, object]) -> None:
        executed.append(name)
        planned = pipeline.plan({**LIGHT, "recommender_model": "python:data/protocol/newest.py:reply"}, folder)
        data = resolve("data")
        profiles.build(*tables.load(data), planned.parameters, tables.domain_of(data)).write(Run(run_dir))

    monkeypatch.setattr(pipeline, "execute_notebook", execute)
    return executed


def test_a_shard_of_which_all_dialogues_fail_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run has the dialogues of the others; a warning says what failed."""
    executed, code = profiles_of(monkeypatch, tmp_path), tmp_path / "own.py"
    code.write_text(BROKEN)
    planned = pipeline.plan({**LIGHT, "recommender_model": f"python:{code}:reply", "opener": "recommender"}, tmp_path)
    folders = []
    for number in (1, 2):
        with pytest.warns(UserWarning, match=rf"2 of 2 dialogues of shard {number}/2 failed, such as: .*no such luck"):
            folders.append(shards.simulate_shard(planned, Shard(number, 2), tmp_path))
    assert [(Run(one).info["status"], Run(one).info["n_failed"]) for one in folders] == [("success", 2)] * 2
    assert shards.merged(folders, tmp_path).run_id == planned.run_id
    assert executed == ["01_profiles"] * 2


def test_profiles_count_when_their_notebook_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = profiles_of(monkeypatch, tmp_path)
    planned = pipeline.plan({**LIGHT, "recommender_model": "python:data/protocol/newest.py:reply"}, tmp_path)
    folder = shards.simulate_shard(planned, Shard(1, 2), tmp_path)
    shards.simulate_shard(planned, Shard(1, 2), tmp_path)
    assert executed == ["01_profiles"]
    Run(folder).update(stages={})  # killed while it wrote its tables
    shards.simulate_shard(planned, Shard(1, 2), tmp_path)
    assert executed == ["01_profiles"] * 2


def test_a_shard_given_twice_counts_once_and_another_division_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles_of(monkeypatch, tmp_path)
    planned = pipeline.plan({**LIGHT, "recommender_model": "python:data/protocol/newest.py:reply"}, tmp_path)
    one, two = (shards.simulate_shard(planned, Shard(number, 2), tmp_path) for number in (1, 2))
    whole = shards.simulate_shard(planned, Shard(1, 1), tmp_path)
    with pytest.raises(CrsError, match=r"1-of-1 and .*1-of-2 are of another division of the same run, 1 shards and 2"):
        shards.merged([one, two, whole], tmp_path)
    merged = shards.merged([one, one, two], tmp_path)
    with merged.run.journal() as journal:
        assert sorted(record["dialogue"]["dialogue_id"] for record in journal.records) == sorted(journal.dialogue_ids)
        assert len(journal.records) == 4


def test_shards_of_different_processors_are_merged_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    profiles_of(monkeypatch, tmp_path)
    planned = pipeline.plan({**LIGHT, "recommender_model": "python:data/protocol/newest.py:reply"}, tmp_path)
    one, two = (shards.simulate_shard(planned, Shard(number, 2), tmp_path) for number in (1, 2))
    shards.merged([one, two], tmp_path)
    assert not recwarn.list
    Run(two).update(machine={**Run(two).info["machine"], "cpu": "Another (family 1, model 2)"})
    with pytest.warns(UserWarning, match=r"different processors \(.*Another \(family 1, model 2\).*other words"):
        shards.merged([one, two], tmp_path)


def test_shards_of_other_words_are_refused_before_they_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles_of(monkeypatch, tmp_path)
    planned = pipeline.plan({**LIGHT, "recommender_model": "python:data/protocol/newest.py:reply"}, tmp_path)
    one, two = (shards.simulate_shard(planned, Shard(number, 2), tmp_path) for number in (1, 2))
    lines = [json.loads(line) for line in (two / "journal.jsonl").read_text().splitlines()]
    (two / "journal.jsonl").write_text("".join(json.dumps({**line, "key": "other"}) + "\n" for line in lines))
    with pytest.raises(CrsError, match=r"2-of-2 has other words than the shards before it; give -p weights=Q8_0"):
        shards.merged([one, two], tmp_path)


def test_a_shard_of_other_weights_says_what_differs(tmp_path: Path) -> None:
    first, second = {"library": "a", "user": {"weights": "Q8_0"}}, {"library": "a", "user": {"weights": "BF16"}}
    folders = [
        stored(tmp_path / "a", "r", [1, 2], inputs=first),  # type: ignore[arg-type]
        stored(tmp_path / "b", "s", [2, 2], inputs=second),  # type: ignore[arg-type]
    ]
    with pytest.raises(CrsError, match=r"\(weights of user differs: give -p weights=Q8_0 \(or another form\), and"):
        shards.merged(folders, tmp_path)
