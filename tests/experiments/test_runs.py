"""The table of all runs."""

from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.config import RunParameters
from crslib.experiments.runs import FIGURES, LISTED, listed
from crslib.metrics import METRICS
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
