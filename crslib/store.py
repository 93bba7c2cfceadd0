"""A run is a folder: `run.json`, Parquet tables, executed notebooks, `report.html`. No database file is used.

Each file is written under a temporary name and then moved into place, so nobody ever sees half a file. A dialogue is
appended to a journal as soon as it ends; a run that was killed continues from there.
"""

import contextlib
import fcntl
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path
from typing import IO, Any, cast

import polars as pl
from tqdm import tqdm

from crslib import json_files, schemas
from crslib.config import resolve
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


def read_parquet(path: Path, name: str) -> pl.DataFrame:
    """A Parquet file as table `name`. Raises `CrsError` when it is missing, damaged or of another schema."""
    try:
        frame = pl.read_parquet(path, glob=False)
    except FileNotFoundError:
        raise CrsError(f"{path} does not exist; run the step that makes table {name} first") from None
    except DAMAGED as error:
        reason = str(error).partition("\n")[0]
        raise CrsError(f"{path} is not a readable Parquet file ({reason}); run the step that makes it again") from None
    return schemas.check(frame, name)


class Run:
    """The folder of one run, and the only way to its files. `by_hand`: a person runs a notebook and sees progress.

    What writes raises `CrsError` when the folder that was there is renamed or removed: nothing is put in its place.
    """

    def __init__(self, path: Path, *, by_hand: bool = False) -> None:
        self.path, self.by_hand = path, by_hand
        self._folder = _state(path)

    @classmethod
    def open(cls, run_dir: str) -> "Run":
        """The run a notebook works on: folder `run_dir`, or `reports/by-hand` when a person leaves it empty."""
        return cls(Path(run_dir)) if run_dir else cls(resolve("reports/by-hand"), by_hand=True)

    @property
    def run_id(self) -> str:
        """The run's identity; `by-hand` for a notebook that a person runs."""
        return self.info.get("run_id", "by-hand")

    @property
    def info(self) -> dict[str, Any]:
        """The contents of `run.json`; empty before the first write. Raises `CrsError` when it is damaged."""
        if not os.path.exists(file := self.path / "run.json"):
            return {}
        remedy = "delete this one file and run the same again: finished dialogues beside it are kept"
        return cast(dict[str, Any], json_files.read_as(file, schemas.RUN, remedy))

    @property
    def outcome(self) -> dict[str, Any]:
        """As `info`; where `run.json` is damaged, only `error`, which says so."""
        try:
            return self.info
        except CrsError as error:
            return {"error": str(error)}

    def update(self, **fields: Any) -> None:
        """Sets top-level fields of `run.json`."""
        text = json.dumps({**self.info, **fields}, indent=2, ensure_ascii=False, allow_nan=False)
        self._check_in_place()
        with writing(self.path / "run.json") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def has(self, name: str) -> bool:
        """Whether table `name` exists."""
        return (self.path / f"{name}.parquet").exists()

    def read(self, name: str) -> pl.DataFrame:
        """Table `name` of `schemas.TABLES`."""
        return read_parquet(self.path / f"{name}.parquet", name)

    def write(self, name: str, frame: pl.DataFrame) -> None:
        """Writes table `name` after checking it against its schema."""
        self._check_in_place()
        write_parquet(schemas.check(frame, name), self.path / f"{name}.parquet")

    def _check_in_place(self) -> None:
        if self._folder not in (None, _state(self.path)):
            raise _moved(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the run for this process. Raises `CrsError` when another process holds it, and when the folder is
        renamed or removed meanwhile, whatever else went wrong then."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("wb")
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._folder = _state(self.path)
        with file:
            _lock(file, self.path)
            try:
                yield
            except Exception:
                self._check_in_place()
                raise

    @contextlib.contextmanager
    def journal(self, *, reuse: bool = False, valid: "Check | None" = None) -> Iterator["Journal"]:
        """The journal of finished dialogues, held by one process at a time.

        With `reuse` it takes over what another run in the same folder has finished under the same key. `valid`: as in
        `Journal`.
        """
        path = self.path / "journal.jsonl"
        others = [other for other in sorted(self.path.parent.glob("*/journal.jsonl")) if other != path] if reuse else ()
        with journal(path, others, self.run_id, valid) as opened:
            yield opened

    @property
    def reached(self) -> tuple[int, int, str]:
        """(done, total, what) as the run's process last reported; zeros before its first report."""
        try:
            last = json_files.read_as(self.path / "progress.json", schemas.PROGRESS, "it is written again")
        except CrsError:
            return 0, 0, ""
        return last["done"], last["total"], last["what"]

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A function `(done, total)` that shows progress: a bar for a person at the notebook, else `progress.json` for
        the process that waits (a lost update is no error)."""
        with tqdm(desc=what, unit="", leave=False, disable=not self.by_hand) as bar:

            def report(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)
                with contextlib.suppress(CrsError):
                    self._check_in_place()
                    with writing(self.path / "progress.json") as temporary:
                        temporary.write_text(json.dumps({"done": done, "total": total, "what": what}), encoding="utf-8")

            yield report


def _state(path: Path | int) -> tuple[int, int] | None:
    """What a file or folder is known by, whatever its name; None where there is none."""
    with contextlib.suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def _moved(path: Path) -> CrsError:
    return CrsError(f"{path} was renamed or removed while it was written; put it back and run the same again")


@contextlib.contextmanager
def journal(
    path: Path,
    others: Sequence[Path] = (),
    run_id: str = "",
    valid: "Check | None" = None,
    last: "Journal | None" = None,
) -> Iterator["Journal"]:
    """The journal in file `path`, a new one where there is none, held by one process at a time.

    `others`: journals from which `Journal.keep_only` may take records. `run_id`: the run whose journal it is. `valid`
    and `last`: as in `Journal`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise unwritable(path, error) from None
    with file:
        _lock(file, path.parent)
        yield Journal(path, file, others, run_id, valid, last)


def _lock(file: IO[bytes], folder: Path) -> None:
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


Check = Callable[[Mapping[str, Any]], bool]
"""Whether a record of a journal is one."""


class Journal:
    """Append-only JSON lines, each on disk before `append` returns. An incomplete last line is dropped.

    A line that is damaged, or whose record is not `valid`, is as if it were not there, and a line twice counts once; a
    warning names file and line.

    `last`: the journal of this file as it was read and written before. Its records are taken over where nobody else has
    written since; `changed` is whether somebody has.
    """

    def __init__(
        self,
        path: Path,
        file: IO[bytes],
        others: Sequence[Path] = (),
        run_id: str = "",
        valid: Check | None = None,
        last: "Journal | None" = None,
    ) -> None:
        self._path, self._file, self._others = path, file, others
        self.run_id = run_id
        self._waits = False  # whether `together` puts records on disk
        self._state = _written(file)  # before it is read: who edits it by hand does not wait for the lock
        self.changed = last is None or last._state != self._state
        if last is None or self.changed:
            self.records, self._lines, self._clean = self._read(valid)
        else:
            self.records, self._lines, self._clean = last.records, last._lines, last._clean

    def _read(self, valid: Check | None) -> tuple[list[dict[str, Any]], list[int], bool]:
        """The records, where each is in the file, and whether it holds nothing else."""
        self._file.seek(0)
        whole = self._file.read()
        lines = whole.split(b"\n")
        if lines.pop():
            self._file.truncate(whole.rfind(b"\n") + 1)
        numbered = dict(_records(self._path, lines, valid))
        return list(numbered.values()), list(numbered), len(numbered) == len(lines)

    @property
    def dialogue_ids(self) -> set[str]:
        """The dialogues that have ended."""
        return {record["dialogue"]["dialogue_id"] for record in self.records}

    def keep_only(self, key: str, valid: Check | None = None) -> None:
        """Drops the records of other keys: those of earlier parameters, when a cell of a notebook is run again, or of
        another run; and those that are not `valid`. A warning says which lines.

        Where none is left, the records of the first other journal with this key are copied, as far as it got; a journal
        that cannot be read is passed over with a warning.
        """
        keeps = [record["key"] == key and (valid is None or valid(record)) for record in self.records]
        records = list(compress(self.records, keeps))
        if dropped := [str(number) for number, keep in zip(self._lines, keeps, strict=True) if not keep]:
            lines = ", ".join(dropped[:5]) + (f" and {len(dropped) - 5} more" if len(dropped) > 5 else "")
            where = f"{self._path}: of no use here and dropped: line {lines}"
            _warn(f"{where} (other parameters, another run, a dialogue twice, or damaged)")
        if dropped or not self._clean:
            self.records, self._lines, self._clean = [], [], True
            self._file.truncate(0)
            for record in records:
                self.append(record)
        for other in self._others if not self.records else ():
            for record in _records_under(key, other, valid):
                self.append(record)
            if self.records:
                return

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record. Raises `CrsError` when it cannot be stored; earlier records stay intact."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        if _state(self._path) != _state(self._file.fileno()):
            raise _moved(self._path)
        size = os.fstat(self._file.fileno()).st_size
        try:
            left = memoryview(line.encode())
            while left:  # an unbuffered write may take only a part
                left = left[self._file.write(left) :]
            if not self._waits:
                os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(size)
            raise unwritable(self._path, error) from None
        self.records.append(dict(record))
        self._lines.append(self._lines[-1] + 1 if self._lines else 1)
        self._state = _written(self._file)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Records that are appended in the block are on disk when it ends, all after one wait.

        Raises `CrsError` when they cannot be stored: then none is, and the journal must be opened again.
        """
        size, self._waits = os.fstat(self._file.fileno()).st_size, True
        try:
            yield
        finally:
            self._waits = False
            try:
                if os.fstat(self._file.fileno()).st_size != size:
                    os.fsync(self._file.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                raise unwritable(self._path, error) from None


def _written(file: IO[bytes]) -> tuple[int, ...]:
    """What changes when somebody writes to a file, or puts another in its place."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _records(path: Path, lines: Sequence[bytes], valid: Check | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records in the lines of a journal by the line's number, without what `Journal` leaves out."""
    seen = set()
    for number, line in enumerate(lines, 1):
        if line in seen:
            _warn(f"{path}: line {number} repeats an earlier one and counts once")
            continue
        seen.add(line)
        record = record_in(line)
        if record is not None and (valid is None or valid(record)):
            yield number, record
        else:
            _warn(f"{path}: line {number} is damaged and left out; what it held is made or asked again")


def record_in(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None for a line that holds none."""
    try:
        record = json_files.parse(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("key"), str) else None


def _records_under(key: str, path: Path, valid: Check | None) -> Iterator[dict[str, Any]]:
    """The valid records of another run's journal if its first record has this key."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # the last one may be half written
    except OSError as error:
        _warn(f"{path} is not readable ({error.strerror}); it is passed over")
        return
    first = next(filter(None, map(record_in, lines)), None)
    if lines and first is None:
        _warn(f"{path} is no journal of a run; it is passed over")
    if first and first["key"] == key:
        yield from (one for _, one in _records(path, lines) if one["key"] == key and (not valid or valid(one)))


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=2)


def registry(reports: Path, report: Callable[[str], None] = warnings.warn) -> pl.DataFrame:
    """The runs below `reports`, newest last: run_id, status, started, finished, condition, path.

    `report` gets a sentence about each `run.json` that is damaged or was not written by `crs`; it is left out.
    """
    names = ("run_id", "status", "started", "finished", "condition", "path")
    rows = []
    for file in sorted(reports.rglob("run.json")):
        try:
            listed = json_files.read_as(file, schemas.LISTED, "damaged, or of no run that `crs` made, it is left out")
        except CrsError as error:
            report(str(error))
            continue
        about = {**listed["parameters"], **listed, "path": str(file.parent)}
        rows.append([about.get(name) for name in names])
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row").sort(
        "started", "run_id", nulls_last=True
    )


