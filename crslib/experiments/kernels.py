"""One notebook, executed by papermill in a kernel of its own, and what is said of a kernel that dies.

A kernel is a process: the system ends it when memory runs out, and a library can end it with a failed assertion. All
that it needs outside of the run's folder (sockets, IPython's profile) lies in one private folder, which goes with it.
Knows neither runs nor parameters.
"""

import contextlib
import fcntl
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.files import unwritable

_PREFIX = "crs-kernel-"
_MAX_SOCKET_FOLDER = 70  # bytes: macOS takes paths of 103, of which `/crs-kernel-12345678/k-1` are 24
_LESS_MEMORY = "lower width or n_ctx, or end other programs"
_CAUSES: dict[int, str] = {
    signal.SIGKILL: f"the system does that when memory runs out, if nobody else did; {_LESS_MEMORY}",
    signal.SIGTERM: "somebody ended it",
    signal.SIGILL: "a package was built for another CPU; install it again on this machine",
    signal.SIGBUS: "a file that it was reading was cut, or the disk is full; leave its files alone or free space",
}
_FAILED = f"a library failed, for lack of memory or on damaged weights; {_LESS_MEMORY}, or use other files"
_EXITED = "it could not start, or a library ended it; mend what it says"

logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it would log of a dead kernel is in our sentence


