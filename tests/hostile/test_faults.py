"""Full disks, too little memory, signals, clocks, rivals, files that vanish: a sentence, and the same bytes later."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.hostile.conftest import Whole
from tests.hostile.tiny_runs import PARAMETERS, STAGES, Attempt, Place, is_sentence, tables

pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("usual_signals")]  # children inherit what is ignored
Outcome = Callable[[str, int, str], None]
_BLOCK = 4096


def in_stage(attempt: Attempt, place: Place, stage: str, seconds: float = 2.0) -> bool:
    """Waits until `stage` is computed and its kernel has used some seconds of CPU. False if the call ended before."""

    def reached() -> bool:
        done = place.info.get("stages", {})
        current = bool(place.info) and next((name for name in STAGES if name not in done), "") == stage
        kernels = attempt.kernels() if current else []
        with contextlib.suppress(psutil.Error):
            return any(sum(one.cpu_times()[:2]) >= seconds for one in kernels)
        return False

    return attempt.wait_until(reached)


def finish(whole: Whole, place: Place) -> None:
    """The same command until it ends well, which it does at once."""
    status, errors = place.start().end()
    assert status == 0, errors
    assert whole.equals(place)


# ── signals ──


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels(
    number: signal.Signals, whole: Whole, new_place: Callable[[], Place], outcome: Outcome
) -> None:
    place, tried = new_place(), 0
    for stage in STAGES:
        attempt = place.start()
        assert in_stage(attempt, place, stage)
        attempt.process.send_signal(number)
        status, errors = attempt.end()
        assert status == 128 + number, errors
        assert "Traceback" not in errors
        assert place.info["status"] == "cancelled"
        assert list(place.temporary.iterdir()) == []
        tried += 1
    finish(whole, place)
    outcome(f"{number.name}, in every stage", tried, "status cancelled, no process or folder left, same bytes after")


def test_a_sweep_that_is_ended_cancels_its_conditions(
    whole: Whole, new_place: Callable[[], Place], tmp_path: Path, outcome: Outcome
) -> None:
    place = new_place()
    grid = {**PARAMETERS, "data": str(place.data), "seed": [0, 1]}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    command = [sys.executable, "-m", "crslib", "sweep", str(tmp_path / "grid.yaml"), "--reports", str(place.reports)]
    attempt = place.start(command)
    assert attempt.wait_until(lambda: len(attempt.kernels()) == 2)
    attempt.process.send_signal(signal.SIGTERM)
    status, errors = attempt.end()
    assert status == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    infos = [json.loads(path.read_text()) for path in place.reports.glob("runs/*/run.json")]
    assert [info["status"] for info in infos] == ["cancelled", "cancelled"]
    assert place.left() == []
    status, errors = place.start(command).end()
    assert status == 0, errors
    infos = [json.loads(path.read_text()) for path in place.reports.glob("runs/*/run.json")]
    assert [info["status"] for info in infos] == ["success", "success"]
    outcome("SIGTERM of a sweep of two conditions", 1, "both cancelled, no process or folder left, goes on after")


# ── disks ──


@pytest.fixture
def disk(whole: Whole, tmp_path: Path) -> Iterator[Place]:
    """A place on a small disk of its own; the test is skipped where none can be mounted."""
    (temporary := tmp_path / "t").mkdir()
    (folder := tmp_path / "d").mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs can be mounted here")
    yield Place(whole.place.data, folder / "r", temporary)
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(folder: Path, leave: int = 0) -> Path:
    """A file that takes all room of the disk of `folder` but `leave` bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * _BLOCK)
    os.truncate(filler, max(filler.stat().st_size - leave, 0))
    return filler


