"""Judging what others made: the dialogues of a file as a run, evaluated by the same notebook as any other.

Such a run has no profiles, hidden items, prompts and models: metrics that need them are left out, and the report says
so. Everything else (`crs look`, `crs judge`, comparisons, exports) reads it as it reads other runs.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crslib import schemas
from crslib.config import EvaluationParameters, StoredParameters, resolve
from crslib.data import tables as tables_of
from crslib.data.catalog import Catalog
from crslib.data.corpora import forms, stored
from crslib.data.source import Source
from crslib.errors import CrsError
from crslib.experiments import pipeline, sweep
from crslib.files import check_writable
from crslib.identity import digest, file_sha256
from crslib.runs import labels
from crslib.store import Run, read_parquet

_EMPTY = ("holdouts", "prompts", "ratings")


def plan(
    file: Path,
    form: str,
    given: Mapping[str, Any],
    reports: Path,
    *,
    condition: str = "",
    data: str = "data",
    titles: str = "auto",
    domain: str = "auto",
) -> pipeline.Plan:
    """Checks the parameters (`given`: of `EvaluationParameters`) and files, and derives the run's identity. Writes
    nothing.

    `condition`: its name in tables and charts; empty: that of the file. `data`, `titles`, `domain`: as of
    `StoredParameters`. Raises `CrsError` for an unknown or ill-typed parameter, and where a file is missing or
    `reports` cannot be written.
    """
    if EvaluationParameters.parse(given).judged_by != "own":
        raise CrsError("judged_by = 'another' needs profiles, which no file of dialogues has; leave it out")
    where = {"data": data, "form": form, "titles": titles, "domain": domain, "condition": condition or name_of(file)}
    parameters = StoredParameters.parse({**given, **where}).located()
    items = resolve(parameters.data) / "items.parquet"
    if not items.is_file():
        raise CrsError(f"{items} does not exist; run `crs data build` or `crs data import`, or give another --data")
    check_writable(reports)
    inputs = {
        "notebooks": {name: pipeline.source_hash(name) for name in parameters.stages},
        **pipeline.library_inputs(),
        "data": {items.name: file_sha256(items)},
        "domain": tables_of.domain_of(resolve(parameters.data), parameters.domain).sha256,
        "file": _sha256(file),
        **pipeline.comparison_inputs(parameters),
    }
    run_id = digest({"parameters": parameters.identity(), "inputs": inputs}, "run")
    return pipeline.Plan(Run(reports.resolve() / "runs" / run_id), run_id, dict(given), parameters, inputs)


def execute(planned: pipeline.Plan, file: Path, report: Callable[[str], None] = lambda stage: None) -> Run:
    """Reads `file` into the run's tables and executes `03_evaluate`; a complete run is not computed again. `report` as
    in `pipeline.execute`.

    Raises `CrsError` for a file that is not of its form (then nothing is written), and as `pipeline.execute` does.
    """
    run, parameters = planned.run, planned.parameters
    assert isinstance(parameters, StoredParameters)
    if pipeline.is_complete(run):
        return run
    data = resolve(parameters.data)
    items = read_parquet(data / "items.parquet", "items")
    domain = tables_of.domain_of(data, parameters.domain)
    dialogues = forms.read(file, parameters.form, domain)
    tables = stored.tables(dialogues, Catalog(items, domain), planned.run_id, parameters.condition, parameters.titles)
    if tables.turns.is_empty():
        raise CrsError(f"nobody says a word in the {len(dialogues)} dialogues of {file}; give a file with utterances")
    with run.lock():
        run.write("items", items)
        domain.write(run.path)
        Source.read(data).write(run.path)
        for name in ("profiles", "dialogues", "turns", "labels"):
            run.write(name, getattr(tables, name))
        for name in _EMPTY:
            run.write(name, schemas.empty(name))
        noted = any(tables.turns["notes"].list.len())
        run.update(
            source={
                "name": file.name,
                "form": parameters.form,
                "sha256": planned.inputs["file"],
                "lines": tables.lines,
            },
            lacking=[*stored.LACKING, *([] if noted else ["notes"])],
        )
    return pipeline.execute(planned, report)


def compare(run: Run, others: Sequence[Run], reports: Path) -> Run:
    """Compares a run with others that are complete, by `04_compare`; returns the folder of the comparison. Raises
    `CrsError` for a run without metrics."""
    runs = labels([run, *others])
    for each in runs.values():
        if not each.has("metrics"):
            raise CrsError(f"{each.path} holds no metrics; give the folder of a run that succeeded")
    return sweep.compare(runs, reports)


def name_of(file: Path) -> str:
    """The condition's name for a file: its own without the suffix, or that of its folder for our `dialogues`."""
    path = file.resolve()
    name = path.parent.name if path.name == "dialogues.parquet" else path.stem
    return re.sub(r"\s+", " ", name).strip() or "file"


def _sha256(file: Path) -> str:
    path = file / "dialogues.parquet" if file.is_dir() else file
    try:
        return file_sha256(path)
    except OSError as error:
        raise CrsError(f"cannot read {path}: {error.strerror}; give a file of dialogues") from None
