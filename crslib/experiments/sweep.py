"""A grid of runs in parallel processes. A failing condition stops no other, and an interrupted sweep continues.

A condition is an ordinary run (`pipeline`), shared with other sweeps and with `crs run`, so that complete runs are not
computed again. When all have ended, notebook `04_compare` compares them, and `04_sweep` shows them along the axes of
the grid.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.experiments.kernels import death, ended_by_signals
from crslib.files import writing
from crslib.identity import digest
from crslib.store import Run

_RECORDED = 3  # exit status of a condition whose error is recorded in its run.json


@dataclass
class Condition:
    """One point of the grid. `state`: waiting, running, success or error. `reused`: it had been computed before.
    `gone`: its folder was renamed or removed meanwhile."""

    given: Mapping[str, Any]
    plan: pipeline.Plan
    state: str = "waiting"
    reused: bool = False
    seconds: float = 0.0
    gone: bool = False

    @property
    def error(self) -> str:
        """The sentence of what went wrong, if `state` is error. A run without a recorded error could not be locked."""
        gone = f"{self.plan.run.path} was renamed or removed; put it back and run the same again"
        in_use = "in use by another process; run the same command again when that has ended"
        return (self.plan.run.outcome.get("error") or (gone if self.gone else in_use)) if self.state == "error" else ""

    @property
    def traceback(self) -> str:
        """The traceback of the notebook that failed; empty without one."""
        return self.plan.run.outcome.get("traceback") or ""


Compute = Callable[[Sequence[Condition], Path, Callable[[], None]], None]
"""Runs conditions below a folder of reports until each has ended, with its `state`; calls the function meanwhile."""


def conditions(
    grid: Sequence[Mapping[str, Any]],
    reports: Path,
    workers: int = 1,
    report: Callable[[str], None] = lambda text: None,
) -> list[Condition]:
    """Plans every point of the grid before any of them starts. With several workers a condition uses one CPU thread,
    unless its point sets `threads`. `report` as in `pipeline.plan`. Raises `CrsError` as that does, and for two points
    that are the same run."""
    if workers > 1:
        grid = [{"threads": 1, **point} for point in grid]
    planned = [Condition(point, pipeline.plan(point, reports, report)) for point in grid]
    seen: dict[str, Condition] = {}
    for condition in planned:
        if (other := seen.setdefault(condition.plan.run_id, condition)) is not condition:
            raise CrsError(f"{condition.given} and {other.given} are the same run; remove one of them from the grid")
    return planned


def varied(planned: Sequence[Condition]) -> list[dict[str, Any]]:
    """Of each condition the given parameters in which the conditions differ; null where one does not give it."""
    axes = sorted({name for c in planned for name in c.given if len({str(d.given.get(name)) for d in planned}) > 1})
    return [{name: condition.given.get(name) for name in axes} for condition in planned]


def execute(
    planned: Sequence[Condition],
    reports: Path,
    workers: int,
    show: Callable[[Sequence[Condition]], None],
    compute: Compute | None = None,
) -> Run:
    """Runs all conditions, then `04_compare`. `show` gets the conditions a few times a second. `compute`: where they
    run; None: in processes of this machine, `workers` at a time.

    Returns the sweep's folder below `reports/sweeps`. Why a condition failed is in its `error` and in its `run.json`.
    """
    waiting = []
    for condition in planned:
        if pipeline.is_complete(condition.plan.run):
            condition.state, condition.reused = "success", True
        else:
            waiting.append(condition)
    with ended_by_signals():
        (compute or partial(_in_processes, workers))(waiting, reports, lambda: show(planned))
        return _compare(planned, reports)


def _in_processes(workers: int, waiting: Sequence[Condition], reports: Path, show: Callable[[], None]) -> None:
    context, waiting = multiprocessing.get_context("spawn"), list(waiting)
    running: dict[Any, tuple[Any, Condition, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                condition = waiting.pop(0)
                process = context.Process(target=_work, args=(dict(condition.given), reports), daemon=True)
                process.start()
                condition.state = "running"
                running[process.sentinel] = process, condition, time.monotonic()
            ended = wait(list(running), timeout=0.25)
            for _, condition, started in running.values():
                condition.seconds = time.monotonic() - started
            for sentinel in ended:
                process, condition, _ = running.pop(sentinel)
                _record_end(condition, process)
            show()
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():  # each records that it was cancelled
            process.join()


def _record_end(condition: Condition, process: Any) -> None:
    process.join()
    condition.state = "success" if process.exitcode == 0 else "error"
    condition.gone = not condition.plan.run.path.exists()
    if process.exitcode not in (0, _RECORDED):  # it crashed before it could record an error
        error = death("the process of this condition", process.exitcode)
        with contextlib.suppress(CrsError):  # its run.json may be damaged, which its error then says
            condition.plan.run.update(status="error", error=error)


def _work(given: dict[str, Any], reports: Path) -> None:
    """What the process of one condition does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        pipeline.execute(pipeline.plan(given, reports))
    except CrsError:
        raise SystemExit(_RECORDED) from None
    except KeyboardInterrupt:  # Ctrl-C reaches all processes of a terminal; it is recorded as well
        raise SystemExit(128 + signal.SIGINT) from None
    except OSError as error:
        raise SystemExit(f"{reports}: {error}") from None


def _end_with_parent() -> None:
    """Ends this process when the sweep is killed, so that it does not continue to write. Its kernel ends with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _compare(planned: Sequence[Condition], reports: Path) -> Run:
    """Writes `sweep.json` and executes `04_compare` in the sweep's folder, which it returns, and `04_sweep` where its
    axes are parameters."""
    values = varied(planned)
    axes = list(values[0])
    runs = [(condition.plan.run, condition.plan.run_id, condition.state) for condition in planned]
    folder = _compared(runs, values, reports)
    if axes and "condition" not in axes:  # else they have names, and differ in whatever these stand for
        pipeline.execute_notebook("04_sweep", folder.path, {"sweep_dir": str(folder.path)})
    return folder


def compare(runs: Mapping[str, Run], reports: Path) -> Run:
    """Compares complete runs (condition → run), the first with each of the others: `04_compare` in a folder below
    `reports/sweeps`, which it returns."""
    values = [{"condition": name} for name in runs]
    return _compared([(run, run.run_id, "success") for run in runs.values()], values, reports)


def write(
    folder: Path, sweep_id: str, runs: Sequence[tuple[Run, str, str]], values: Sequence[Mapping[str, Any]]
) -> None:
    """Writes the `sweep.json` of a folder, by which other commands find its runs. `runs`, `values`: as `_compared`."""
    rows = [
        {
            "run_id": run_id,
            "path": os.path.relpath(run.path, folder),
            "state": state,
            "values": dict(own),
            "error": run.outcome.get("error"),
        }
        for (run, run_id, state), own in zip(runs, values, strict=True)
    ]
    axes = sorted({name for own in values for name in own})
    with writing(folder / "sweep.json") as temporary:
        temporary.write_text(json.dumps({"sweep_id": sweep_id, "axes": axes, "conditions": rows}, indent=2) + "\n")


def _compared(runs: Sequence[tuple[Run, str, str]], values: Sequence[Mapping[str, Any]], reports: Path) -> Run:
    """`runs`: with id and state of each; `values`: their parameters that differ."""
    sweep_id = digest(sorted(run_id for _, run_id, _ in runs), "sweep")
    sweep = Run(reports.resolve() / "sweeps" / sweep_id)
    write(sweep.path, sweep_id, runs, values)
    pipeline.execute_notebook("04_compare", sweep.path, {"sweep_dir": str(sweep.path)})
    return sweep