def test_a_full_disk(whole: Whole, disk: Place, outcome: Outcome) -> None:
    """Full before the start, then in every stage: at once, and with little room left."""
    tried = bitten = 0
    disk.reports.mkdir()
    for stage in ("plan", *STAGES):
        for leave in (0, 6 * _BLOCK):
            attempt = None
            if stage == "plan":
                filler = fill(disk.reports.parent, leave)
                attempt = disk.start()
            else:
                attempt = disk.start()
                if not in_stage(attempt, disk, stage, 1.0):
                    status, errors = attempt.end()
                    assert status == 0, errors
                    continue
                filler = fill(disk.reports.parent, leave)
            status, errors = attempt.end()
            tried += 1
            bitten += status != 0
            print(f"disk full in {stage}, {leave} left: {status} {errors.strip()[:200]}")
            if status != 0:
                assert is_sentence(errors), errors
                assert "No space left on device" in errors or "free space" in errors, errors
            filler.unlink()
    finish(whole, disk)
    assert bitten >= len(STAGES)  # with nothing left every stage fails
    outcome("disk full, at every stage (tmpfs)", tried, "one sentence, same bytes when there is room")


def test_files_that_may_not_grow(whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    """RLIMIT_FSIZE, where no disk can be mounted too: the largest file of the run may have a part of its size."""
    sizes = sorted(path.stat().st_size for path in whole.place.run.iterdir() if path.is_file())
    place, tried, bitten = new_place(), 0, 0
    for most in (sizes[0], sizes[len(sizes) // 2], sizes[-2]):
        command = [sys.executable, "-c", _LIMITED, str(most), *place.command()[3:]]
        status, errors = place.start(command).end()
        tried += 1
        bitten += status != 0
        print(f"files of at most {most} bytes: {status} {errors.strip()[:200]}")
        if status != 0:
            assert is_sentence(errors), errors
            assert "File too large" in errors, errors
    finish(whole, place)
    assert bitten  # no run gets by with its smallest file
    outcome("files may not grow (RLIMIT_FSIZE)", tried, "one sentence, same bytes without the limit")


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from crslib.cli.main import main
main(sys.argv[2:])
"""


# ── memory ──


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_too_little_memory(whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    """RLIMIT_AS of the kernel, lowered in every stage to what it has and a little more.

    Only after its imports: OpenBLAS asks for ever for memory that it does not get while it is loaded.
    """
    place, tried, ends = new_place(), 0, []
    for stage in STAGES:
        for more in (0, 64 * 2**20):
            attempt = place.start()
            if not in_stage(attempt, place, stage, 1.0) or not attempt.wait_until(lambda a=attempt: has_imported(a)):
                status, errors = attempt.end()
                assert status == 0, errors
                continue
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                kernel = attempt.kernels()[0]
                most = kernel.memory_info().vms + more
                resource.prlimit(kernel.pid, resource.RLIMIT_AS, (most, most))
            status, errors = attempt.end()
            tried += 1
            ends.append(errors.strip()[:160] or "it sufficed")
            print(f"memory in {stage}: {status} {errors.strip()[:300]}")
            if status != 0:
                assert is_sentence(errors), errors
                assert place.info["status"] == "error"
    finish(whole, place)
    assert tried == 2 * len(STAGES) and any(end != "it sufficed" for end in ends)
    outcome(
        "memory limit, in every stage (RLIMIT_AS)", tried, f"one sentence ({len(set(ends))} kinds), same bytes after"
    )


def has_imported(attempt: Attempt) -> bool:
    """Whether the kernel holds the last large library that it imports, and has gone on since."""
    for kernel in attempt.kernels():
        with contextlib.suppress(psutil.Error, OSError):
            if "libscipy_openblas" in Path(f"/proc/{kernel.pid}/maps").read_text():
                enough = attempt.cpu() + 2
                return attempt.wait_until(lambda enough=enough: attempt.cpu() > enough)
    return False


def test_the_system_ends_a_kernel_for_memory(whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    """A control group of 16 MB, where one can be made."""
    place = new_place()
    attempt = place.start()
    assert in_stage(attempt, place, "02_simulate", 3.0)
    with _small_group(attempt.kernels()[0].pid) as made:
        status, errors = attempt.end()
    if not made:
        pytest.skip("no control group can be made here")
    print(errors)
    assert status == 1
    assert is_sentence(errors), errors
    assert "memory ran out" in errors
    assert place.info["status"] == "error"
    finish(whole, place)
    outcome("ended by the system for memory (cgroup)", 1, "one sentence")


@contextlib.contextmanager
def _small_group(pid: int) -> Iterator[bool]:
    """Moves a process into a control group of 16 MB (version 1 or 2). Whether that was possible."""
    root = Path("/sys/fs/cgroup")
    first = (root / "memory").is_dir()
    group = (root / "memory" if first else root) / f"crs-hostile-{pid}"
    limits = ["memory.limit_in_bytes"] if first else ["memory.max", "memory.swap.max"]
    try:
        group.mkdir()
        for limit in limits:
            (group / limit).write_text(str(16 * 2**20))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield False
        return
    yield True
    with contextlib.suppress(OSError):
        group.rmdir()


# ── clocks, rivals ──

_BACKWARDS = """
import itertools, sys, time
from datetime import UTC, datetime, timedelta
from crslib.experiments import pipeline
real, looks = time.time, itertools.count()
time.time = lambda: real() - 3600 * next(looks)
pipeline.now = lambda: (datetime(2000, 1, 1, tzinfo=UTC) - timedelta(days=next(looks))).isoformat(timespec="seconds")
from crslib.cli.main import main
main(sys.argv[1:])
"""


def test_a_clock_that_goes_back(whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    """An hour with every look at it; and what earlier calls wrote has times in the future."""
    place = new_place()
    backwards = [sys.executable, "-c", _BACKWARDS, *place.command()[3:]]
    for stage in ("02_simulate", "03_evaluate"):
        attempt = place.start(backwards)
        assert in_stage(attempt, place, stage)
        attempt.process.kill()
        attempt.end()
        for path in place.run.iterdir():
            os.utime(path, (2**32, 2**32))  # the year 2106
    status, errors = place.start(backwards).end()
    assert status == 0, errors
    assert whole.equals(place)
    for path in place.run.iterdir():
        os.utime(path, (2**32, 2**32))
    finish(whole, place)
    assert {path.stat().st_mtime for path in place.run.glob("*.parquet")} == {2**32}, "nothing was computed again"
    outcome("clock going back, files of the future", 4, "same bytes, nothing computed twice")


def test_rivals(whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    """Three times the same command at once."""
    place = new_place()
    ends = [rival.end() for rival in [place.start() for _ in range(3)]]
    assert sorted(status != 0 for status, _ in ends) == [False, True, True]
    for status, errors in ends:
        if status != 0:
            assert is_sentence(errors), errors
            assert "is in use by another process" in errors
    assert whole.equals(place)
    outcome(
        "three writers at once", 3, f"one computes, {sum(status != 0 for status, _ in ends)} say in use; same bytes"
    )


# ── files that vanish ──

VANISH = {
    "journal.jsonl": "02_simulate",
    "run.json": "02_simulate",
    "profiles.parquet": "02_simulate",
    "dialogues.parquet": "03_evaluate",
    "the run's folder": "02_simulate",
    "the run's folder, renamed": "03_evaluate",
    "the kernel's private folder": "02_simulate",
}


@pytest.mark.parametrize("name", VANISH)
def test_files_that_vanish_midway(name: str, whole: Whole, new_place: Callable[[], Place], outcome: Outcome) -> None:
    place = new_place()
    attempt = place.start()
    seconds = random.Random(name).uniform(0.5, 6)
    assert in_stage(attempt, place, VANISH[name], seconds)
    if name == "the run's folder":
        shutil.rmtree(place.run)
    elif name == "the run's folder, renamed":
        place.run.rename(place.reports.parent / "elsewhere")
    elif name == "the kernel's private folder":
        for folder in place.temporary.iterdir():
            shutil.rmtree(folder)
    else:
        (place.run / name).unlink(missing_ok=True)
    status, errors = attempt.end()
    print(f"{name} vanishes: {status} {errors.strip()[:300]}")
    if status != 0:
        assert is_sentence(errors), errors
    status, errors = place.start().end()
    assert status == 0, errors
    assert tables(place.run) == whole.tables
    assert place.left() == []
    outcome(f"{name} vanishes midway", 1, "one sentence, or no harm; same bytes after")
