"""One run: its identity, and the execution of its notebooks by papermill into its folder.

A run's folder is named by the hash of everything that decides its result, so the same condition is always the same run.
A run that was interrupted continues: notebooks and dialogues that are complete are not computed again. Knows neither
models nor tables nor metrics; the notebooks do the work.
"""

import contextlib
import os
import platform
import re
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import papermill
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from crslib.config import ROOT, RunParameters, resolve
from crslib.engines import llama, preparation
from crslib.engines.loading import sampling, weights_form
from crslib.errors import CrsError
from crslib.identity import digest, file_sha256, sources_sha256
from crslib.store import Run, check_writable, now, unwritable


@dataclass(frozen=True)
class Plan:
    """A run that can start: its parameters are valid and every file it needs exists."""

    run: Run
    run_id: str
    given: Mapping[str, Any]
    parameters: RunParameters
    inputs: Mapping[str, Any]


def plan(given: Mapping[str, Any], reports: Path, report: Callable[[str], None] = lambda text: None) -> Plan:
    """Checks the parameters and every file they name, and derives the run's identity. Starts nothing.

    The first plan on a machine measures which form of the weights is the fastest; `report` gets a line about it.

    Raises `CrsError` for an unknown or ill-typed parameter, for a file that is missing or of the wrong kind, and where
    `reports` cannot be written.
    """
    parameters = RunParameters.parse(given).located()
    data = resolve(parameters.data)
    tables = [data / "items.parquet", data / "ratings.parquet"]
    for table in tables:
        if not table.is_file():
            raise CrsError(f"{table} does not exist; run `crs data build` or `crs data import`, or set `data`")
    human = resolve(parameters.human)
    if not human.is_dir():
        raise CrsError(f"no folder {human} with human statistics; run `crs data reference` or leave `human` as it is")
    files = {
        role: (llama.model_path(model), llama.adapter_path(adapter))
        for role, model, adapter in (
            ("user", parameters.user_model, parameters.user_adapter),
            ("recommender", parameters.recommender_model, parameters.recommender_adapter),
        )
    }
    check_writable(reports)  # errors come before the measurement of weights, which takes a minute
    inputs: dict[str, Any] = {
        "notebooks": {name: _source_hash(name) for name in parameters.stages},
        # The notebooks only call the library, so its sources decide what they compute.
        "library": sources_sha256(suffixes=(".py", ".html")),
        "data": {path.name: file_sha256(path) for path in tables},
        "human": {path.name: file_sha256(path) for path in sorted(human.iterdir()) if path.suffix != ".md"},
        **{role: _engine(parameters, *paths, report) for role, paths in files.items()},
    }
    if parameters.styles:
        if not (styles := resolve(parameters.styles)).is_file():
            raise CrsError(f"no file {styles} with styles; run `crs data reference` or leave `styles` empty")
        inputs["styles"] = file_sha256(styles)
    if parameters.redial:
        redial = resolve(parameters.redial)
        if not redial.exists():
            raise CrsError(f"{redial} does not exist; give ReDial's zip or folder, or leave `redial` empty")
        parts = sorted(redial.glob("*.jsonl")) if redial.is_dir() else [redial]
        inputs["redial"] = {path.name: file_sha256(path) for path in parts}
    if parameters.discriminators:
        judges = sorted(resolve(parameters.discriminators).glob("*.json"))
        inputs["discriminators"] = {path.name: file_sha256(path) for path in judges}
    if parameters.summary_style == "model":
        inputs["summary"] = {"model_sha256": file_sha256(llama.model_path(parameters.summary_model))}
    run_id = digest({"parameters": parameters.identity(), "inputs": inputs}, "run")
    return Plan(Run(reports.resolve() / "runs" / run_id), run_id, dict(given), parameters, inputs)


def _engine(
    parameters: RunParameters, model: Path, adapter: Path | None, report: Callable[[str], None]
) -> dict[str, Any]:
    source = llama.source(model, adapter, weights_form(parameters, model, adapter, report))
    return llama.identity(source, sampling(parameters), parameters.n_ctx, parameters.width)


