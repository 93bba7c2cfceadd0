"""Caches, disk, memory, HOME and TMPDIR, data and runs."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from crslib import yaml_files
from crslib.config import ROOT, RunParameters
from crslib.errors import CrsError
from crslib.experiments.doctor.base import MIB, Finding, entries, line, size
from crslib.files import check_writable
from crslib.identity import file_sha256
from crslib.journal import record_in
from crslib.runs import scan
from crslib.store import Run

MEMORY = 1024 * MIB
"""Bytes of memory for a run: its peak is some 1,400 MiB, of which mapped weights can be read again."""
UNPREPARED, PREPARED = 1024 * MIB, 128 * MIB
"""Bytes of disk for a run: before the weights of both roles are measured, which writes each format, and after."""


def sizes(folders: list[Path]) -> Iterator[Finding]:
    """Where files collect, and how large they are."""
    for folder in folders:
        there = folder.is_dir()
        detail = f"{size(_size_of(folder))} in {folder}" if there else f"{folder} does not exist yet"
        yield Finding("caches", f"{folder.parent.name}/{folder.name}", "ok", detail)


def _size_of(folder: Path) -> int:
    """The bytes of all files below a folder; links are not followed."""
    return sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(folder) for name in names)


def disk(
    weights: Path, others: list[Path], free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
) -> Iterator[Finding]:
    """Free space where a run writes: in the cache of `weights` and in `others`, each file system once."""
    n_needed = PREPARED if entries(weights, "*.gguf") else UNPREPARED
    seen = set()
    for folder in [weights, *others]:
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if (device := existing.stat().st_dev) in seen:
            continue
        seen.add(device)
        n_free = free(existing)
        detail = f"{size(n_free)} free at {existing}"
        if n_free < n_needed:
            yield Finding(
                "machine", "disk", "broken", f"{detail}; a run needs {size(n_needed)}", "free some space", True
            )
        else:
            yield Finding("machine", "disk", "ok", detail, needed=True)


def available() -> int:
    """Bytes of memory that can be had now: of the machine, and of the container if that has less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:  # of cgroups, version 2
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # none, or "max": no limit
        return free
    return min(free, max(limit - used, 0))


def memory(n_bytes: int) -> Iterator[Finding]:
    """Whether there is memory for a run."""
    detail = f"{size(n_bytes)} available"
    if n_bytes < MEMORY:
        remedy = "end other programs, or run with -p width=4"
        yield Finding("machine", "memory", "broken", f"{detail}; a run needs {size(MEMORY)}", remedy, needed=True)
    else:
        yield Finding("machine", "memory", "ok", detail, needed=True)


def folders() -> Iterator[Finding]:
    """Whether HOME and TMPDIR are usable; a run does without HOME, JupyterLab writes below it."""
    from jupyter_core.paths import jupyter_runtime_dir

    given = os.environ.get("TMPDIR")
    used = Path(tempfile.gettempdir())
    usable = not given or used == Path(os.path.abspath(given))
    detail = f"temporary files lie in {used}" if usable else f"{given} is not usable; {used} is used instead"
    remedy = "" if usable else "set TMPDIR to a writable folder"
    yield Finding("machine", "TMPDIR", "ok" if usable else "broken", detail, remedy)
    runtime = Path(jupyter_runtime_dir())
    try:
        check_writable(runtime)
    except CrsError as error:
        yield Finding("machine", "HOME", "broken", str(error), "set HOME to a writable folder, for JupyterLab")
    else:
        yield Finding("machine", "HOME", "ok", f"JupyterLab's files can lie in {runtime}")


# ── data and reports ────────────────────────────────────────────────────────────────────────────────────────────


def tables(folder: Path) -> Iterator[Finding]:
    """Whether the tables, the statistics of human dialogues and the YAML files in the data folder can be read."""
    from crslib.data import tables as stored
    from crslib.metrics import reference

    remedy = f"take it from the repository again (git checkout -- {folder.name})"
    try:
        items, ratings = stored.load(folder)
    except CrsError as error:
        yield Finding("data", "catalogue", "broken", str(error), remedy, needed=True)
    else:
        yield Finding("data", "catalogue", "ok", f"{len(items):,} items, {len(ratings):,} ratings", needed=True)
    try:
        human = reference.read(folder / "human")
    except CrsError as error:
        yield Finding("data", "human", "broken", str(error), remedy, needed=True)
    else:
        yield Finding("data", "human", "ok", f"statistics of {len(human.facts.dialogue_ids):,} dialogues", needed=True)
    for path in sorted(folder.glob("*.yaml")):
        try:
            yaml_files.read(path)
        except CrsError as error:
            yield Finding("data", path.name, "broken", str(error), remedy)


def notebooks() -> Iterator[Finding]:
    """Whether the notebooks of a run are there and can be read."""
    for name in RunParameters().stages:
        path = ROOT / "notebooks" / f"{name}.ipynb"
        try:
            n_cells = len(json.loads(path.read_bytes())["cells"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            remedy = "take it from the repository again (git checkout -- notebooks)"
            detail = f"{path} cannot be read ({line(str(error))})"
            yield Finding("data", name, "broken", detail, remedy, needed=True)
        else:
            yield Finding("data", name, "ok", f"{n_cells} cells", needed=True)


def writable(reports: Path) -> Iterator[Finding]:
    """Whether runs can be written into `reports`."""
    try:
        check_writable(reports)
    except CrsError as error:
        yield Finding("reports", "reports", "broken", str(error), "choose another folder with --reports", needed=True)
    else:
        yield Finding("reports", "reports", "ok", f"{reports} can be written", needed=True)


def runs(reports: Path) -> Iterator[Finding]:
    """The runs below `reports`: how many, and which are broken."""
    skipped: list[str] = []
    found = scan(reports, skipped.append)
    for sentence in skipped:
        remedy = "delete this one file and give the run's command again: finished dialogues beside it are kept"
        yield Finding("reports", "run", "broken", sentence, remedy)
    unfinished = 0
    for each in found:
        run = each.run
        unfinished += each.status not in ("success", "by hand")
        if damage := _damage(run):
            remedy = "give the run's command again: what is whole is kept"
            yield Finding("reports", "run", "broken", f"{run.path}: {', '.join(damage)}", remedy)
    more = f", {unfinished} of them unfinished: their commands continue them" if unfinished else ""
    yield Finding("reports", "runs", "ok", f"{len(found)} runs{more}")


def _damage(run: Run) -> list[str]:
    """What is wrong with the files of a run that its `run.json` lists by hash, and with the lines of its journal."""
    found = []
    for files in run.info.get("files", {}).values():
        for name, sha256 in files.items():
            path = run.path / name
            if not path.is_file():
                found.append(f"{name} is gone")
            elif file_sha256(path) != sha256:
                found.append(f"{name} is not as it was made")
    journal = run.path / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.is_file() else []
    if torn := [str(number) for number, line in enumerate(lines, 1) if record_in(line) is None]:
        found.append(f"journal.jsonl is damaged in line {', '.join(torn[:5])}")
    return found
