"""What is spent before the first word: by a command, by a notebook, and by a small run as a whole; in seconds, and in
seconds of a core, which a busy machine leaves as they are."""

import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter, sleep

import nbformat
import polars as pl
from jupyter_client.manager import start_new_kernel

from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.experiments.kernels import notebook_path
from crslib.files import Progress, no_progress

_SMALL = ("-p", "n_profiles=4")
_LIGHT = ("-p", "user_model=agenda", *_SMALL)


def measure(times: int, progress: Progress = no_progress) -> pl.DataFrame:
    """The least of `times` calls of each part: (part, seconds, core_seconds; null of a run). Raises `CrsError` where a
    run fails."""
    parts: dict[str, Callable[[], None]] = {
        "crs --help": lambda: _python("-m", "crslib", "--help"),
        "crs run --help": lambda: _python("-m", "crslib", "run", "--help"),
        "crs run --dry-run, that is all checks": lambda: _python("-m", "crslib", "run", "--dry-run", *_LIGHT),
        "a notebook's kernel": _kernel,
        **{
            f"imports of {name}": partial(_python, "-c", imports(name))
            for name in ("01_profiles", "02_simulate", "03_evaluate")
        },
    }
    rows = []
    for done, (part, call) in enumerate(parts.items()):
        progress(done, len(parts) + 1)
        took = [_timed(call) for _ in range(times)]
        rows.append((part, *(min(values) for values in zip(*took, strict=True))))
    progress(len(parts), len(parts) + 1)
    runs = [_run() for _ in range(times)]
    rows += [(part, min(run[part] for run in runs), None) for part in runs[0]]
    progress(len(parts) + 1, len(parts) + 1)
    return pl.DataFrame(rows, schema=["part", "seconds", "core_seconds"], orient="row")


def lines(figures: pl.DataFrame) -> list[str]:
    """The rows of `measure` as text."""
    return [
        f"{part:38}  {seconds:6.2f} s" + (f"  {core:6.2f} s of a core" if core is not None else "")
        for part, seconds, core in figures.iter_rows()
    ]


def imports(notebook: str) -> str:
    """All lines of a notebook that import something."""
    cells = nbformat.read(notebook_path(notebook), as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return "\n".join(re.findall(r"^(?:import|from) .*$", code, re.M))


def _timed(call: Callable[[], None]) -> tuple[float, float]:
    started, before = perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    call()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return perf_counter() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _run() -> dict[str, float]:
    """Seconds of `crs run` with four people until its agents are open, which its progress tells, and until its end."""
    words = [sys.executable, "-m", "crslib", "run", *_SMALL]
    with tempfile.TemporaryDirectory() as reports, tempfile.TemporaryFile() as printed:
        started, first = perf_counter(), 0.0
        with subprocess.Popen([*words, "--reports", reports], cwd=ROOT, stdout=printed, stderr=printed) as process:
            while process.poll() is None:
                if not first and any(Path(reports).glob("runs/*/progress.json")):
                    first = perf_counter() - started
                sleep(0.01)
        whole = perf_counter() - started
        if process.returncode or not first:
            printed.seek(0)
            raise CrsError(f"a run of four people fails: {printed.read().decode(errors='replace').strip()[-300:]}")
    return {"a run of 4 people until it can talk": first, "the whole of it": whole}


def _kernel() -> None:
    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)  # it warns of TCP
    client.stop_channels()
    manager.shutdown_kernel()
