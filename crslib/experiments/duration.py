"""How long a run takes, by earlier runs on the same machine. A guess until dialogues end."""

import statistics
from collections.abc import Mapping
from pathlib import Path

from crslib.engines import preparation
from crslib.experiments.pipeline import Plan
from crslib.runs import scan

ALIKE = (
    *("user_model", "recommender_model", "baseline", "max_turns"),
    *("weights", "resample", "threads", "width"),
)
"""Parameters in which an earlier run must be equal."""
_PER_DIALOGUE = ("02_simulate", "02_baselines")


def expected(planned: Plan, reports: Path, n: int) -> dict[str, float]:
    """Seconds of each notebook of a run of `n` dialogues: the median of the newest five runs below `reports` that
    succeeded on this kind of CPU, alike in `ALIKE`; simulations by their seconds per dialogue. Runs that made no
    dialogue themselves, because others or shards had made them, tell nothing. Without such runs nothing."""
    seconds: dict[str, list[float]] = {}
    wanted = planned.parameters.model_dump()
    alike = 0
    for found in scan(reports, lambda sentence: None):
        parameters = found.info.get("parameters", {})
        here = found.info.get("machine", {}).get("cpu") == preparation.cpu()
        if found.status == "success" and here and all(parameters.get(name) == wanted.get(name) for name in ALIKE):
            if (made := found.info.get("n_made", 0)) <= 0:
                continue
            for name, took in found.info.get("stages", {}).items():
                seconds.setdefault(name, []).append(took * n / made if name in _PER_DIALOGUE else took)
            if (alike := alike + 1) == 5:
                break
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def seconds_left(done: int, total: int, elapsed: float, expected: float | None, width: int = 1) -> float | None:
    """Seconds until `total` dialogues have ended, when `done` took `elapsed` seconds: by `expected`, the seconds of all
    of them, until the first `width` have ended, which talk at the same time, then by their rate. None where nothing
    tells it."""
    if expected is not None and done < min(width, total):
        return left if (left := expected - elapsed) > 0 else None
    return elapsed / done * (total - done) if done else None


def rest(expected: Mapping[str, float], stage: str) -> float:
    """Seconds of the notebooks that come after `stage`, in the order of their names."""
    return sum(seconds for name, seconds in expected.items() if name > stage)