class NotebookError(CrsError):
    """The error of a notebook that failed. `traceback` is that of its kernel, for `run.json`."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


def notebook_path(name: str) -> Path:
    """The path of the source notebook `name`."""
    return ROOT / "notebooks" / f"{name}.ipynb"


def execute_notebook(name: str, folder: Path, parameters: Mapping[str, Any]) -> None:
    """Executes notebook `name` into `folder` in a kernel of its own, over IPC, because parallel runs would compete for
    TCP ports. It is asked to end, which takes it half a second, so that what code of one's own does at the end is done.

    Raises `NotebookError` when a cell fails, `CrsError` when the kernel dies or the folder cannot be written.
    """
    with _private_folder() as private, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kernels warn about frontends without subshells
        files = {"transport": "ipc", "ip": str(private / "k"), "connection_file": str(private / "kernel.json")}
        observed = _observed(private)
        try:
            papermill.execute_notebook(
                _literal(notebook_path(name)),
                _literal(folder / f"{name}.ipynb"),
                parameters=dict(parameters),
                kernel_name="python3",
                cwd=str(ROOT / "notebooks"),
                progress_bar=False,
                request_save_on_cell_execute=False,
                config=Config(KernelManager=files),
                kernel_manager_class=observed,
                extra_arguments=[
                    "--IPKernelApp.log_level=50",  # kernels log an error about the signal that ends them
                    f"--IPKernelApp.ipython_dir={private}",  # no person's start-up files, and no HOME
                ],
            )
        except PapermillExecutionError as error:
            raise NotebookError(_sentence(name, error), _without_colours("\n".join(error.traceback))) from None
        except RuntimeError as error:  # nbclient's and jupyter_client's errors of a kernel
            if observed.status is None:
                raise CrsError(f"the kernel of {name} does not answer ({error}); run the same again") from None
            for_memory = observed.status == -signal.SIGKILL and _memory()[1] > observed.killed
            cause = f"memory ran out; {_LESS_MEMORY}" if for_memory else ""
            what = f"the kernel of {name}{_last_words(observed.printed)}"
            raise CrsError(death(what, observed.status, observed.free, cause)) from None
        except OSError as error:
            raise _unwritable(name, folder, error) from None


def _sentence(name: str, error: PapermillExecutionError) -> str:
    """What went wrong in a cell: our own sentence, or what another error says."""
    message = " ".join(error.evalue.split())
    if error.ename == "CrsError":
        return message
    if "Memory" in error.ename:
        message = f"{message} (memory does not suffice; {_LESS_MEMORY})".strip()
    elif not message and error.ename == "CellExecutionError":  # the kernel was too broken to say what it was
        message = f"no reason given (memory may not have sufficed; {_LESS_MEMORY})"
    return f"{name} failed: {error.ename}: {message}"


# ── kernels that die ──


class _Reporting(AsyncKernelManager):
    """A kernel, with what is known of its end. nbclient asks every second whether it is alive.

    `status`: the exit status of its process, negative for a signal; None while it lives. `free`: bytes of memory that
    were free when it last lived. `killed`: processes that the system had ended for lack of memory when it began.
    `printed`: the file of what it prints beside its messages, such as the last words of a library.
    """

    printed: Path
    status: int | None = None
    free: int
    killed: int

    async def _async_is_alive(self) -> bool:
        kind = type(self)
        alive = await super()._async_is_alive()
        if alive:
            kind.free, _ = _memory()
        elif self.provisioner is not None and kind.status is None:
            kind.status = await self.provisioner.poll()
        return alive

    is_alive = _async_is_alive

    async def _async_start_kernel(self, **given: Any) -> None:
        environment = {"OPENBLAS_NUM_THREADS": "1", **os.environ}  # figures then depend on no number of cores
        with type(self).printed.open("wb") as printed:
            await super()._async_start_kernel(stdout=printed, stderr=printed, **{"env": environment, **given})

    start_kernel = _async_start_kernel


def _observed(private: Path) -> type[_Reporting]:
    """A class for one kernel: nbclient makes the instance and drops it before it raises."""

    class Observed(_Reporting):
        printed = private / "printed"
        free, killed = _memory()

    return Observed


def _last_words(printed: Path) -> str:
    """The first complaint that a kernel printed, or else its last line, in brackets; nothing where there is none."""
    try:
        lines = [" ".join(line.split()) for line in printed.read_text(encoding="utf-8", errors="replace").split("\n")]
    except OSError:
        return ""
    complaints = (line for line in lines if re.search("assert|error|abort|terminate|fatal|memory", line, re.IGNORECASE))
    said = next(complaints, next((line for line in reversed(lines) if line), ""))
    return f" (it said: {said[:200]})" if said else ""


def _memory() -> tuple[int, int]:
    """Bytes of memory that are free, and how many processes the system has ended because it ran out (0: not known)."""
    killed = 0
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").split("\n")
        killed = int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
    return psutil.virtual_memory().available, killed


def death(what: str, status: int, free: int | None = None, cause: str = "") -> str:
    """One sentence about a process that died: how, the likely cause, and what to do.

    `status`: its exit status, negative for a signal. `free`: bytes of memory that were free then. `cause`: if known.
    """
    names = {int(each): each.name for each in signal.Signals}
    how = f"signal {-status} ({names.get(-status, 'real-time')})" if status < 0 else f"exit status {status}"
    memory = f" with {free / 2**30:.1f} GB of memory free" if free is not None else ""
    cause = cause or _CAUSES.get(-status, _FAILED if status < 0 else _EXITED)
    return f"{what} was ended by {how}{memory}: {cause}, and run the same again: what is finished is kept"


def _unwritable(name: str, folder: Path, error: OSError) -> CrsError:
    """The error for a notebook that could not be executed or stored; it names the place that refused."""
    place = Path(os.fsdecode(error.filename)) if error.filename else folder
    if folder in (place, *place.parents):
        return unwritable(folder, error)
    remedy = "set HOME to a writable folder" if _home() in (place, *place.parents) else "make it accessible"
    return CrsError(f"cannot start the kernel of {name}: {place}: {error.strerror}; {remedy}, then run the same again")


def _home() -> Path:
    return Path(os.path.expanduser("~"))


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `SystemExit` inside, once, so that what is open is closed and recorded.

    A signal that is ignored (as `nohup` does) stays ignored; other threads than the main one change nothing.
    """

    def end(number: int, _: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        wanted = (signal.SIGTERM, signal.SIGHUP)
        before = {each: signal.getsignal(each) for each in wanted if signal.getsignal(each) == signal.SIG_DFL}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


# ── the private folder ──


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A new folder for a kernel, locked by this process while it exists. Those of killed processes are removed first.

    Raises `CrsError` when there is no place for it.
    """
    parent = Path(_socket_folder())
    _remove_abandoned(parent)
    try:
        folder, handle = _new_folder(parent)
    except OSError as error:
        raise unwritable(parent, error) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _new_folder(parent: Path) -> tuple[Path, int]:
    """A new folder and the open file that holds its lock."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        with contextlib.suppress(FileNotFoundError):  # taken for abandoned before it was locked
            handle = os.open(folder, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            if folder.exists():
                return folder, handle
            os.close(handle)


def _remove_abandoned(parent: Path) -> None:
    """Removes the folders of this user's kernels that no living process holds."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its owner lives
                if os.fstat(handle).st_uid == os.getuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _socket_folder() -> str:
    """Where the sockets of a kernel can lie: their paths have at most some 100 bytes, and TMPDIR may be longer.

    Raises `CrsError` when no usual folder for temporary files is short enough and writable.
    """
    folders = (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")
    for folder in folders:
        if len(os.fsencode(folder)) <= _MAX_SOCKET_FOLDER and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise CrsError(
        f"{folders[0]} is too long for the sockets of a kernel; set TMPDIR to a writable folder of a shorter path"
    )


# ── texts ──


def _literal(path: Path) -> str:
    """A path in which papermill fills in nothing."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
