"""Kernels that die are one sentence, signals end what is open, and what killed processes left is removed."""

import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import nbformat
import psutil
import pytest

from crslib.errors import CrsError
from crslib.experiments import kernels


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Executes a notebook of one cell and returns what it printed; its private folder is then gone."""
    folder, temporary = tmp_path / "f", tmp_path / "t"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(kernels, "notebook_path", lambda name: tmp_path / f"{name}.ipynb")
    monkeypatch.setattr(kernels, "_socket_folder", lambda: str(temporary))

    def run(code: str) -> str:
        cells = [nbformat.v4.new_code_cell(source) for source in ("x = 1", code)]
        cells[0].metadata["tags"] = ["parameters"]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
        nbformat.write(notebook, tmp_path / "02_tiny.ipynb")
        try:
            kernels.execute_notebook("02_tiny", folder, {"x": 2})
        finally:
            assert not list(temporary.iterdir())
        return nbformat.read(folder / "02_tiny.ipynb", as_version=4).cells[-1].outputs[0].text

    return run


ENDS = {
    "os.kill(os.getpid(), 9)": r"signal 9 \(SIGKILL\) .*: the system does that when memory runs out, if nobody",
    "os.abort()": r"signal 6 \(SIGABRT\) .*: a library failed, for lack of memory or on damaged weights; lower width",
    "os.kill(os.getpid(), 7)": r"signal 7 \(SIGBUS\) .*: a file that it was reading was cut",
    "os._exit(3)": "exit status 3 .*: it could not start, or a library ended it",
}


@pytest.mark.notebook
@pytest.mark.parametrize("code", ENDS)
def test_a_kernel_that_dies_is_one_sentence(
    code: str, execute: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CrsError) as caught:
        execute(f"import os; {code}")
    sentence = str(caught.value)
    whole = rf"the kernel of 02_tiny was ended by {ENDS[code]}.*, and run the same again: what is finished is kept"
    assert re.fullmatch(whole, sentence), sentence
    assert re.search(r" with [\d.]+ GB of memory free: ", sentence)
    assert "with 0.0 GB" not in sentence
    assert "Kernel died" not in capfd.readouterr().err


@pytest.mark.notebook
def test_sums_of_a_kernel_do_not_depend_on_the_number_of_cores(
    execute: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    code = "import numpy, threadpoolctl as t; print({one['num_threads'] for one in t.threadpool_info()})"
    assert execute(code) == "{1}\n"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")  # who wants it otherwise gets it, where there are two
    assert execute("import os; print(os.environ['OPENBLAS_NUM_THREADS'])") == "2\n"


@pytest.mark.notebook
def test_code_of_ones_own_can_end_what_it_began(execute: Callable[[str], str], tmp_path: Path) -> None:
    code = f"log = open({str(tmp_path / 'log')!r}, 'w'); log.write('kept'); import atexit; atexit.register(log.close)"
    assert execute(f"{code}; print(x)") == "2\n"
    assert (tmp_path / "log").read_text() == "kept"


@pytest.mark.notebook
def test_the_last_words_of_a_library_are_in_the_sentence_and_nowhere_else(
    execute: Callable[[str], str], capfd: pytest.CaptureFixture[str]
) -> None:
    said = "ggml.c:7: GGML_ASSERT(n > 0) failed"
    with pytest.raises(CrsError) as caught:
        execute(f"import os; os.write(2, b'loading\\n{said}\\n#0 0x7f\\n'); os.abort()")
    assert f"the kernel of 02_tiny (it said: {said}) was ended by signal 6 (SIGABRT) with " in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.notebook
def test_a_kernel_that_the_system_ended_for_memory_says_so(
    execute: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's count of such ends is one more than when the kernel last lived."""
    dead = tmp_path / "dead"
    monkeypatch.setattr(kernels, "_memory", lambda: (5 * 2**28, 7 + dead.exists()))
    with pytest.raises(CrsError, match=r"SIGKILL\) with 1\.2 GB of memory free: memory ran out; lower width or n_ctx"):
        execute(f"import os; os.sync(); open({str(dead)!r}, 'w').close(); os.kill(os.getpid(), 9)")


