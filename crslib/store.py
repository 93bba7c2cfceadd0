"""A run is a folder: `run.json`, Parquet tables, a journal, notebooks, `report.html`. No database file is used."""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
from tqdm import tqdm

from crslib import json_files, schemas
from crslib.config import resolve
from crslib.errors import CrsError
from crslib.files import DAMAGED, Progress, hold, moved, state, unwritable, write_parquet, writing
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
