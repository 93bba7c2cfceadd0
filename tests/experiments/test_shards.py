"""Shards: which dialogues are in them, and that their union is the run in one piece, byte for byte."""

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib.cli.main import main
from crslib.config import SimulationParameters
from crslib.errors import CrsError
from crslib.experiments import pipeline, shards
from crslib.experiments.shards import Shard
from crslib.simulation import Population, open_agents, simulate
from crslib.store import Run

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


def stored(folder: Path, run_id: str, shard: list[int] | None, status: str = "success") -> Path:
    Run(folder).update(run_id=run_id, shard=shard, status=status, parameters_given={"weights": "Q8_0"}, inputs={})
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
