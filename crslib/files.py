"""Files that nobody ever sees half: each is written under a temporary name and then moved into place."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import polars as pl

from crslib.errors import CrsError

DAMAGED = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What Polars raises for a Parquet file that is missing or damaged: for some bytes it panics."""
Progress = Callable[[int, int], None]
"""Called with how much of the work is done, and how much there is in all."""


def no_progress(done: int, total: int) -> None:
    """Ignores the progress."""


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path that is renamed to `path` when the block succeeds, and deleted when it fails.

    Raises `CrsError` when the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise unwritable(path, error) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def unwritable(path: Path, error: Exception) -> CrsError:
    """The error for a write that failed."""
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return CrsError(f"cannot write {path}: {reason}; free space or choose a writable folder, then run the same again")


def check_writable(folder: Path) -> None:
    """Raises `CrsError` when `folder`, or the folder in which it would be created, is not writable."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise unwritable(folder, error) from None


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes a frame as Parquet, atomically."""
    with writing(path) as temporary:
        frame.write_parquet(temporary, compression="zstd", statistics=False)


def state(path: Path | int) -> tuple[int, int] | None:
    """What a file or folder is known by, whatever its name; None where there is none."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def moved(path: Path) -> CrsError:
    return CrsError(f"{path} was renamed or removed while it was written; put it back and run the same again")


def hold(file: IO[bytes], folder: Path) -> None:
    """Locks the file for this process. Waits up to ten seconds: the kernel of a killed run may live a moment longer."""
    end, pause = time.monotonic() + 10, 0.001
    while time.monotonic() < end:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(pause)
            pause = min(2 * pause, 0.1)  # short at first: two servers of one study wait for single records
    raise CrsError(f"{folder} is in use by another process; wait until it ends or stop it")


def held(path: Path) -> bool:
    """Whether a process holds the lock of this file (`hold`)."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file
        return False
    return False
