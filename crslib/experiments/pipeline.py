"""One run: its identity, and the execution of its notebooks into its folder.

A run's folder is named by the hash of everything that decides its result, so the same condition is always the same run.
A run that was interrupted continues: notebooks and dialogues that are complete are not computed again. Knows neither
models nor tables nor metrics; the notebooks do the work.
"""

import contextlib
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import papermill

from crslib.config import ROOT, EvaluationParameters, RunParameters, StoredParameters, resolve, usable_cores
from crslib.data import source
from crslib.data import tables as tables_of
from crslib.data.corpora import redial as corpus
from crslib.dialogue.discriminator import Discriminator
from crslib.engines import llama, preparation, server
from crslib.errors import CrsError
from crslib.experiments.kernels import NotebookError, ended_by_signals, execute_notebook, notebook_path
from crslib.files import check_writable, now
from crslib.identity import digest, file_sha256, sources_sha256
from crslib.simulation import estimate, opening
from crslib.simulation.dialogues import style_files
from crslib.store import Run

_TEMPORARY = re.compile(r"\..+\.(parquet|json|html)\.[a-z0-9_]{8}")  # what `files.writing` leaves when it is killed
_DRAWN_WITH = (".css", ".html", ".js")  # kinds of files in reporting/templates


@dataclass(frozen=True)
class Plan:
    """A run that can start: its parameters are valid and every file it needs exists."""

    run: Run
    run_id: str
    given: Mapping[str, Any]
    parameters: RunParameters | StoredParameters
    inputs: Mapping[str, Any]


def plan(given: Mapping[str, Any], reports: Path, report: Callable[[str], None] = lambda text: None) -> Plan:
    """Checks the parameters and every file they name, and derives the run's identity. Starts nothing.

    With `weights` "fastest" the first plan on a machine measures which form that is; `report` gets a line about it.

    Raises `CrsError` for an unknown or ill-typed parameter, for a file that is missing or of the wrong kind, and where
    `reports` cannot be written.
    """
    parameters = RunParameters.parse(given).located()
    data = resolve(parameters.data)
    tables = [data / "items.parquet", data / "ratings.parquet"]
    for table in tables:
        if not table.is_file():
            raise CrsError(f"{table} does not exist; run `crs data build` or `crs data import`, or set `data`")
    compared = comparison_inputs(parameters)
    for role in opening.ROLES:
        if parameters.is_local(role):
            llama.model_path(parameters.model(role)), llama.adapter_path(parameters.adapter(role))
    check_writable(reports)  # errors come before the measurement of weights, which takes a minute
    inputs: dict[str, Any] = {
        "notebooks": {name: source_hash(name) for name in parameters.stages},
        **library_inputs(),
        "data": {path.name: file_sha256(path) for path in (*tables, data / source.NAME) if path.is_file()},
        "domain": tables_of.domain_of(data, parameters.domain).sha256,
        **compared,
        **{role: opening.planned(role, parameters, report) for role in opening.ROLES},
    }
    for styles in filter(None, style_files(parameters).values()):
        if not styles.is_file():
            raise CrsError(f"no file {styles} with styles; run `crs data reference` or leave `styles` empty")
        inputs["styles"] = file_sha256(styles)
    if parameters.discriminators:
        folder = resolve(parameters.discriminators)
        for role in filter(parameters.is_local, opening.ROLES):
            Discriminator.read(folder / f"{role}.json")  # what cannot be read is said before anything starts
        judges = sorted(folder.glob("*.json"))
        inputs["discriminators"] = {path.name: file_sha256(path) for path in judges}
    if parameters.summary_style == "model":
        model = parameters.summary_model
        inputs["summary"] = (
            {"server": list(server.parse(model))}
            if server.is_server(model)
            else {"model_sha256": file_sha256(llama.model_path(model))}
        )
    run_id = digest({"parameters": parameters.identity(), "inputs": inputs}, "run")
    return Plan(Run(reports.resolve() / "runs" / run_id), run_id, dict(given), parameters, inputs)


def library_inputs() -> dict[str, str]:
    """The hashes of this package's sources, because the notebooks only call them, and of all that a report is drawn
    with."""
    return {"library": sources_sha256(), "templates": sources_sha256(["reporting/templates"], _DRAWN_WITH)}