def _source_hash(notebook: str) -> str:
    """Hash of a notebook's cells, without outputs, execution counts and metadata, which editors change."""
    cells = papermill.iorw.load_notebook_node(str(notebook_path(notebook))).cells
    return digest([[cell.cell_type, cell.source] for cell in cells], "notebook")


def notebook_path(name: str) -> Path:
    """The path of the source notebook `name`."""
    return ROOT / "notebooks" / f"{name}.ipynb"


def execute(planned: Plan, report: Callable[[str], None] = lambda stage: None) -> Run:
    """Executes those of a run's notebooks that are not complete. `report` gets the name of each before it starts.

    Raises `CrsError` with one sentence about what went wrong; `run.json` then has status `error` and the traceback.
    """
    run = planned.run
    with run.lock():
        info = run.info
        if info.get("status") == "success":
            return run
        run.update(**{**_record(planned), "stages": info.get("stages", {})})
        try:
            for name, parameters in planned.parameters.stages.items():
                if name not in run.info["stages"]:
                    report(name)
                    started = time.monotonic()
                    values = {field: getattr(planned.parameters, field) for field in parameters.model_fields}
                    execute_notebook(name, run.path, {"run_dir": str(run.path), **values})
                    run.update(stages={**run.info["stages"], name: round(time.monotonic() - started, 1)})
        except KeyboardInterrupt:
            run.update(status="cancelled", finished=now())
            raise
        except CrsError as error:
            traceback = error.traceback if isinstance(error, NotebookError) else None
            with contextlib.suppress(CrsError):  # the disk may be full
                run.update(status="error", finished=now(), error=str(error), traceback=traceback)
            raise
        run.update(status="success", finished=now(), error=None, traceback=None)
    return run


class NotebookError(CrsError):
    """The error of a notebook that failed. `traceback` is that of its kernel, for `run.json`."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


def execute_notebook(name: str, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Executes notebook `name` into `folder` in a kernel of its own, over IPC, because parallel runs would compete for
    TCP ports.

    Raises `NotebookError` when a cell fails, `CrsError` when the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="crs-") as sockets, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kernels warn about frontends without subshells
        config = Config(KernelManager={"transport": "ipc", "ip": str(Path(sockets) / "kernel")})
        try:
            papermill.execute_notebook(
                str(notebook_path(name)),
                str(folder / f"{name}.ipynb"),
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=str(ROOT / "notebooks"),
                progress_bar=False,
                request_save_on_cell_execute=False,
                config=config,
                extra_arguments=["--IPKernelApp.log_level=50"],  # kernels log an error about the signal that ends them
            )
        except PapermillExecutionError as error:
            message = " ".join(error.evalue.split())
            sentence = message if error.ename == "CrsError" else f"{name} failed: {error.ename}: {message}"
            raise NotebookError(sentence, _without_colours("\n".join(error.traceback))) from None
        except OSError as error:
            raise unwritable(folder, error) from None


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def point_latest(reports: Path, folder: Path) -> None:
    """Makes `reports/latest` a link to `folder`."""
    link = reports / "latest"
    temporary = reports / f".latest.{os.getpid()}"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(folder.resolve(), reports.resolve()))
        temporary.replace(link)
    except OSError as error:
        raise unwritable(link, error) from None


# ── contents of run.json ────────────────────────────────────────────────────────────────────────────────────────


def _record(planned: Plan) -> dict[str, Any]:
    return {
        "run_id": planned.run_id,
        "status": "started",
        "started": now(),
        "finished": None,
        "stages": {},  # seconds of each complete notebook
        "parameters": planned.parameters.model_dump(),
        "parameters_given": dict(planned.given),
        "inputs": dict(planned.inputs),
        "git": _git(),
        "machine": _machine(),
        "packages": {d.name: d.version for d in sorted(distributions(), key=lambda d: d.name.lower())},
        "reproducible": "same bytes on this kind of CPU with these packages; another CPU or a GPU may differ",
        "error": None,
        "traceback": None,
    }


def _git() -> dict[str, Any] | None:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return {"commit": git("rev-parse", "HEAD").strip(), "dirty": bool(git("status", "--porcelain").strip())}
    return None


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": preparation.cpu(),
        "cores": os.cpu_count(),
    }
