"""A mirror of a run's folder on another file system: the run of a machine that was lost goes on elsewhere.

Below the URI of a mirror lies what lies below `--reports`. Object stores cannot append, and a journal that is copied
whole again and again costs the square of its length. So its new lines go into parts, each named by its hash and never
changed: two machines overwrite no dialogue of each other. The parts, in any order, are the journal.
"""

import contextlib
import hashlib
import io
import posixpath
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyarrow import fs

from crslib import json_files, schemas
from crslib.errors import CrsError
from crslib.experiments.kernels import ended_by_signals
from crslib.files import writing
from crslib.journal import record_in
from crslib.store import Run

EVERY = 60.0  # seconds between two copies
_PART_BYTES = 1 << 25  # of a part of the journal, about
_NAME = re.compile(r"(?!lock$)[a-z0-9_][a-z0-9_.-]{0,99}")  # no folder, nothing hidden, one file whatever the case
_PART = re.compile(r"journal(-[0-9a-f]{16})?\.jsonl")  # without a hash where somebody copied the folder by hand
_ABOUT = "run.json"


@contextlib.contextmanager
def mirrored(run: Run, uri: str, reports: Path, say: Callable[[str], None], every: float = EVERY) -> Iterator[None]:
    """Keeps a copy of a run's folder, which lies below `reports`, at `uri`: a folder, or what PyArrow (`s3://`, `gs://`,
    `hdfs://`, …) or fsspec, where it is installed, knows.

    What the mirror has and the folder lacks is fetched first. In the block what is new is copied every so many seconds
    by a thread, and at its end all of it, also after an error, Ctrl-C or SIGTERM. A mirror that fails meanwhile is
    tried again, and `say` gets one sentence. Raises `CrsError` where it cannot be read or written at the beginning, and
    where it is not complete after a block that is.
    """
    with ended_by_signals():
        try:
            files, base = _opened(uri)
            below = run.path.resolve().relative_to(reports.resolve()).as_posix()
            mirror = Mirror(run, files, posixpath.join(base, below))
            mirror.fetch(say)
            mirror.push()
        except CrsError:
            raise
        except Exception as error:  # each file system has its own
            where = uri.partition("?")[0]  # keys may follow
            reason = _reason(error).replace(uri, where)
            raise CrsError(f"no mirror at {where}: {reason}; check the URI, its keys and the network") from None
        end, complete = threading.Event(), False
        thread = threading.Thread(target=_keep, args=(mirror, end, every, say), daemon=True)
        thread.start()
        try:
            yield
            complete = True
        finally:
            end.set()
            thread.join()
            if failure := _failure(mirror):
                sentence = f"the mirror of {run.path} lacks what is new ({failure}); the same command copies it"
                if complete:
                    raise CrsError(f"all is computed, but {sentence}")
                say(str(CrsError(sentence)))  # which hides names and passwords


