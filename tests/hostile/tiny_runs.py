"""Tiny runs as processes that can be watched, stopped and compared: real models and notebooks, few items and turns."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import psutil

from crslib.config import ROOT, RunParameters

STAGES = tuple(RunParameters().stages)
PARAMETERS: Mapping[str, object] = {
    "n_profiles": 4,
    "min_k": 3,
    "max_turns": 3,
    "max_tokens": 6,
    "n_ctx": 512,
    "width": 2,
    "threads": 1,
    "resample": 1,
    "n_bootstrap": 100,
    "weights": "Q8_0",
    "title_model": 0,  # reading all titles takes minutes
    "title_base": 0,
}
_PATIENCE = 900  # seconds that anything may take on a busy machine


def small_data(folder: Path) -> Path:
    """The 400 most rated items of the built-in data and 40 of their users, in a new `folder`."""
    folder.mkdir()
    items = pl.read_parquet(ROOT / "data" / "items.parquet")
    items = items.sort("n_ratings", "item_id", descending=[True, False]).head(400)
    ratings = pl.read_parquet(ROOT / "data" / "ratings.parquet").join(items, on="item_id", how="semi")
    users = ratings.group_by("user_id").len().filter(pl.col("len") >= 60).sort("user_id").head(40)
    items.write_parquet(folder / "items.parquet")
    ratings.join(users, on="user_id", how="semi").write_parquet(folder / "ratings.parquet")
    return folder


@dataclass
class Attempt:
    """One call of `crs run`, with all its processes, found by a variable of their environment."""

    process: subprocess.Popen[str]
    mark: str
    seconds: dict[int, float] = field(default_factory=dict)  # of CPU, by process

    def living(self) -> list[psutil.Process]:
        """The process of the call and its children."""
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def kernels(self) -> list[psutil.Process]:
        """The living kernels of this call."""
        return [one for one in self.living() if any("ipykernel" in word for word in words(one))]

    def cpu(self) -> float:
        """Seconds of CPU that all its processes have used, those that have ended included."""
        for one in self.living():
            with contextlib.suppress(psutil.Error):
                times = one.cpu_times()
                self.seconds[one.pid] = times.user + times.system
        return sum(self.seconds.values())

    def wait_until(self, reached: Callable[[], bool]) -> bool:
        """Waits until something is `reached`; False if the call ended before."""
        for _ in range(_PATIENCE * 10):
            if self.process.poll() is not None:
                return False
            if reached():
                return True
            time.sleep(0.1)
        raise AssertionError("nothing happens any more")

    def end(self) -> tuple[int, str]:
        """Waits for the end of the call and of all its processes. Its exit status and what it wrote on stderr."""
        _, errors = self.process.communicate(timeout=_PATIENCE)
        for _ in range(_PATIENCE):
            if not processes(self.mark):
                return self.process.returncode, errors
            time.sleep(0.1)
        raise AssertionError(f"orphans: {[words(one) for one in processes(self.mark)]}")


def processes(mark: str) -> list[psutil.Process]:
    """The living processes that have `mark` in their environment."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if one.environ().get("CRS_HOSTILE") == mark and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def words(process: psutil.Process) -> list[str]:
    """Its command line; empty when it has ended."""
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@dataclass(frozen=True)
class Place:
    """Where tiny runs are computed: data, a folder of reports, a folder of temporary files."""

    data: Path
    reports: Path
    temporary: Path

    def command(self, **parameters: object) -> list[str]:
        """`crs run` here. `parameters`: other than `PARAMETERS`."""
        given = {**PARAMETERS, "data": self.data, **parameters}
        pairs = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
        return [sys.executable, "-m", "crslib", "run", *pairs, "--reports", str(self.reports)]

    def start(self, command: Sequence[str] = ()) -> Attempt:
        """Starts the tiny run, or another `command` that computes it."""
        mark = uuid.uuid4().hex
        environment = {**os.environ, "CRS_HOSTILE": mark, "TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            command or self.command(),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Attempt(process, mark)

    @property
    def run(self) -> Path:
        """The folder of the only run here, once there is one."""
        return next(iter((self.reports / "runs").glob("*")), self.reports / "runs" / "none")

    @property
    def info(self) -> dict:
        """What `run.json` says; empty where there is none."""
        with contextlib.suppress(OSError):
            return json.loads((self.run / "run.json").read_text())
        return {}

    def left(self) -> list[str]:
        """What does not belong here after a run: temporary folders and files."""
        return sorted(str(path) for path in [*self.temporary.iterdir(), *self.reports.rglob(".*")])


def tables(run: Path) -> dict[str, bytes]:
    """The bytes of all tables of a run, by name."""
    return {path.name: path.read_bytes() for path in sorted(run.glob("*.parquet"))}


def dialogues(run: Path) -> list[str]:
    """The ids in a run's journal, sorted."""
    lines = (run / "journal.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["dialogue"]["dialogue_id"] for line in lines)


def is_sentence(errors: str) -> bool:
    """Whether what a failed call wrote is one sentence, no traceback."""
    lines = [line for line in errors.splitlines() if line.strip() and "Warning" not in line]
    return len(lines) == 1 and lines[0].startswith("crs: ")
