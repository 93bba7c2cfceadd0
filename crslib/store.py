"""A run is a folder: `run.json`, Parquet tables, a journal, notebooks, `report.html`. No database file is used."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import polars as pl
from tqdm import tqdm

from crslib import json_files, schemas
from crslib.config import resolve
from crslib.errors import CrsError
from crslib.files import DAMAGED, Progress, held, hold, moved, state, unwritable, write_parquet, writing
from crslib.journal import Check, Journal, journal


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
        self._folder = state(path)

    @classmethod
    def open(cls, run_dir: str) -> "Run":
        """The run a notebook works on: folder `run_dir`, or `reports/by-hand` when a person leaves it empty."""
        return cls(Path(run_dir)) if run_dir else cls(resolve("reports/by-hand"), by_hand=True)

    @property
    def run_id(self) -> str:
        """The run's identity; `by-hand` where no `crs run` made it, so that tables do not depend on the folder."""
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
        if self._folder not in (None, state(self.path)):
            raise moved(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Locks the run for this process. Raises `CrsError` when another process holds it, and when the folder is
        renamed or removed meanwhile, whatever else went wrong then."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "lock").open("wb")
        except OSError as error:
            raise unwritable(self.path, error) from None
        self._folder = state(self.path)
        with file:
            hold(file, self.path)
            try:
                yield
            except Exception:
                self._check_in_place()
                raise

    @property
    def in_use(self) -> bool:
        """Whether a process holds the run or its journal at this moment."""
        return any(held(self.path / name) for name in ("lock", "journal.jsonl"))

    @contextlib.contextmanager
    def journal(self, *, reuse: bool = False, valid: Check | None = None) -> Iterator[Journal]:
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
        last = self._progress
        return last["done"], last["total"], last["what"]

    @property
    def made(self) -> int:
        """How many of those that are done (`reached`) were made after the first report: others were there already."""
        return self._progress["done"] - self._progress.get("first", 0)

    @property
    def _progress(self) -> schemas.ProgressRecord:
        try:
            return json_files.read_as(self.path / "progress.json", schemas.PROGRESS, "it is written again")
        except CrsError:
            return {"done": 0, "total": 0, "what": ""}

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[Progress]:
        """A function `(done, total)` that shows progress: a bar for a person at the notebook, where standard error
        would be a box of errors, else `progress.json` for the process that waits (a lost update is no error)."""
        first: int | None = None
        with tqdm(desc=what, unit="", leave=False, disable=not self.by_hand, file=sys.stdout) as bar:

            def report(done: int, total: int) -> None:
                nonlocal first
                first = done if first is None else first
                bar.total = total
                bar.update(done - bar.n)
                with contextlib.suppress(CrsError):
                    self._check_in_place()
                    with writing(self.path / "progress.json") as temporary:
                        said = {"done": done, "total": total, "what": what, "first": first}
                        temporary.write_text(json.dumps(said), encoding="utf-8")

            yield report
