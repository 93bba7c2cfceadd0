"""All runs as one table, with the figures that are looked at first."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib.config import BUILT_IN
from crslib.errors import CrsError
from crslib.files import DAMAGED
from crslib.runs import Found, differences, find, labels, scan, short
from crslib.store import Run

__all__ = ["FIGURES", "LISTED", "find", "labels", "listed"]

# The metrics that are looked at first, by the words that head them: is it worth anything, does the user follow its
# notes, does it talk like people, is it varied, how long is it.
FIGURES = {
    "hits": "hit",
    "reaction_consistency": "reacts",
    "user_two_sample": "told apart",
    "user_distinct_2": "distinct-2",
    "turns": "turns",
}
LISTED = {
    "run_id": pl.String,
    "tag": pl.String,
    "status": pl.String,
    "started": pl.String,
    "seconds": pl.Float64,
    "condition": pl.String,
    "differs": pl.String,
    "n_dialogues": pl.Int64,
    "user": pl.String,
    "recommender": pl.String,
    **dict.fromkeys(FIGURES, pl.Float64),
    "path": pl.String,
}


def listed(reports: Path, report: Callable[[str], None]) -> pl.DataFrame:
    """The runs below `reports`, newest first, with the columns of `LISTED`.

    `tag`: empty without one. `status`, `started`: as of `Found`. `seconds`: of its notebooks. `differs`: from the
    default parameters, `temperature=0.9, opener=user`. `user`, `recommender`: their models and adapters, short. A
    figure is a metric's value, null where the run lacks it.

    `report` gets a sentence about everything that cannot be read; it is left out.
    """
    rows = [_row(found, report) for found in scan(reports, report)]
    return pl.DataFrame(rows, schema=LISTED, orient="row")


def _row(found: Found, report: Callable[[str], None]) -> dict[str, Any]:
    parameters = found.info.get("parameters", {})
    return {
        "run_id": found.run_id,
        "tag": found.tag,
        "status": found.status,
        "started": found.started,
        "seconds": round(sum(found.info.get("stages", {}).values()), 1) or None,
        "condition": found.condition,
        "differs": differences(parameters),
        "n_dialogues": n_dialogues(found.run),
        "user": _party(parameters, "user"),
        "recommender": _party(parameters, "recommender"),
        **_figures(found.run, report),
        "path": str(found.run.path),
    }


def _party(parameters: Mapping[str, Any], role: str) -> str:
    """A role's model and adapter; empty where the run does not say it."""
    model, adapter = (str(parameters.get(f"{role}_{part}", "")) for part in ("model", "adapter"))
    if adapter == "auto" or not model:
        return short(model)
    return f"{short(model)} + {short(adapter)}" if adapter else short(model) + " alone" * (model == BUILT_IN)


def n_dialogues(run: Run) -> int:
    """How many dialogues a run holds by now; a run that is not finished has them in its journal."""
    try:
        if run.has("dialogues"):
            table = pl.scan_parquet(run.path / "dialogues.parquet", glob=False)
            return int(table.select(pl.len()).collect().item())
        with (run.path / "journal.jsonl").open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    except DAMAGED:
        return 0


def _figures(run: Run, report: Callable[[str], None]) -> dict[str, float | None]:
    values: dict[str, float | None] = dict.fromkeys(FIGURES)
    if run.has("metrics"):
        try:
            table = run.read("metrics").filter(pl.col("metric").is_in(list(FIGURES)))
        except CrsError as error:
            report(str(error))
        else:
            values |= dict(table.select("metric", "value").iter_rows())
    return values
