"""The table of all runs."""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.config import RunParameters
from crslib.engines import preparation
from crslib.errors import CrsError
from crslib.experiments import duration, ending, sweep
from crslib.experiments.pipeline import Plan
from crslib.experiments.runs import (
    FIGURES,
    LISTED,
    excerpt,
    figures,
    listed,
    matching,
    named_in,
    ordered,
    point_latest,
    remove,
)
from crslib.metrics import METRICS
from crslib.reporting import transcripts
from crslib.store import Run
from tests.support.people_runs import make_runs


def test_figures_are_metrics() -> None:
    assert set(FIGURES) <= set(METRICS)


def metrics(**values: float) -> pl.DataFrame:
    """A table of metrics; of people it says half of each value."""
    row = {"family": "", "low": None, "high": None, "n": 2, "floor": None}
    row |= {"unit": "", "direction": "none", "signature": None}
    rows = [{**row, "metric": name, "value": value, "human": value / 2} for name, value in values.items()]
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["metrics"]))


def test_a_run_is_a_row(tmp_path: Path) -> None:
    (path,) = make_runs(tmp_path, 3, conditions=("a",))
    given = {"temperature": 0.9, "recommender_model": "agenda", "user_adapter": "/x/mine.gguf"}
    record = {"status": "success", "started": "2026", "stages": {"01_profiles": 1.5, "02_simulate": 20.25}}
    Run(path).update(**record, parameters=RunParameters.parse(given).model_dump())
    Run(path).write("metrics", metrics(hits=0.25, turns=7.0, item_entropy=3.0))
    frame = listed(tmp_path, pytest.fail)
    assert frame.schema == LISTED
    assert frame.to_dicts() == [
        {
            "run_id": "run-a",
            "tag": "",
            "status": "success",
            "started": "2026",
            "seconds": 21.8,
            "condition": "interplay",
            "differs": "user_adapter=mine, recommender_model=agenda, temperature=0.9",
            "n_dialogues": 3,
            "user": "smollm2 + mine",
            "recommender": "agenda",
            "hits": 0.25,
            "reaction_consistency": None,
            "user_two_sample": None,
            "user_distinct_2": None,
            "turns": 7.0,
            "path": str(path),
        }
    ]


def test_a_run_in_the_making_and_one_from_python_have_the_dialogues_of_their_journals(tmp_path: Path) -> None:
    Run(tmp_path / "new").update(run_id="new", status="started", started="2026", parameters={"condition": "c"})
    for name in ("new", "example"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "journal.jsonl").write_text('{"key": "k", "dialogue": {}}\n' * 2 + '{"torn')
    rows = {row["run_id"]: row for row in listed(tmp_path, pytest.fail).iter_rows(named=True)}
    assert {name: (row["status"], row["n_dialogues"], row["seconds"]) for name, row in rows.items()} == {
        "new": ("interrupted", 2, None),
        "example": ("by hand", 2, None),
    }
    assert rows["example"]["user"] == ""


def test_a_damaged_table_costs_figures_and_is_said(tmp_path: Path) -> None:
    (path,) = make_runs(tmp_path, 1, conditions=("a",))
    Run(path).update(status="success")
    (path / "metrics.parquet").write_bytes(b"PAR1")
    (path / "dialogues.parquet").write_bytes(b"PAR1")
    said: list[str] = []
    (row,) = listed(tmp_path, said.append).to_dicts()
    assert (row["n_dialogues"], row["hits"]) == (0, None)
    assert len(said) == 1 and "metrics.parquet is not a readable Parquet file" in said[0]


def test_no_runs_are_an_empty_table(tmp_path: Path) -> None:
    frame = listed(tmp_path, pytest.fail)
    assert (frame.height, frame.schema) == (0, LISTED)