def test_every_end_has_a_sentence() -> None:
    for status in range(-64, 256):
        sentence = kernels.death("x", status)
        assert re.match(rf"x was ended by (signal {-status} \([\w-]+\)|exit status {status}): \w", sentence), sentence
        assert sentence.endswith(", and run the same again: what is finished is kept")
    assert "(SIGKILL): the system does that when memory runs out" in kernels.death("x", -9)
    assert " with 1.5 GB of memory free: memory ran out, and run" in kernels.death("x", -9, 3 * 2**29, "memory ran out")


@pytest.mark.notebook
def test_memory_that_does_not_suffice_in_python_is_said(execute: Callable[[str], str]) -> None:
    with pytest.raises(CrsError, match=r"^02_tiny failed: MemoryError: \(memory does not suffice; lower width"):
        execute("bytearray(2**62)")


@pytest.mark.notebook
def test_a_kernel_needs_no_home_and_reads_no_start_up_files(
    execute: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = tmp_path / "home" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "mine.py").write_text("y = 'read'")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert execute("print('y' in dir(), x)") == "False 2\n"
    monkeypatch.setenv("HOME", os.devnull)  # nothing can be written below it
    assert execute("print(x)") == "2\n"


def test_the_place_that_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    refused = PermissionError(13, "Permission denied", str(tmp_path / "home" / ".local" / "share"))
    sentence = str(kernels._unwritable("02_simulate", tmp_path / "run", refused))
    assert sentence == (
        f"cannot start the kernel of 02_simulate: {tmp_path}/home/.local/share: Permission denied; set HOME to a "
        "writable folder, then run the same again"
    )
    inside = PermissionError(13, "Permission denied", str(tmp_path / "run" / "02_simulate.ipynb"))
    for error in (inside, OSError(28, "No space left on device")):
        sentence = str(kernels._unwritable("02_simulate", tmp_path / "run", error))
        assert sentence.startswith(f"cannot write {tmp_path}/run:")


# ── signals ──


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("usual_signals")
def test_a_signal_ends_what_is_open_once(number: signal.Signals) -> None:
    closed = []
    with pytest.raises(SystemExit) as caught, kernels.ended_by_signals():
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGTERM)  # impatience does not stop the closing
            closed.append(True)
    assert caught.value.code == 128 + number
    assert closed
    assert signal.getsignal(number) == signal.SIG_DFL


def test_ignored_signals_and_other_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with kernels.ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)

    def inside() -> None:
        with kernels.ended_by_signals():
            entered.append(signal.getsignal(signal.SIGTERM))

    entered: list[object] = []
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


# ── private folders ──


def test_only_own_folders_of_dead_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_socket_folder", lambda: str(tmp_path))
    abandoned = tmp_path / "crs-kernel-abandond"
    for folder in (abandoned, tmp_path / "crs-data", tmp_path / "target"):
        folder.mkdir()
        (folder / "file").touch()
    (tmp_path / "crs-kernel-symbolic").symlink_to(tmp_path / "target")
    (tmp_path / "crs-kernel-filename").touch()
    with kernels._private_folder() as held:
        assert not abandoned.exists()
        assert held.stat().st_mode & 0o077 == 0
        with kernels._private_folder() as second:
            assert held.exists() and second != held
        assert not second.exists()
    kept = {"crs-data", "target", "crs-kernel-symbolic", "crs-kernel-filename"}
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert (tmp_path / "crs-data" / "file").exists() and (tmp_path / "target" / "file").exists()


def test_folders_of_other_users_are_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (theirs := tmp_path / "crs-kernel-12345678").mkdir()
    me = os.getuid()
    monkeypatch.setattr(kernels.os, "getuid", lambda: me + 1)
    kernels._remove_abandoned(tmp_path)
    assert theirs.exists()


def test_a_folder_taken_for_abandoned_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp

    def made_and_lost(**given: str) -> str:
        folder = mkdtemp(**given)
        if not made:
            os.rmdir(folder)
        made.append(folder)
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", made_and_lost)
    folder, handle = kernels._new_folder(tmp_path)
    assert (len(made), str(folder)) == (2, made[1])
    kernels._remove_abandoned(tmp_path)
    assert folder.exists()
    os.close(handle)
    kernels._remove_abandoned(tmp_path)
    assert not folder.exists()


def test_memory_is_counted() -> None:
    free, killed = kernels._memory()
    assert 0 < free < psutil.virtual_memory().total
    assert killed >= 0