class Mirror:
    """The copy of a run's folder in `folder` of another file system. Raises what that raises."""

    def __init__(self, run: Run, files: fs.FileSystem, folder: str) -> None:
        self._run, self._files, self._folder = run, files, folder
        self._copied: dict[str, object] = {}  # the state of each file when it was copied; of run.json the content
        self._lines: set[bytes] = set()  # hashes of the journal's lines that are in the mirror
        self._end, self._last = 0, b""  # where in the journal new lines begin, and the line before them

    def fetch(self, say: Callable[[str], None]) -> None:
        """Adds the files that the run's folder lacks, and the dialogues that its journal lacks. `say` gets a sentence
        about what is damaged and left out."""
        listed = self._files.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        names = sorted(one.base_name for one in listed if one.is_file and _NAME.fullmatch(one.base_name))
        if not names:
            return
        with self._run.lock():
            if parts := [name for name in names if _PART.fullmatch(name)]:
                self._fetch_journal(parts, say)
            for name in sorted(set(names).difference(parts), key=lambda name: name == _ABOUT):  # after its tables
                if not (path := self._run.path / name).exists():
                    content = self._read(name)
                    if name == _ABOUT and not _is_record(content):
                        say(f"{name} in the mirror of {self._run.path} is damaged; what it told is computed again")
                        continue
                    with writing(path) as temporary:
                        temporary.write_bytes(content)
                    self._copied[name] = content if name == _ABOUT else _state(path)

    def _fetch_journal(self, parts: list[str], say: Callable[[str], None]) -> None:
        n_damaged = 0
        with self._run.journal(valid=_is_named) as journal, journal.together():
            known = set(map(_identity, journal.records))
            for line in (line for part in parts for line in io.BytesIO(self._read(part))):
                record = record_in(line)
                if record is None or not _is_named(record):
                    n_damaged += 1
                    continue
                self._lines.add(_hash(line))
                if (identity := _identity(record)) not in known:
                    known.add(identity)
                    journal.append(record)
        if n_damaged:
            say(f"{n_damaged} lines of the journal in the mirror of {self._run.path} are damaged and left out")

    def push(self) -> None:
        """Copies what is new in the run's folder."""
        self._files.create_dir(self._folder, recursive=True)
        about = self._run.path / _ABOUT
        told = about.read_bytes() if about.exists() else None  # before the tables: those that it names will be there
        self._push_journal()
        for path in sorted(filter(Path.is_file, self._run.path.glob("*"))):
            is_copied = _NAME.fullmatch(path.name) and not _PART.fullmatch(path.name) and path != about
            if is_copied and (state := _state(path)) != self._copied.get(path.name):
                self._write(path.name, path.read_bytes())
                self._copied[path.name] = state
        if told is not None and told != self._copied.get(_ABOUT):
            self._write(_ABOUT, told)
            self._copied[_ABOUT] = told

    def _push_journal(self) -> None:
        if not (path := self._run.path / "journal.jsonl").exists():
            return
        with path.open("rb") as file:
            file.seek(self._end - len(self._last))
            if file.read(len(self._last)) != self._last:  # the journal was written anew, without what was of no use
                self._end = 0
            while True:
                file.seek(self._end)
                lines = [line for line in file.readlines(_PART_BYTES) if line.endswith(b"\n")]  # the last may be half
                if not lines:
                    return
                if new := [line for line in lines if _hash(line) not in self._lines]:
                    part = b"".join(new)
                    self._write(f"journal-{_hash(part).hex()[:16]}.jsonl", part)
                    self._lines.update(map(_hash, new))
                self._end, self._last = self._end + sum(map(len, lines)), lines[-1]

    def _read(self, name: str) -> bytes:
        with self._files.open_input_stream(posixpath.join(self._folder, name), compression=None) as stream:
            content: bytes = stream.read()
        return content

    def _write(self, name: str, content: bytes) -> None:
        with self._files.open_output_stream(posixpath.join(self._folder, name), compression=None) as stream:
            stream.write(content)


def _opened(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path there."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        files, path = fs.FileSystem.from_uri(uri)
    except ValueError as error:
        if "Unrecognized filesystem" not in str(error):  # PyArrow has no class of its own for it
            raise
        from fsspec.core import url_to_fs

        found, path = url_to_fs(uri)
        files = fs.PyFileSystem(fs.FSSpecHandler(found))
    return files, path


def _keep(mirror: Mirror, end: threading.Event, every: float, say: Callable[[str], None]) -> None:
    said = False
    while not end.wait(every):
        if (failure := _failure(mirror)) and not said:
            said = True
            say(str(CrsError(f"the mirror cannot be written ({failure}); the run goes on, and it is tried again")))


def _failure(mirror: Mirror) -> str:
    """Copies what is new. Why it failed; empty where it did not."""
    try:
        mirror.push()
    except Exception as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    """What a file system says, in a line."""
    return str(error).partition("\n")[0] or type(error).__name__


def _is_named(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("dialogue"), dict) and isinstance(record["dialogue"].get("dialogue_id"), str)


def _identity(record: Mapping[str, Any]) -> tuple[str, str]:
    return record["key"], record["dialogue"]["dialogue_id"]


def _hash(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_record(content: bytes) -> bool:
    """Whether it can be the content of `run.json`."""
    with contextlib.suppress(ValueError):
        json_files.parse(content)
        schemas.RUN.validate_json(content)
        return True
    return False