# ── chosen and sorted ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(tmp_path: Path) -> pl.DataFrame:
    """Runs a (temperature 1, 0.2 hits), b (0.5, 0.4) and c (0.5, failed)."""
    own = {"a": ({}, 0.2), "b": ({"temperature": 0.5}, 0.4), "c": ({"temperature": 0.5, "user_model": "agenda"}, None)}
    for path, (given, hits) in zip(make_runs(tmp_path, 2, conditions=tuple(own)), own.values(), strict=True):
        run, parameters = Run(path), RunParameters.parse(given).model_dump()
        started = f"2026-01-0{'abc'.index(path.name) + 1}"
        run.update(run_id=path.name, status="success" if hits else "error", started=started, parameters=parameters)
        if hits:
            run.write("metrics", metrics(hits=hits))
    return listed(tmp_path, pytest.fail)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, ["c", "b", "a"]),
        ({"status": "success"}, ["b", "a"]),
        ({"temperature": "0.50"}, ["c", "b"]),
        ({"temperature": "1"}, ["a"]),
        ({"temperature": "hot"}, []),
        ({"hits": "0.4"}, ["b"]),
        ({"memory": "true", "user_model": "agenda"}, ["c"]),
        ({"data": "data"}, ["c", "b", "a"]),
        ({"tag": ""}, ["c", "b", "a"]),
    ],
)
def test_rows_that_match(wanted: dict[str, str], ids: list[str], three: pl.DataFrame) -> None:
    assert matching(three, wanted)["run_id"].to_list() == ids


def test_rows_in_order(three: pl.DataFrame) -> None:
    assert ordered(three, "started")["run_id"].to_list() == ["c", "b", "a"]
    assert ordered(three, "hits")["run_id"].to_list() == ["b", "a", "c"]
    assert ordered(three, "run_id")["run_id"].to_list() == ["a", "b", "c"]


def test_names_that_runs_lack(three: pl.DataFrame) -> None:
    with pytest.raises(CrsError, match="runs have no 'temprature': did you mean 'temperature'"):
        matching(three, {"temprature": "1"})
    with pytest.raises(CrsError, match="runs have no 'zzz': known are run_id, tag"):
        ordered(three, "zzz")


# ── the end of a run ────────────────────────────────────────────────────────────────────────────────────────────────


def ended(folder: Path, n: int, name: str = "a") -> Run:
    """A run of `n` dialogues that has ended."""
    (path,) = make_runs(folder / "runs", n, conditions=(name,))
    run = Run(path)
    run.update(run_id=name, status="success", started="2026-01-01")
    run.write("metrics", metrics(turns=7.0, hits=0.25, user_words=5.0))
    return run


def test_the_end_of_a_run_in_lines(tmp_path: Path) -> None:
    run = ended(tmp_path, 2)
    assert figures(run).select("metric", "value", "human").rows() == [("hits", 0.25, 0.125), ("turns", 7.0, 3.5)]
    lines = ending.lines(run)
    assert lines[0] == "a: 2 dialogues"
    assert lines[2].split() == ["[95", "%", "interval]", "people"]
    assert lines[3] == "Dialogues with a hit  0.250            0.125"
    assert lines[4] == "Turns per dialogue    7.00             3.50"
    record = ending.record(run)
    assert record["metrics"]["turns"] == {"value": 7.0, "low": None, "high": None, "n": 2, "human": 3.5, "floor": None}
    assert (record["run_id"], record["n_dialogues"], record["condition"]) == ("a", 2, "a")
    assert set(record["metrics"]) == {"turns", "hits", "user_words"}
    run.write("dialogues", run.read("dialogues").with_columns(profile_id=pl.lit("u1")))
    assert ending.lines(run)[5].startswith("intervals take the dialogues of a person for independent: ")


def test_latest_links_to_the_newest_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        point_latest(tmp_path, ended(tmp_path, 1, name))
    assert (tmp_path / "latest").resolve().name == "b"
    assert not (tmp_path / "latest").readlink().is_absolute()