def comparison_inputs(parameters: EvaluationParameters) -> dict[str, Any]:
    """The hashes of the human dialogues that an evaluation compares with, and of the metrics of one's own. Raises
    `CrsError` where one of them is missing."""
    human = resolve(parameters.human)
    if not human.is_dir():
        raise CrsError(f"no folder {human} with human statistics; run `crs data reference` or leave `human` as it is")
    inputs = {"human": {path.name: file_sha256(path) for path in sorted(human.iterdir()) if _has_figures(path)}}
    if parameters.redial:
        redial = resolve(parameters.redial)
        if not redial.exists():
            raise CrsError(f"{redial} does not exist; give ReDial's zip or folder, or leave `redial` empty")
        corpus.check(redial)
        parts = sorted(redial.glob("*.jsonl")) if redial.is_dir() else [redial]
        inputs["redial"] = {path.name: file_sha256(path) for path in parts}
    if parameters.metrics:
        from crslib.metrics import own  # takes seconds to import

        inputs["metrics"] = own.sources(own.load(parameters.metrics))
    return inputs


def _has_figures(path: Path) -> bool:
    """Whether a file in the folder of human statistics counts: JupyterLab, among others, leaves folders there."""
    return path.is_file() and path.suffix != ".md" and not path.name.startswith(".")


def source_hash(notebook: str) -> str:
    """Hash of a notebook's cells, without outputs, execution counts and metadata, which editors change."""
    cells = papermill.iorw.load_notebook_node(str(notebook_path(notebook))).cells
    return digest([[cell.cell_type, cell.source] for cell in cells], "notebook")


def execute(
    planned: Plan,
    report: Callable[[str], None] = lambda stage: None,
    simulate: Callable[[Plan], None] | None = None,
) -> Run:
    """Executes those of a run's notebooks that are not complete. `report` gets the name of each before it starts.

    `simulate`: puts dialogues into the run's journal before `02_simulate` makes what is missing there; None: it makes
    all of them.

    Raises `CrsError` with one sentence about what went wrong; `run.json` then has status `error` and the traceback.
    Ctrl-C, SIGTERM and SIGHUP end it with status `cancelled`.
    """
    run = planned.run
    with ended_by_signals(), run.lock():
        info = run.info
        if is_complete(run):
            return run
        _remove_temporaries(run.path)
        made = _whole_stages(run)
        stages = {name: info["stages"][name] for name in made}
        if info.get("n_failed"):  # what failed is tried again, and all that follows from it
            stages = {name: seconds for name, seconds in stages.items() if name == "01_profiles"}
        run.update(**{**_record(planned), "stages": stages, "files": {name: made[name] for name in stages}})
        try:
            for name, parameters in planned.parameters.stages.items():
                if name not in stages:
                    report(name)
                    started = time.monotonic()
                    if simulate is not None and name == "02_simulate":
                        simulate(planned)
                    values = {field: getattr(planned.parameters, field) for field in parameters.model_fields}
                    execute_notebook(name, run.path, {"run_dir": str(run.path), **values})
                    _record_stage(run, planned.run_id, name, round(time.monotonic() - started, 1))
        except (KeyboardInterrupt, SystemExit):
            with contextlib.suppress(CrsError):
                run.update(status="cancelled", finished=now())
            raise
        except CrsError as error:
            traceback = error.traceback if isinstance(error, NotebookError) else None
            with contextlib.suppress(CrsError):  # the disk may be full
                run.update(status="error", finished=now(), error=str(error), traceback=traceback)
            raise
        run.update(status="success", finished=now(), error=None, traceback=None)
    return run


def _record_stage(run: Run, run_id: str, name: str, seconds: float) -> None:
    """Records that a notebook is complete. Raises `CrsError` when `run.json` is not that of the run any more."""
    info = run.info
    if info.get("run_id") != run_id or "stages" not in info or "files" not in info:
        raise CrsError(f"{run.path / 'run.json'} was changed or removed during {name}; run the same again")
    files = {**info["files"], name: _new_files(run, info["files"])}
    made = {"n_made": run.made} if name.startswith("02_") else {}  # in these seconds; others were there before
    run.update(stages={**info["stages"], name: seconds}, files=files, **made)


