"""Mirrors of runs: what is lost with a machine goes on elsewhere, and a mirror that fails costs no dialogue."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from crslib.config import ROOT, resolve
from crslib.data import tables
from crslib.errors import CrsError
from crslib.experiments import mirror, pipeline, shards
from crslib.experiments.mirror import Mirror, mirrored
from crslib.simulation import Population, open_agents, simulate
from crslib.store import Run
from crslib.users import profiles
from tests.experiments.test_shards import profiles_of

NEWEST = "python:data/protocol/newest.py:reply"
LIGHT = {"n_profiles": 6, "max_turns": 6, "resample": 1, "user_model": "agenda"}
# A recommender who needs a moment for each answer.
SLOW = """
import time

def reply(turns):
    time.sleep({pause})
    return {{"text": "Do you know it? " * (1 + len(turns)), "items": []}}
"""


class Flaky(fs.FileSystemHandler):
    """The local file system, as it is while the network is gone: what is `broken`, by a part of its name, is refused.
    `listed`: names that it lists instead of those of its files."""

    def __init__(self) -> None:
        self.local, self.broken, self.tried = fs.LocalFileSystem(), "", 0
        self.listed: list[str] | None = None

    def _check(self, path: str) -> None:
        if self.broken and self.broken in path:
            self.tried += 1
            raise OSError("no route to host://me:secret@store")

    def get_type_name(self) -> str:
        return "flaky"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        return self.local.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        self._check(selector.base_dir)
        if self.listed is not None:
            return [fs.FileInfo(name, fs.FileType.File) for name in self.listed]
        return self.local.get_file_info(selector)

    def open_input_stream(self, path: str) -> Any:
        self._check(path)
        return self.local.open_input_stream(path, compression=None)

    def open_output_stream(self, path: str, metadata: object) -> Any:
        self._check(path)
        return self.local.open_output_stream(path, compression=None)

    def create_dir(self, path: str, recursive: bool) -> None:
        self.local.create_dir(path, recursive=recursive)

    def _unused(self, *given: object) -> None:
        raise AssertionError("a mirror only lists, reads and writes")

    delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = move = copy_file = _unused
    open_input_file = open_append_stream = _unused


@pytest.fixture
def flaky(monkeypatch: pytest.MonkeyPatch) -> Flaky:
    handler = Flaky()
    monkeypatch.setattr(mirror, "_opened", lambda uri: (fs.PyFileSystem(handler), uri))
    return handler


def silent(sentence: str) -> None:
    pytest.fail(f"it says {sentence!r}")


def record(dialogue_id: str, key: str = "k") -> dict[str, Any]:
    return {"key": key, "dialogue": {"dialogue_id": dialogue_id}}


def append(run: Run, *ids: str) -> None:
    with run.journal() as journal:
        for one in ids:
            journal.append(record(one))


def ids_of(run: Run) -> list[str]:
    with run.journal() as journal:
        return [one["dialogue"]["dialogue_id"] for one in journal.records]


def run_below(reports: Path, name: str = "a") -> Run:
    return Run(reports / "runs" / name)


def parts(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.rglob("journal-*.jsonl"))


def until(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.01)


# ── a run goes on elsewhere ──


def compute(given: dict[str, Any], reports: Path, uri: str, every: float = 0.05) -> Run:
    """Profiles and dialogues of a run with a mirror, without notebooks."""
    planned = pipeline.plan(given, reports)
    with mirrored(planned.run, uri, reports, silent, every), planned.run.lock():
        if not planned.run.has("profiles"):
            data = resolve("data")
            profiles.build(*tables.load(data), planned.parameters, tables.domain_of(data)).write(planned.run)
        parameters, population = shards.simulation_of(planned), Population.read(planned.run)
        with open_agents(parameters, population) as agents, planned.run.journal() as journal:
            simulate(population, *agents, parameters, journal).write(planned.run)
    return planned.run


def bytes_of(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.path.glob("*.parquet")}


def test_a_run_whose_machine_was_lost_goes_on_elsewhere_from_the_mirror(tmp_path: Path) -> None:
    """And its tables are, byte for byte, those of a run that nothing disturbed."""
    code, uri = tmp_path / "slow.py", (tmp_path / "a mirror").as_uri()
    code.write_text(SLOW.format(pause=0.2))
    given = {**LIGHT, "recommender_model": f"python:{code}:reply"}
    first, second, whole = (tmp_path / name for name in ("first", "second", "whole"))
    words = f"from tests.experiments.test_mirror import *; compute({given!r}, Path({str(first)!r}), {uri!r})"
    machine = subprocess.Popen([sys.executable, "-c", words], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    until(lambda: bool(parts(tmp_path / "a mirror")) or machine.poll() is not None)
    machine.send_signal(signal.SIGKILL)
    assert machine.wait() == -signal.SIGKILL
    saved = b"".join(parts(tmp_path / "a mirror"))
    assert 1 <= saved.count(b"\n") < 6
    resumed = compute(given, second, uri)
    made = (resumed.path / "journal.jsonl").read_bytes()
    assert made.startswith(saved)  # in this order, since there was one part at a time
    assert bytes_of(resumed) == bytes_of(compute(given, whole, str(tmp_path / "another")))
    assert sorted(b"".join(parts(tmp_path / "a mirror")).split(b"\n")) == sorted(made.split(b"\n"))


def test_a_file_system_of_fsspec_is_a_mirror(tmp_path: Path) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    given = {**LIGHT, "n_profiles": 2, "recommender_model": NEWEST}
    try:
        first = compute(given, tmp_path / "a", "memory://bucket/below", every=3600)  # one part, which keeps its order
        assert f"/bucket/below/runs/{first.path.name}/turns.parquet" in memory.find("/bucket")
        second = run_below(tmp_path / "b", first.path.name)
        with mirrored(second, "memory://bucket/below", tmp_path / "b", silent):
            pass
    finally:
        memory.store.clear()
    assert bytes_of(second) == bytes_of(first)
    assert second.info == first.info
    assert ids_of(second) == ids_of(first)


def test_a_shard_goes_on_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executed = profiles_of(monkeypatch, tmp_path)
    given = {"n_profiles": 4, "max_turns": 2, "user_model": "agenda", "recommender_model": NEWEST}
    part, folders = shards.Shard(1, 2), []
    for reports in (tmp_path / "a", tmp_path / "b"):
        planned = pipeline.plan(given, reports)
        with mirrored(shards.run_of(planned, part, reports), str(tmp_path / "m"), reports, silent):
            folders.append(shards.simulate_shard(planned, part, reports))
    assert executed == ["01_profiles"]  # once: the second machine got them
    assert (folders[0] / "journal.jsonl").read_bytes() == (folders[1] / "journal.jsonl").read_bytes()
    assert [path.name for path in (tmp_path / "m" / "shards" / planned.run_id).iterdir()] == ["1-of-2"]


def test_what_is_there_is_kept_and_what_two_machines_made_is_united(tmp_path: Path) -> None:
    here, there, target = run_below(tmp_path / "here"), run_below(tmp_path / "there"), str(tmp_path / "mirror")
    append(there, "d1", "d2")
    there.update(tag="there", status="success")
    (there.path / "report.html").write_text("report")
    with mirrored(there, target, tmp_path / "there", silent):
        pass
    append(here, "d2", "d3")
    here.update(tag="here", status="started")
    with mirrored(here, target, tmp_path / "here", silent):
        assert sorted(ids_of(here)) == ["d1", "d2", "d3"]
        assert here.info["tag"] == "here"
        assert (here.path / "report.html").read_text() == "report"
        append(there, "d4")
    with mirrored(there, target, tmp_path / "there", silent):
        assert sorted(ids_of(there)) == ["d1", "d2", "d3", "d4"]
    assert sum(part.count(b"\n") for part in parts(tmp_path / "mirror")) == 4  # none is copied twice


@pytest.mark.parametrize("end", [KeyboardInterrupt, CrsError])
def test_what_is_new_is_copied_however_the_run_ends(tmp_path: Path, end: type[BaseException]) -> None:
    run = run_below(tmp_path)
    with pytest.raises(end), mirrored(run, str(tmp_path / "m"), tmp_path, silent):
        append(run, "d1")
        raise end
    assert parts(tmp_path / "m")[0].startswith(b'{"key": "k"')


@pytest.mark.usefixtures("usual_signals")
def test_what_is_new_is_copied_when_the_run_is_told_to_end(tmp_path: Path) -> None:
    run = run_below(tmp_path)
    with pytest.raises(SystemExit), mirrored(run, str(tmp_path / "m"), tmp_path, silent):
        append(run, "d1")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert len(parts(tmp_path / "m")) == 1


# ── a mirror that fails ──


def test_a_mirror_that_fails_for_a_while_is_said_once_and_complete_at_the_end(tmp_path: Path, flaky: Flaky) -> None:
    run, said = run_below(tmp_path), list[str]()
    with mirrored(run, str(tmp_path / "m"), tmp_path, said.append, every=0.01):
        flaky.broken = "journal"
        append(run, "d1")
        until(lambda: flaky.tried > 2)
        flaky.broken = ""
        append(run, "d2")
        until(lambda: b"d2" in b"".join(parts(tmp_path / "m")))
    assert said == ["the mirror cannot be written (no route to host://…@store); the run goes on, and it is tried again"]
    assert b"".join(parts(tmp_path / "m")) == (run.path / "journal.jsonl").read_bytes()


def test_a_complete_run_whose_mirror_is_not_ends_with_one_sentence(tmp_path: Path, flaky: Flaky) -> None:
    run = run_below(tmp_path)
    sentence = (
        r"^all is computed, but the mirror of .*runs/a lacks what is new \(no route .*\); the same command copies it$"
    )
    with pytest.raises(CrsError, match=sentence), mirrored(run, str(tmp_path / "m"), tmp_path, silent):
        flaky.broken = "journal"
        append(run, "d1")
    assert ids_of(run) == ["d1"]


def test_the_error_of_a_run_is_not_hidden_by_that_of_its_mirror(tmp_path: Path, flaky: Flaky) -> None:
    said = list[str]()
    run = run_below(tmp_path)
    with pytest.raises(CrsError, match=r"^the disk$"), mirrored(run, str(tmp_path / "m"), tmp_path, said.append):
        flaky.broken = "journal"
        append(run, "d1")
        raise CrsError("the disk")
    assert len(said) == 1
    assert said[0].startswith(f"the mirror of {run.path} lacks what is new (no route")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("nonsense://me:secret@x/y?key=secret", "nonsense"),
        ("s3://me:secret@a bucket?key=secret", "Cannot parse URI"),
        ("file://", "File URI"),
        ("file:///proc/none", ""),
        ("/proc/none", ""),
    ],
)
def test_a_mirror_that_cannot_be_had_is_an_error_before_anything_starts(tmp_path: Path, uri: str, reason: str) -> None:
    pytest.importorskip("fsspec")
    with (
        pytest.raises(CrsError, match=rf"^no mirror at .*{reason}.*; check the URI, its keys and") as error,
        mirrored(run_below(tmp_path), uri, tmp_path, silent),
    ):
        pytest.fail("it starts")
    assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_run_json_names_no_table_that_is_not_there(tmp_path: Path, flaky: Flaky) -> None:
    run, target = run_below(tmp_path), tmp_path / "m"
    run.update(status="started")
    (run.path / "turns.parquet").write_bytes(b"turns")
    flaky.broken = "turns"
    copy = Mirror(run, fs.PyFileSystem(flaky), str(target))
    with pytest.raises(OSError, match="no route"):
        copy.push()
    assert not (target / "run.json").exists()
    flaky.broken = ""
    copy.push()
    assert (target / "run.json").read_bytes() == (run.path / "run.json").read_bytes()


# ── the journal, in parts ──


def test_only_new_and_whole_lines_are_copied(tmp_path: Path) -> None:
    run, target = run_below(tmp_path), tmp_path / "m"
    copy, file = Mirror(run, fs.LocalFileSystem(), str(target)), run.path / "journal.jsonl"
    copy.push()
    append(run, "d1")
    with file.open("ab") as journal:
        journal.write(b'{"key": "k", "dia')
    copy.push()
    copy.push()
    assert [part.count(b"\n") for part in parts(target)] == [1]
    append(run, "d2")  # whoever opens a journal drops half a line
    copy.push()
    assert sorted(b"".join(parts(target)).split(b"\n")) == sorted(file.read_bytes().split(b"\n"))
    assert len(parts(target)) == 2


def test_a_journal_that_was_written_anew_is_copied_from_its_beginning(tmp_path: Path) -> None:
    """As by `keep_only`, which drops what is of no use; meanwhile it may have grown beyond its former length."""
    run, target = run_below(tmp_path), tmp_path / "m"
    copy, file = Mirror(run, fs.LocalFileSystem(), str(target)), run.path / "journal.jsonl"
    append(run, "a", "bb")
    copy.push()
    file.unlink()
    append(run, "bb", "ccc", "dddd")
    copy.push()
    assert sorted(part.count(b"\n") for part in parts(target)) == [2, 2]
    other = run_below(tmp_path / "elsewhere")
    Mirror(other, fs.LocalFileSystem(), str(target)).fetch(silent)
    assert sorted(ids_of(other)) == ["a", "bb", "ccc", "dddd"]


def test_a_large_journal_is_copied_in_parts_of_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_PART_BYTES", 100)
    run, target = run_below(tmp_path), tmp_path / "m"
    append(run, *(f"d{n}" for n in range(9)))
    Mirror(run, fs.LocalFileSystem(), str(target)).push()
    assert [part.count(b"\n") for part in parts(target)] == [3, 3, 3]  # three lines are the first 100 bytes or more
    assert all(part.startswith(b"{") and part.endswith(b"}\n") for part in parts(target))


def test_damaged_lines_and_a_damaged_run_json_are_said_and_left_out(tmp_path: Path) -> None:
    target, run, said = tmp_path / "m", run_below(tmp_path), list[str]()
    target.mkdir()
    (target / "run.json").write_text('{"status": "succ')
    (target / "journal.jsonl").write_text('{"key": "k", "dialogue": {"dialogue_id": "d1"}}\n{"key": "k"}\n[1]\n{"ke')
    Mirror(run, fs.LocalFileSystem(), str(target)).fetch(said.append)
    assert ids_of(run) == ["d1"]
    assert run.info == {}
    assert said == [
        f"3 lines of the journal in the mirror of {run.path} are damaged and left out",
        f"run.json in the mirror of {run.path} is damaged; what it told is computed again",
    ]


# ── names ──

PIECES = st.sampled_from(["..", ".", "/", "\\", "\0", "\n", "lock", "run.json", "journal.jsonl", "~", "C:", "a" * 120])
NAMES = st.lists(st.lists(PIECES | st.text(max_size=5), max_size=4).map("".join), max_size=5)


@given(NAMES)
def test_no_name_in_a_mirror_leads_out_of_the_runs_folder(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        reports = Path(folder, "reports")
        run, listing = run_below(reports), Everything()
        listing.listed = names
        Mirror(run, fs.PyFileSystem(listing), "bucket").fetch(lambda sentence: None)
        written = {path for path in Path(folder).rglob("*") if path.is_file()}
        assert {path.parent for path in written} <= {run.path}
        assert not written or (run.path / "lock").read_bytes() == b""
        named = {name.rpartition("/")[2] for name in names}
        assert {path.name for path in written} <= named | {"lock", "journal.jsonl"}


class Everything(Flaky):
    """Has a file of any name."""

    def open_input_stream(self, path: str) -> Any:
        assert path.startswith("bucket/")
        assert path.count("/") == 1
        return pa.PythonFile(io.BytesIO(b"{}"), mode="r")


def test_what_belongs_to_the_machine_is_neither_copied_nor_fetched(tmp_path: Path) -> None:
    run, target = run_below(tmp_path), tmp_path / "m"
    with run.lock():
        for name in (".turns.parquet.abcdefgh", "turns.parquet"):
            (run.path / name).write_bytes(b"1")
        (run.path / "folder").mkdir()
        Mirror(run, fs.LocalFileSystem(), str(target)).push()
    assert [path.name for path in target.iterdir()] == ["turns.parquet"]
