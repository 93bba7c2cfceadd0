"""A dialogue is appended to a journal as soon as it ends; a run that was killed continues from there."""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import IO, Any

from crslib import json_files
from crslib.files import hold, moved, state, unwritable

Check = Callable[[Mapping[str, Any]], bool]
"""Whether a record of a journal is one."""


@contextlib.contextmanager
def journal(
    path: Path,
    others: Sequence[Path] = (),
    run_id: str = "",
    valid: Check | None = None,
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
        hold(file, path.parent)
        yield Journal(path, file, others, run_id, valid, last)


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

        Where none is left, the records of other journals with this key are copied: those of the first, and what `valid`
        takes besides of the others. A journal that cannot be read is passed over with a warning.
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
            if self.records and valid is None:  # nothing says which of another's are new
                return

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record. Raises `CrsError` when it cannot be stored; earlier records stay intact."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        if state(self._path) != state(self._file.fileno()):
            raise moved(self._path)
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