def is_complete(run: Run) -> bool:
    """Whether a run has ended, none of its dialogues failed, and its tables and report are as they were made.

    A run whose `run.json` is damaged is not; `execute` says so.
    """
    info = run.outcome
    if info.get("status") != "success" or info.get("n_failed"):
        return False
    return bool(info.get("stages")) and len(_whole_stages(run)) == len(info["stages"])


def _whole_stages(run: Run) -> dict[str, Mapping[str, str]]:
    """The complete stages up to the first one of which a file is gone or damaged, with the files that each made."""
    info = run.info
    whole: dict[str, Mapping[str, str]] = {}
    for name in info.get("stages", {}):
        files = info.get("files", {}).get(name)
        if not isinstance(files, dict) or any(_sha256(run.path / file) != sha256 for file, sha256 in files.items()):
            break
        whole[name] = files
    return whole


def _remove_temporaries(folder: Path) -> None:
    """Removes files that a killed process was writing in a run's folder, whose lock is held."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _new_files(run: Run, before: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The run's tables and its report, with their hashes, without those of the stages `before`."""
    known = {file for files in before.values() for file in files}
    paths = [path for path in [*sorted(run.path.glob("*.parquet")), run.path / "report.html"] if path.is_file()]
    return {path.name: file_sha256(path) for path in paths if path.name not in known}


def _sha256(path: Path) -> str | None:
    """The hash of a file; None where there is none to read."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def costs(planned: Plan) -> list[str]:
    """What a run would ask of servers, in lines."""
    parameters = planned.parameters
    if isinstance(parameters, StoredParameters):
        return [f"run {planned.run_id} simulates nothing"]
    expected = estimate.expected(parameters, parameters.n_profiles)
    if not expected:
        return [f"run {planned.run_id} would ask no server for words"]
    n = parameters.n_profiles * parameters.dialogues_per_profile
    lines = [f"run {planned.run_id}, {n} dialogues, about as long as people's:"]
    for role, cost in expected.items():
        price = f", price {cost['price']:.2f}" if "price" in cost else ""
        lines.append(
            f"{role}: {cost['requests']:,} requests, {cost['tokens_in']:,} tokens in, {cost['tokens_out']:,} out{price}"
        )
    if parameters.resample > 1:
        lines.append(f"at most {parameters.resample} times as much, because what does not fit is drawn again")
    return lines


def afterwards(run: Run) -> list[str]:
    """What a person should know of a run that has ended: what servers counted, and which dialogues failed."""
    lines = []
    for role, usage in run.info.get("usage", {}).items():
        if usage:
            price = f", price {usage['price']:.2f}" if "price" in usage else ""
            lines.append(f"{role}: {usage['tokens_in']:,} tokens in, {usage['tokens_out']:,} out{price}")
    if failed := run.info.get("n_failed"):
        first = run.read("failures").row(0, named=True)
        lines.append(
            f"{failed} dialogues failed, for example {first['dialogue_id']} at turn {first['turn']}: {first['error']}; "
            "the same command tries them again"
        )
    return lines


# ── contents of run.json ────────────────────────────────────────────────────────────────────────────────────────


def _record(planned: Plan) -> dict[str, Any]:
    return {
        "run_id": planned.run_id,
        "status": "started",
        "started": now(),
        "finished": None,
        "stages": {},  # seconds of each complete notebook
        "files": {},  # of each complete notebook the tables and the report that it made, with their SHA-256
        "parameters": planned.parameters.model_dump(),
        "parameters_given": dict(planned.given),
        "inputs": dict(planned.inputs),
        "git": _git(),
        "machine": machine(),
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())},
        "reproducible": "local models: same bytes on this kind of CPU with these packages; see agents for others",
        "error": None,
        "traceback": None,
    }


def _git() -> dict[str, Any] | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    return None


def machine() -> dict[str, Any]:
    """System, Python, processor and usable cores of this machine, as in `run.json`."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": preparation.cpu(),
        "cores": usable_cores(),
    }
