"""The runs of a sweep side by side: which ended well, and their figures as one frame and as charts."""

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from crslib import charts
from crslib.config import resolve
from crslib.errors import CrsError
from crslib.metrics import METRICS
from crslib.metrics.leakage import KINDS
from crslib.report import Figure
from crslib.store import Run

SHOWN = (
    "hits",
    "recommender_validity",
    "repeats",
    "acceptance",
    "reaction_consistency",
    "contradictions",
    "turns",
    "user_words",
    "recommender_words",
    "user_words_wasserstein",
    "user_distinct_2",
    "recommender_distinct_2",
    "item_entropy",
    "gini",
)


@dataclass(frozen=True)
class Sweep:
    """`conditions`: condition, one column per varied parameter, state, leaks, error, traceback (null where all is
    well). `metrics`: condition and the columns of table `metrics`, of the conditions that ended well."""

    path: Path
    conditions: pl.DataFrame
    metrics: pl.DataFrame


def read(sweep_dir: str) -> Sweep:
    """The sweep in folder `sweep_dir`, or the newest below `reports/sweeps`. Raises `CrsError` when there is none."""
    path = Path(sweep_dir) if sweep_dir else _newest()
    try:
        content = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CrsError(f"{path} holds no readable sweep.json ({error}); make one with `crs sweep GRID`") from None
    rows, frames = [], []
    for condition in content["conditions"]:
        label = ", ".join(f"{name}={_word(value)}" for name, value in condition["values"].items()) or "only condition"
        run = Run(path / condition["path"])
        info = run.info
        audit = info.get("audit")
        rows.append(
            {
                "condition": label,
                **{name: _word(value) for name, value in condition["values"].items()},
                "state": condition["state"],
                "leaks": None if audit is None else sum(audit[kind.replace(" ", "_")] for kind in KINDS),
                "error": info.get("error"),
                "traceback": info.get("traceback"),
            }
        )
        if condition["state"] == "success":
            frames.append(run.read("metrics").select(pl.lit(label).alias("condition"), pl.all()))
    texts = dict.fromkeys(("condition", *content["axes"], "state", "error", "traceback"), pl.String)
    conditions = pl.DataFrame(rows, schema_overrides={**texts, "leaks": pl.Int64})
    return Sweep(path, conditions, pl.concat(frames) if frames else pl.DataFrame())


def _newest() -> Path:
    found = sorted(resolve("reports/sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CrsError("there is no sweep below reports/sweeps; make one with `crs sweep GRID`")
    return found[-1].parent


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else "default" if value is None else str(value)


def figures(sweep: Sweep) -> list[Figure]:
    """One chart per metric of `SHOWN` that any condition has."""
    if sweep.metrics.is_empty():
        return []
    return [
        Figure(METRICS[name].title, METRICS[name].definition, charts.conditions(sweep.metrics.filter(metric=name)))
        for name in SHOWN
        if sweep.metrics.filter(metric=name).height
    ]
