"""A grid of runs in parallel processes. One failing condition stops no other; a killed sweep goes on where it stood.

A condition is an ordinary run (`pipeline`), shared with every other sweep and with `crs run`: what has been computed
is found by its identity. When all have ended, notebook `04_compare` draws them.
"""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from crslib.errors import CrsError
from crslib.experiments import pipeline
from crslib.identity import digest
from crslib.store import Run, writing

_TOLD = 3  # exit status of a condition that failed with a sentence, which stands in its run.json


@dataclass
class Condition:
    """One point of the grid. `state`: waiting, running, success or error; `reused`: it had been computed before."""

    given: Mapping[str, Any]
    plan: pipeline.Plan
    state: str = "waiting"
    reused: bool = False
    seconds: float = 0.0


def conditions(
    grid: Sequence[Mapping[str, Any]], reports: Path, tell: Callable[[str], None] = lambda what: None
) -> list[Condition]:
    """Plans every point of the grid before any of them starts; `tell` as in `pipeline.plan`. Raises `CrsError` as that
    does, and for two points that are the same run."""
    planned = [Condition(given, pipeline.plan(given, reports, tell)) for given in grid]
    seen: dict[str, Condition] = {}
    for condition in planned:
        if (other := seen.setdefault(condition.plan.run_id, condition)) is not condition:
            raise CrsError(f"{condition.given} and {other.given} are the same run; remove one of them from the grid")
    return planned


def execute(
    planned: Sequence[Condition], reports: Path, workers: int, show: Callable[[Sequence[Condition]], None]
) -> Run:
    """Runs all conditions, `workers` at a time, then `04_compare`; `show` is called a few times a second.

    Returns the sweep's folder below `reports/sweeps`. Failed conditions are left as their `run.json` tells.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(planned)
    running: dict[int, tuple[Any, Condition, float]] = {}
    for condition in planned:
        if condition.plan.run.info.get("status") == "success":
            condition.state, condition.reused = "success", True
            waiting.remove(condition)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                condition = waiting.pop(0)
                process = context.Process(target=_work, args=(dict(condition.given), reports), daemon=True)
                process.start()
                condition.state = "running"
                running[process.sentinel] = process, condition, time.monotonic()
            ended = wait(list(running), timeout=0.25)
            for _, condition, begun in running.values():
                condition.seconds = time.monotonic() - begun
            for sentinel in ended:
                process, condition, _ = running.pop(sentinel)
                _settle(condition, process)
            show(planned)
    finally:
        for process, _, _ in running.values():
            process.terminate()
    return _compare(planned, reports)


def _settle(condition: Condition, process: Any) -> None:
    process.join()
    condition.state = "success" if process.exitcode == 0 else "error"
    if process.exitcode not in (0, _TOLD):  # it crashed, so it could not tell
        error = f"the process of this condition ended with code {process.exitcode}"
        condition.plan.run.update(status="error", error=error)


def _work(given: dict[str, Any], reports: Path) -> None:
    """The body of one condition's process."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    try:
        pipeline.execute(pipeline.plan(given, reports))
    except CrsError:
        raise SystemExit(_TOLD) from None
    except OSError as error:
        raise SystemExit(f"{reports}: {error}") from None


def _follow_parent() -> None:
    """Ends this process when the sweep is killed, so no orphan goes on writing (its kernel follows by itself)."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _compare(planned: Sequence[Condition], reports: Path) -> Run:
    axes = sorted({name for c in planned for name in c.given if len({str(d.given.get(name)) for d in planned}) > 1})
    sweep_id = digest(sorted(condition.plan.run_id for condition in planned), "sweep")
    sweep = Run(reports.resolve() / "sweeps" / sweep_id)
    rows = [
        {
            "run_id": condition.plan.run_id,
            "path": os.path.relpath(condition.plan.run.path, sweep.path),
            "state": condition.state,
            "values": {name: condition.given.get(name) for name in axes},
            "error": condition.plan.run.info.get("error"),
        }
        for condition in planned
    ]
    with writing(sweep.path / "sweep.json") as temporary:
        temporary.write_text(json.dumps({"sweep_id": sweep_id, "axes": axes, "conditions": rows}, indent=2) + "\n")
    pipeline.execute_notebook("04_compare", sweep.path, {"sweep_dir": str(sweep.path)})
    return sweep
