"""All runs as one table, with the figures that are looked at first, and what becomes of them: removed, latest."""

import contextlib
import difflib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from crslib.config import BUILT_IN, RunParameters
from crslib.dialogue.utterances import plain
from crslib.errors import CrsError
from crslib.files import DAMAGED, unwritable
from crslib.reporting import transcripts
from crslib.runs import LATEST, Found, differences, read_sweep, scan, settings, short, written
from crslib.store import Run

TRIAL = 8
"""Runs with fewer dialogues are trials."""

# The metrics that are looked at first, by the words that head them: is it worth anything, does the user follow its
# notes, does it talk like people, is it varied, how long is it.
FIGURES = {
    "hits": "hit",
    "reaction_consistency": "reacts",
    "user_two_sample": "told",
    "user_distinct_2": "dist-2",
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


# Reports and pages head figures by their short words.
_TAKEN = {*LISTED, *FIGURES.values(), "dialogues"}
_own_name = pl.col("metric") + pl.when(pl.col("metric").is_in(sorted(_TAKEN))).then(pl.lit("_")).otherwise(pl.lit(""))


def listed(reports: Path, report: Callable[[str], None]) -> pl.DataFrame:
    """The runs below `reports`, newest first, with the columns of `LISTED`.

    `tag`: empty without one. `status`, `started`: as of `Found`. `seconds`: of its notebooks. `differs`: from the
    default parameters, `temperature=0.9, opener=user`. `user`, `recommender`: their models and adapters, short. A
    figure is a metric's value, null where the run lacks it. After `path` come the metrics of one's own that any run
    has, as `own_metrics` names them.

    `report` gets a sentence about everything that cannot be read; it is left out.
    """
    rows = [_row(found, report) for found in scan(reports, report)]
    own = sorted({name for row in rows for name in row} - LISTED.keys())
    return pl.DataFrame(rows, schema={**LISTED, **dict.fromkeys(own, pl.Float64)}, orient="row")


def own_metrics(frame: pl.DataFrame) -> list[str]:
    """The columns of `listed` that are metrics of one's own. One that is called as another column is called has an
    underscore at its end."""
    return [name for name in frame.columns if name not in LISTED]


def _row(found: Found, report: Callable[[str], None]) -> dict[str, Any]:
    parameters = found.info.get("parameters", {})
    return {
        "run_id": found.run_id,
        "tag": found.tag,
        "status": found.status,
        "started": found.started,
        "seconds": round(sum(found.info.get("stages", {}).values()), 1) or None,
        "condition": found.condition,
        "differs": differences(found.info),
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
            is_own = pl.col("family") == "own"
            table = run.read("metrics").filter(is_own | pl.col("metric").is_in(list(FIGURES)))
            table = table.with_columns(pl.when(is_own).then(_own_name).otherwise("metric").alias("metric"))
        except CrsError as error:
            report(str(error))
        else:
            values |= dict(table.select("metric", "value").iter_rows())
    return values


def matching(frame: pl.DataFrame, wanted: Mapping[str, str]) -> pl.DataFrame:
    """The rows of `listed` that have these values, of columns or of parameters, as they are written: `status` →
    `success`, `temperature` → `0.9`. Raises `CrsError` for a name that is neither."""
    for name, value in wanted.items():
        if name in frame.columns:
            has = [_is(own, value) for own in frame[name]]
        elif name in RunParameters.model_fields:
            has = [_is_set(Run(Path(path)), name, value) for path in frame["path"]]
        else:
            raise _unknown(name, (*frame.columns, *RunParameters.model_fields))
        frame = frame.filter(pl.Series(has, dtype=pl.Boolean))
    return frame


def _is(own: object, value: str) -> bool:
    """Whether a value is the written one; numbers by what they are: 0.90 is 0.9."""
    if isinstance(own, int | float) and not isinstance(own, bool):
        try:
            return own == float(value)
        except ValueError:
            return False
    return written(own) == value


def _is_set(run: Run, name: str, value: str) -> bool:
    parameters = run.outcome.get("parameters", {})
    shown = settings(parameters).get(name)
    return name in parameters and (_is(parameters[name], value) or (shown is not None and shown[1] == value))


def ordered(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """The rows of `listed` by a column: texts from A to Z, numbers and times from the largest, empty ones last. Raises
    `CrsError` for another name."""
    if name not in frame.columns:
        raise _unknown(name, frame.columns)
    is_text = frame.schema[name] == pl.String and name != "started"
    return frame.sort(name, descending=not is_text, nulls_last=True, maintain_order=True)


def _unknown(name: str, known: Sequence[str]) -> CrsError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return CrsError(f"runs have no {name!r}: {hint}")


# ── the end of a run ────────────────────────────────────────────────────────────────────────────────────────────────


def figures(run: Run) -> pl.DataFrame:
    """Those of `FIGURES` that a run has, in their order: metric, value, low, high, human (of people; null where they
    have none)."""
    table = run.read("metrics").select("metric", "value", "low", "high", "human")
    order = pl.DataFrame({"metric": list(FIGURES)})
    return order.join(table, on="metric", how="inner", maintain_order="left")


def excerpt(run: Run, n: int = 3) -> tuple[str, list[tuple[str, str]]]:
    """The id of the dialogue that the report shows, and its first `n` messages with text as (role, text); no id where
    there is no dialogue."""
    drawn = transcripts.drawn(run.read("dialogues"), run.info.get("parameters", {}).get("seed", 0))
    said = run.read("turns").filter(pl.col("dialogue_id") == (drawn or ""), pl.col("text") != "").sort("turn").head(n)
    rows = said.select("role", "text").iter_rows()
    return drawn or "", [(role, " ".join(plain(text).split())) for role, text in rows]


def point_latest(reports: Path, run: Run, *, wanted: bool = False) -> str:
    """Makes a run the latest one, unless it is a trial (of fewer than `TRIAL` dialogues) and the latest is none, and
    unless that is `wanted`. Returns why it was not done, as a sentence; empty where it was."""
    link = reports / LATEST
    n, latest = n_dialogues(run), Run(link.resolve())
    if not wanted and n < TRIAL and link.exists() and latest.path != run.path.resolve():
        n_latest = n_dialogues(latest)
        if n_latest >= TRIAL:
            return (
                f"latest is still {latest.run_id} with {n_latest} dialogues, because fewer than {TRIAL} are a trial; "
                "--latest makes it this one"
            )
    _link(link, run.path)
    return ""


def _link(link: Path, folder: Path) -> None:
    """Makes `link` one to `folder`, whatever it was before."""
    reports = link.parent
    temporary = reports / f".latest.{os.getpid()}"
    try:
        for left in reports.glob(".latest.*"):  # by processes that were killed
            if not (left.suffix[1:].isdecimal() and psutil.pid_exists(int(left.suffix[1:]))):
                left.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder.resolve(), reports.resolve()))
        temporary.replace(link)
    except OSError as error:
        raise unwritable(link, error) from None


def remove(run: Run, reports: Path) -> str:
    """Removes the folder of a run below `reports`. Where it was the latest, the newest other run that succeeded and is
    no trial becomes that. Returns a sentence about it, else nothing.

    Raises `CrsError` for a folder that is no run below `reports`, for one in which other runs lie, and for a run that
    is in use.
    """
    path, link = run.path.resolve(), reports / LATEST
    known = scan(reports, lambda sentence: None)
    if path not in [found.run.path.resolve() for found in known]:
        raise CrsError(f"{run.path} is no run below {reports}; remove it by hand if you mean it")
    if run.in_use:
        raise CrsError(f"{run.path} is in use by another process; wait until it ends or stop it")
    below = [found for found in known if path in found.run.path.resolve().parents]
    if below:
        names = ", ".join(str(found.run.path) for found in below)
        raise CrsError(f"{run.path} holds the runs {names}; remove those first")
    was_latest = link.is_symlink() and link.resolve().is_relative_to(path)
    try:
        with run.lock():  # nobody begins to work on it meanwhile
            shutil.rmtree(path)
        if not was_latest:
            return ""
        link.unlink()
    except OSError as error:
        raise CrsError(f"cannot remove {run.path}: {error.strerror or error}; free it, then remove it again") from None
    for found in known:
        if found.run.path.exists() and found.status == "success" and n_dialogues(found.run) >= TRIAL:
            _link(link, found.run.path)
            return f"latest is now {found}"
    return "there is no latest run any more"


def named_in(run: Run, reports: Path) -> list[Path]:
    """The folders of sweeps and comparisons below `reports` that a run is part of."""
    folders = []
    for file in sorted(reports.glob("sweeps/*/sweep.json")):
        with contextlib.suppress(CrsError):
            _, runs = read_sweep(file.parent)
            if run.path.resolve() in [other.path.resolve() for _, other in runs]:
                folders.append(file.parent)
    return folders