def test_links_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    for name in (f".latest.{os.getppid()}", ".latest.999999999", ".latest.x"):
        (tmp_path / name).symlink_to("runs/a")
    point_latest(tmp_path, ended(tmp_path, 1, "a"))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".latest.{os.getppid()}", "latest", "runs"]


def test_an_excerpt_is_of_the_dialogue_that_the_report_shows(tmp_path: Path) -> None:
    run = ended(tmp_path, 40)
    run.update(parameters={"condition": "a", "seed": 3})
    dialogue, messages = excerpt(run)
    assert dialogue == transcripts.drawn(run.read("dialogues"), 3)
    assert messages == [
        ("user", f"{dialogue[:4]} says a0 of Heat (1995)"),
        ("recommender", f"{dialogue[:4]} says a1 of Heat (1995)"),
        ("user", f"{dialogue[:4]} says a2 of Heat (1995)"),
    ]
    assert excerpt(run) == (dialogue, messages)
    assert f"dialogue {dialogue} begins" in ending.lines(run)
    assert f"  user         {messages[0][1]}" in ending.lines(run)
    run.update(parameters={"condition": "a", "seed": 4})
    assert excerpt(run)[0] != dialogue
    run.write("turns", run.read("turns").clear())
    assert excerpt(run)[1] == []
    run.write("dialogues", run.read("dialogues").clear())
    assert excerpt(run) == ("", [])


def test_a_trial_takes_no_latest_from_a_run(tmp_path: Path) -> None:
    trial, run, other = ended(tmp_path, 7, "trial"), ended(tmp_path, 8, "run"), ended(tmp_path, 7, "other")
    link = tmp_path / "latest"
    for chosen, wanted, latest in [
        (trial, False, trial),  # there is none
        (other, False, other),  # it is a trial itself
        (run, False, run),
        (trial, False, run),
        (run, False, run),
        (trial, True, trial),
    ]:
        said = point_latest(tmp_path, chosen, wanted=wanted)
        assert link.resolve() == latest.path, (chosen.path, wanted)
        assert bool(said) == (latest is not chosen)
    point_latest(tmp_path, run)
    assert point_latest(tmp_path, trial) == (
        "latest is still run with 8 dialogues, because fewer than 8 are a trial; --latest makes it this one"
    )


def test_a_removed_run_is_gone_and_latest_is_another(tmp_path: Path) -> None:
    old, new, trial = ended(tmp_path, 8, "old"), ended(tmp_path, 8, "new"), ended(tmp_path, 2, "trial")
    new.update(started="2026-01-02")
    trial.update(started="2026-01-03")
    point_latest(tmp_path, new)
    assert remove(trial, tmp_path) == ""
    assert (tmp_path / "latest").resolve() == new.path
    assert remove(new, tmp_path) == "latest is now old (old)"
    assert (tmp_path / "latest").resolve() == old.path
    assert not new.path.exists()
    assert remove(old, tmp_path) == "there is no latest run any more"
    assert not (tmp_path / "latest").is_symlink()
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_that_holds_others_is_not_removed_and_latest_inside_goes_with_it(tmp_path: Path) -> None:
    outer, other = ended(tmp_path, 1, "outer"), ended(tmp_path, 8, "other")
    (inner,) = make_runs(outer.path, 1, conditions=("yours",))
    with pytest.raises(CrsError, match=f"{outer.path} holds the runs {inner}; remove those first"):
        remove(outer, tmp_path)
    assert inner.is_dir()
    remove(Run(inner), tmp_path)
    (outer.path / "part").mkdir()
    (tmp_path / "latest").symlink_to(outer.path / "part")
    assert remove(outer, tmp_path) == "latest is now other (other)"
    assert (tmp_path / "latest").resolve() == other.path


def test_a_run_is_locked_while_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, rmtree, locked = ended(tmp_path, 1), shutil.rmtree, []
    monkeypatch.setattr("crslib.experiments.runs.shutil.rmtree", lambda path: locked.append(run.in_use) or rmtree(path))
    remove(run, tmp_path)
    assert (locked, run.path.exists()) == ([True], False)


