"""A sweep's runs side by side."""

import json
from pathlib import Path

import polars as pl
import pytest

from crslib import charts, comparison, schemas
from crslib.errors import CrsError
from crslib.metrics.leakage import KINDS
from crslib.store import Run


def make_sweep(folder: Path) -> Path:
    """Two conditions that ended well and one that failed."""
    conditions = []
    for number, state in enumerate(("success", "success", "error")):
        run = Run(folder / "runs" / str(number))
        run.update(
            audit=None if state == "error" else {kind.replace(" ", "_"): number for kind in KINDS},
            error="too few people" if state == "error" else None,
            traceback="Traceback" if state == "error" else None,
        )
        if state == "success":
            row = dict.fromkeys(schemas.TABLES["metrics"]) | {"metric": "hits", "value": 0.1 * number, "n": 4}
            run.write("metrics", pl.DataFrame([row], schema=dict(schemas.TABLES["metrics"])))
        values = {"memory": number == 0, "temperature": 0.5}
        conditions.append({"run_id": str(number), "path": f"../../runs/{number}", "state": state, "values": values})
    sweep = folder / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"axes": ["memory", "temperature"], "conditions": conditions}))
    return sweep


def test_conditions_and_metrics_are_read(tmp_path: Path) -> None:
    sweep = comparison.read(str(make_sweep(tmp_path)))
    assert sweep.conditions["condition"].to_list()[0] == "memory=true, temperature=0.5"
    assert sweep.conditions["leaks"].to_list() == [0, len(KINDS), None]
    assert sweep.conditions["error"].to_list() == [None, None, "too few people"]
    assert sweep.metrics.select("condition", "value").rows() == [
        ("memory=true, temperature=0.5", 0.0),
        ("memory=false, temperature=0.5", 0.1),
    ]
    (figure,) = comparison.figures(sweep)
    assert figure.title == "Dialogues with a hit"
    assert charts.svg(figure.chart).startswith("<svg")


def test_no_sweep_is_told(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"no readable sweep\.json"):
        comparison.read(str(tmp_path))
