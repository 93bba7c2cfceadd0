"""Shards: which dialogues are in them, and that their union is the run in one piece, byte for byte."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib.cli.main import main
from crslib.errors import CrsError
from crslib.experiments import shards
from crslib.experiments.shards import Shard
from crslib.store import Run

TABLES = ("profiles", "dialogues", "turns", "prompts", "scores", "metrics")
TINY = [
    *("-p", "n_profiles=4", "-p", "max_turns=4", "-p", "weights=Q8_0", "-p", "title_model=0", "-p", "title_base=0"),
    *("-p", "n_bootstrap=100"),
]


@given(st.sets(st.text(max_size=4)), st.integers(1, 9))
def test_every_dialogue_is_in_one_shard_and_shards_are_of_equal_size(ids: set[str], of: int) -> None:
    parts = [Shard(number, of).ids(list(ids)) for number in range(1, of + 1)]
    assert sorted(one for part in parts for one in part) == sorted(ids)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "3/", "a/b", "-1/2", "1/2/3", "", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(CrsError, match="is no part such as 3/8; the first number goes from 1 to the second"):
        Shard.parse(text)


def crs(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.model
@pytest.mark.notebook
def test_shards_make_the_run_in_one_piece(tmp_path: Path) -> None:
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    crs("run", *TINY, "--reports", whole)
    first = crs("run", *TINY, "--shard", "1/2", "--reports", parts).splitlines()[-1]
    assert "shards 2/2 are missing" in crs("merge", first, "--reports", parts, code=1)
    second = crs("run", *TINY, "--shard", "2/2", "--reports", parts).splitlines()[-1]
    assert Run(Path(first)).info["status"] == "shard 1/2, done"
    crs("merge", first, second, "--reports", parts)
    (one,), (other,) = ((Path(reports) / "runs").iterdir() for reports in (whole, parts))
    assert one.name == other.name
    for table in TABLES:
        assert (one / f"{table}.parquet").read_bytes() == (other / f"{table}.parquet").read_bytes(), table


def stored(folder: Path, run_id: str, shard: list[int] | None, status: str = "done") -> Path:
    Run(folder).update(run_id=run_id, shard=shard, status=f"shard, {status}", parameters_given={}, inputs={})
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
    output = crs("run", "-p", "baseline=scripted", "--shard", "1/2", "--reports", str(tmp_path), code=1)
    assert "a baseline has no shards" in output
