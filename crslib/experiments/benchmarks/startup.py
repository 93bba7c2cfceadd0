"""What a command and a notebook spend before they begin their work: in seconds, and in seconds of a core, which a busy
machine leaves as they are. Profiles and agents are not in it."""

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import perf_counter

import nbformat
import polars as pl
from jupyter_client.manager import start_new_kernel

from crslib.config import ROOT
from crslib.experiments.kernels import notebook_path
from crslib.files import Progress, no_progress

_LIGHT = ("-p", "weights=Q8_0", "-p", "user_model=agenda", "-p", "n_profiles=4")


def measure(times: int, progress: Progress = no_progress) -> pl.DataFrame:
    """The least of `times` calls of each part: (part, seconds, core_seconds)."""
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
        progress(done, len(parts))
        took = [_timed(call) for _ in range(times)]
        rows.append((part, *(min(values) for values in zip(*took, strict=True))))
    progress(len(parts), len(parts))
    return pl.DataFrame(rows, schema=["part", "seconds", "core_seconds"], orient="row")


def lines(figures: pl.DataFrame) -> list[str]:
    """The rows of `measure` as text."""
    return [f"{part:38}  {seconds:6.2f} s  {core:6.2f} s of a core" for part, seconds, core in figures.iter_rows()]


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


def _kernel() -> None:
    manager, client = start_new_kernel(kernel_name="python3")
    client.stop_channels()
    manager.shutdown_kernel()
