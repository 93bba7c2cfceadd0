"""Sweeps of real runs: in parallel, with a failing condition, and continued after a kill."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from click.testing import CliRunner

from crslib import schemas
from crslib.cli.main import main
from crslib.errors import CrsError
from crslib.experiments import comparison, pipeline, sweep
from crslib.store import Run
from tests.experiments.test_pipeline import TINY


def write_grid(folder: Path, **axes: object) -> Path:
    grid = folder / "grid.yaml"
    grid.write_text(json.dumps({**TINY, "threads": 1, **axes}))
    return grid


def test_a_grid_with_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="are the same run; remove one"):
        sweep.conditions([{**TINY, "threads": 1}, {**TINY, "threads": 2}], tmp_path)


def test_an_invalid_condition_is_an_error_before_any_starts(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="parameter opener = 'nobody' is not valid"):
        sweep.conditions([TINY, {**TINY, "opener": "nobody"}], tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_condition_uses_one_thread_when_several_run_at_a_time(tmp_path: Path) -> None:
    points = [{**TINY, "seed": 1}, {**TINY, "seed": 2, "threads": 3}]
    assert [one.plan.parameters.threads for one in sweep.conditions(points, tmp_path, workers=2)] == [1, 3]
    assert [one.plan.parameters.threads for one in sweep.conditions(points, tmp_path)] == [0, 3]


def test_a_failed_condition_has_an_error(tmp_path: Path) -> None:
    (condition,) = sweep.conditions([TINY], tmp_path)
    assert condition.error == ""
    condition.state = "error"
    assert condition.error.startswith("in use by another process")
    condition.plan.run.update(error="no space", traceback="lines")
    assert (condition.error, condition.traceback) == ("no space", "lines")


def test_a_condition_whose_run_json_is_damaged_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: None)
    broken, whole = sweep.conditions([{**TINY, "seed": 1}, {**TINY, "seed": 2}], tmp_path)
    pipeline.execute(whole.plan)
    broken.plan.run.path.mkdir(parents=True)
    (broken.plan.run.path / "run.json").write_text("{ torn")
    folder = sweep.execute([broken, whole], tmp_path, 1, lambda conditions: None)
    assert (broken.state, whole.state, whole.reused) == ("error", "success", True)
    assert "run.json is not readable" in broken.error
    rows = json.loads((folder.path / "sweep.json").read_text())["conditions"]
    assert [row["error"] for row in rows] == [broken.error, None]
    for name in ("metrics", "scores", "resamples"):
        whole.plan.run.write(name, schemas.empty(name))
    read = comparison.read(str(folder.path)).conditions["error"]
    assert "run.json is not readable" in read[0]
    assert read[1] is None


def test_a_grid_is_shown_along_its_axes_and_named_conditions_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[str] = []
    monkeypatch.setattr(pipeline, "execute_notebook", lambda name, folder, parameters: executed.append(name))
    grid = sweep.conditions([{**TINY, "seed": 1}, {**TINY, "seed": 2}], tmp_path)
    sweep._compare(grid, tmp_path)
    assert executed == ["04_compare", "04_sweep"]
    named = sweep.conditions([{**TINY, "condition": "a", "seed": 1}, {**TINY, "condition": "b", "seed": 2}], tmp_path)
    sweep._compare(named, tmp_path)
    sweep._compare(grid[:1], tmp_path)  # no axis
    assert executed[2:] == ["04_compare", "04_compare"]


def test_a_sweep_prints_the_sentence_of_a_failed_condition_and_where_its_traceback_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(planned: list[sweep.Condition], reports: Path, workers: int, show: object, compute: None) -> Run:
        for condition, traceback in zip(planned, ("line\n" * 50, None), strict=True):
            condition.state = "error"
            condition.plan.run.update(error="a sentence", traceback=traceback)
        return Run(reports / "sweeps" / "x")

    monkeypatch.setattr(sweep, "execute", fail)
    grid = write_grid(tmp_path, seed=[1, 2])
    result = CliRunner().invoke(main, ["sweep", str(grid), "--reports", str(tmp_path / "r"), "--workers", "1"])
    assert result.exit_code == 1
    assert result.stdout.count("\na sentence\n") == 2
    assert result.stdout.count("run.json.") == 1
    assert "line" not in result.stdout
    (told,) = (line for line in result.stdout.splitlines() if "run.json." in line)
    assert "line" in Path(told.removeprefix("The traceback is in ").removesuffix(".")).read_text()


def test_a_condition_whose_process_was_ended_has_one_sentence(tmp_path: Path) -> None:
    (condition,) = sweep.conditions([TINY], tmp_path)
    ended = SimpleNamespace(join=lambda: None, exitcode=-signal.SIGKILL)
    sweep._record_end(condition, ended)
    assert condition.state == "error"
    assert condition.error == (
        "the process of this condition was ended by signal 9 (SIGKILL): the system does that when memory runs out, if "
        "nobody else did; lower width or n_ctx, or end other programs, and run the same again: what is finished is kept"
    )


@pytest.mark.model
@pytest.mark.notebook
def test_a_killed_sweep_continues_and_a_failing_condition_stops_no_other(tmp_path: Path) -> None:
    grid = write_grid(tmp_path, n_profiles=[4, 2, 100_000])
    reports = tmp_path / "reports"
    words = ["sweep", str(grid), "--reports", str(reports)]
    command = [sys.executable, "-c", "from crslib.cli.main import main; main()", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list(reports.glob("runs/*/journal.jsonl")):  # a kernel has begun to simulate
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    again = CliRunner().invoke(main, words)
    assert again.exit_code == 1
    assert "1 of 3 conditions failed; remove the cause" in again.stderr
    assert "n_profiles = 100000 but only" in again.stdout
    assert "Traceback" not in again.stdout
    infos = [json.loads(path.read_text()) for path in reports.glob("runs/*/run.json")]
    assert sorted(info["status"] for info in infos) == ["error", "success", "success"]
    for info in infos:
        folder = reports / "runs" / info["run_id"]
        if info["status"] == "error":
            assert re.fullmatch(r"n_profiles = 100000 but only \d+ users.*", info["error"])  # one sentence, one line
            assert "Traceback" in info["traceback"]
            assert (folder / "01_profiles.ipynb").exists()
        else:
            dialogues = pl.read_parquet(folder / "dialogues.parquet")["dialogue_id"]
            assert dialogues.n_unique() == len(dialogues) == info["parameters"]["n_profiles"]
    html = next(reports.glob("sweeps/*/report.html")).read_text()
    assert "n_profiles=2" in html
    assert "n_profiles = 100000 but only" in html

    written = {
        path: path.stat().st_mtime_ns
        for path in reports.glob("runs/*/*.parquet")
        if path.with_name("scores.parquet").exists()
    }
    assert len(written) >= 2 * 9
    third = CliRunner().invoke(main, words)
    assert "2 computed before" in third.stdout
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.notebook
def test_a_failing_comparison_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    with pytest.raises(CrsError, match=r"no readable sweep\.json") as caught:
        pipeline.execute_notebook("04_compare", tmp_path / "sweep", {"sweep_dir": str(tmp_path / "sweep")})
    assert "\n" not in str(caught.value)