def test_a_run_in_use_and_what_is_no_run_are_not_removed(tmp_path: Path) -> None:
    run = ended(tmp_path / "reports", 1)
    with run.lock(), pytest.raises(CrsError, match="is in use by another process"):
        remove(run, tmp_path / "reports")
    with run.journal(), pytest.raises(CrsError, match="is in use by another process"):
        remove(run, tmp_path / "reports")
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", tmp_path / "reports", tmp_path / "reports/runs"):
        with pytest.raises(CrsError, match="is no run below"):
            remove(Run(path), tmp_path / "reports")
    assert run.path.is_dir()
    assert (tmp_path / "mine").is_dir()


def test_sweeps_of_a_run(tmp_path: Path) -> None:
    run, other = ended(tmp_path, 1, "a"), ended(tmp_path, 1, "b")
    folder = tmp_path / "sweeps/s"
    sweep.write(folder, "s", [(run, "a", "success"), (run, "a", "success")], [{"condition": "x"}, {"condition": "y"}])
    assert named_in(run, tmp_path) == [folder]
    assert named_in(other, tmp_path) == []


# ── how long it takes ───────────────────────────────────────────────────────────────────────────────────────────────


def test_expected_seconds_are_those_of_runs_alike_on_this_machine(tmp_path: Path) -> None:
    here, elsewhere = {"cpu": preparation.cpu(), "cores": 2}, {"cpu": "another", "cores": 2}
    for name, machine, given, simulated in [
        ("a", here, {}, 10.0),
        ("b", here, {"temperature": 0.5}, 20.0),
        ("c", here, {"temperature": 0.6}, 60.0),
        ("d", elsewhere, {}, 900.0),
        ("e", here, {"max_turns": 2}, 1.0),
        ("f", here, {"width": 4}, 1.0),
        ("g", here, {"resample": 1}, 1.0),
        ("h", here, {"weights": "BF16"}, 1.0),
        ("i", here, {"threads": 1}, 1.0),
    ]:
        run = ended(tmp_path, 10, name)
        stages = {"01_profiles": 5.0, "02_simulate": simulated, "03_evaluate": 7.0}
        run.update(machine=machine, stages=stages, parameters=RunParameters.parse(given).model_dump(), n_made=10)
    planned = Plan(Run(tmp_path / "x"), "x", {}, RunParameters(), {})
    seconds = duration.expected(planned, tmp_path, 64)
    assert seconds == {"01_profiles": 5.0, "02_simulate": 128.0, "03_evaluate": 7.0}
    assert duration.rest(seconds, "01_profiles") == 135.0
    assert duration.rest(seconds, "03_evaluate") == 0
    assert duration.expected(planned, tmp_path / "none", 64) == {}
    Run(tmp_path / "runs/a").update(n_made=5)  # the other five had been made before: 2 s each
    Run(tmp_path / "runs/c").update(n_made=0)
    assert duration.expected(planned, tmp_path, 64)["02_simulate"] == 128.0
    Run(tmp_path / "runs/b").update(n_made=0)
    Run(tmp_path / "runs/a").update(n_made=2)
    assert duration.expected(planned, tmp_path, 64)["02_simulate"] == 320.0


@pytest.mark.parametrize(
    ("done", "elapsed", "expected", "left"),
    [
        (0, 0, 120, 120),
        (0, 30, 120, 90),
        (0, 130, 120, None),  # longer than ever
        (0, 30, None, None),
        (3, 30, None, 570),
        (3, 30, 120, 90),  # the first 12 have not ended
        (12, 30, 120, 120),
        (60, 60, 9, 0),
    ],
)
def test_seconds_left(done: int, elapsed: float, expected: float | None, left: float | None) -> None:
    assert duration.seconds_left(done, 60, elapsed, expected, 12) == left