def read_sweep(path: Path) -> tuple[dict[str, Any], list[tuple[str, Run]]]:
    """The contents of `sweep.json` in folder `path`, and of each condition its label and its run.

    Raises `CrsError` when the file is missing or damaged.
    """
    file = path / "sweep.json"
    if not file.is_file():
        raise CrsError(f"{path} holds no readable sweep.json; make one with `crs sweep GRID`")
    content: Any = json_files.read_as(file, schemas.SWEEP, "make it again with `crs sweep GRID`")
    values = [condition["values"] for condition in content["conditions"]]
    names = [each.get("condition") for each in values]
    if None in names or len(set(names)) < len(names):
        names = [", ".join(f"{k}={written(v)}" for k, v in each.items()) or "only condition" for each in values]
    ended = [name for name, each in zip(names, content["conditions"], strict=True) if each["state"] == "success"]
    if len(set(ended)) < len(ended) or any(set(each) != set(content["axes"]) for each in values):
        raise CrsError(f"the conditions in {file} do not differ in its axes; make it again with `crs sweep GRID`")
    runs = [Run(path / condition["path"]) for condition in content["conditions"]]
    return content, list(zip(names, runs, strict=True))


def newest_sweep() -> Path:
    """The folder of the newest sweep below `reports/sweeps`. Raises `CrsError` when there is none."""
    sweeps = sorted(resolve("reports/sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not sweeps:
        raise CrsError("there is no sweep below reports/sweeps; make one with `crs sweep GRID`")
    return sweeps[-1].parent


def written(value: object) -> str:
    """A parameter's value as people write it: true, false; `default` where none is given."""
    return str(value).lower() if isinstance(value, bool) else "default" if value is None else str(value)


def find_runs(paths: Sequence[Path]) -> dict[str, Run]:
    """Condition → run: of a sweep's folder, of run folders, or of the newest sweep when no path is given.

    Of a sweep only the conditions that succeeded. Runs of the same condition are told apart by their ids. Raises
    `CrsError` for a folder without dialogues.
    """
    if paths and not (len(paths) == 1 and (paths[0] / "sweep.json").exists()):
        return name_runs([Run(path.resolve()) for path in paths])
    content, runs = read_sweep(paths[0] if paths else newest_sweep())
    conditions = zip(runs, content["conditions"], strict=True)
    return {name: run for (name, run), condition in conditions if condition["state"] == "success"}


def name_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Condition → run, in the same order; runs of the same condition are told apart by their ids. Raises `CrsError` for
    a folder without dialogues, and for one that is named twice."""
    for run in runs:
        if not run.has("dialogues"):
            raise CrsError(f"{run.path} holds no dialogues; give the folder of a run that succeeded")
    names = [str(run.info.get("parameters", {}).get("condition", run.path.name)) for run in runs]
    named = {
        f"{name} {run.run_id[:6]}" if names.count(name) > 1 else name: run
        for name, run in zip(names, runs, strict=True)
    }
    if len(named) < len(runs):
        raise CrsError("the same run is given twice; give different runs")
    return named
