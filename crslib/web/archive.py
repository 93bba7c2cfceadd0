"""The viewer over all runs: its page holds an index of their dialogues and asks for what a person looks at.

A hundred runs of two hundred dialogues would make a file of hundreds of megabytes, so texts and scores stay in the
runs' tables. `Archive` answers the page's requests; `serve` is a server on this machine, `widgets.looking` the same in
JupyterLab.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from hmac import compare_digest
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError
from tornado.web import Application

from crslib.dialogue import utterances
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.errors import CrsError
from crslib.metrics import METRICS, all_metrics
from crslib.runs import written
from crslib.store import Run
from crslib.web import serving, viewer

HOST = "127.0.0.1"
_FILES = ("look.html", "element.js", "viewer.js", "page.css", "viewer.css")
_NOT_SHOWN = ("run_id", "path")  # columns of the list of runs that are no cells of its table
_HEADS = {"n_dialogues": "dialogues"}


class _Index(BaseModel):
    """The content of `index`, and what all requests have."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Dialogue(_Index):
    run: str
    dialogue: str


class _Values(_Index):
    metric: str


class _Search(_Index):
    text: str


_CONTENTS: Mapping[str, type[_Index]] = {
    "index": _Index,
    "dialogue": _Dialogue,
    "values": _Values,
    "search": _Search,
}


class Archive:
    """The dialogues of many runs.

    `listed` gives the runs as a frame, newest first (`experiments.runs.listed`): run_id, tag, condition, differs,
    started, path, and further columns for people to read. It is called again when the page is loaded again. `heads`:
    column → what stands above it, such as `experiments.runs.FIGURES`; its own name where none is given.
    """

    def __init__(self, listed: Callable[[], pl.DataFrame], heads: Mapping[str, str] | None = None) -> None:
        self._listed = listed
        self._heads = {**_HEADS, **(heads or {})}
        self._runs: dict[str, Run] = {}
        self._reports: dict[str, str] = {}  # run → the secret word in its report's address
        self._texts: dict[tuple[Path, int], dict[str, str]] = {}

    def answer(self, action: str, content: Any) -> dict[str, Any]:
        """The reply to a request of the page; {error} with a sentence where there is none.

        `index` {}: `runs`, `metrics` and `dialogues` as `viewer.rows`, the dialogues without texts and scores.
        `dialogue` {run, dialogue}: one dialogue with them. `values` {metric}: `values`, a map run → dialogue → value.
        `search` {text}: `found`, a map run → dialogues in which somebody says the text, or whose profile or name holds
        it; case does not count. The last two have `problems`, a map run → why it cannot be read, which stops no other
        run.
        """
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "index": self._index,
            "dialogue": self._dialogue,
            "values": self._values,
            "search": self._search,
        }
        try:
            work, fields = actions[action], _CONTENTS[action].model_validate(content).model_dump()
        except (KeyError, ValidationError):
            return {"error": f"{action!r} with these fields is not a request of this page; load the page again"}
        try:
            return work(**fields)
        except CrsError as error:
            return {"error": str(error)}

    async def reply(self, action: str, content: Any) -> dict[str, Any]:
        """As `answer`, in a thread."""
        return await asyncio.to_thread(self.answer, action, content)

    def _index(self) -> dict[str, Any]:
        runs: list[dict[str, Any]] = []
        dialogues: list[dict[str, Any]] = []
        found: dict[str, Run] = {}
        metrics: set[str] = set()
        defined = dict(METRICS)
        rows = self._listed().to_dicts()
        for name, row in zip(_names(rows), rows, strict=True):
            key = row["run_id"] if row["run_id"] and row["run_id"] not in found else row["path"]
            found[key] = run = Run(Path(row["path"]))
            row["started"] = str(row["started"] or "")[:16].replace("T", " ")
            cells = {self._heads.get(column, column): row[column] for column in row if column not in _NOT_SHOWN}
            about = {"id": key, "name": name, "cells": cells, "problem": "", "parameters": {}}
            try:
                about["parameters"] = _parameters(run)
                dialogues += _brief(run, len(runs))
                metrics |= _scored(run)
                defined |= all_metrics(run)
            except CrsError as error:
                about["problem"] = str(error)
            about["report"] = self._report_word(key) if (run.path / "report.html").is_file() else ""
            runs.append(about)
        self._runs = found
        return {"runs": _that_differ(runs), "metrics": viewer.titled(metrics, defined), "dialogues": dialogues}

    def _report_word(self, key: str) -> str:
        return self._reports.setdefault(key, secrets.token_urlsafe(16))

    def _run(self, key: str) -> Run:
        if key not in self._runs:
            raise CrsError(f"there is no run {key!r} any more; load the page again")
        return self._runs[key]

    def _dialogue(self, run: str, dialogue: str) -> dict[str, Any]:
        opened = self._run(run)
        if (row := viewer.one(opened, dialogue)) is None:
            raise CrsError(f"run {run!r} has no dialogue {dialogue!r} any more; load the page again")
        return row

    def _values(self, metric: str) -> dict[str, Any]:
        def values(run: Run) -> dict[str, float] | None:
            if not run.has("scores"):
                return None
            scores = run.read("scores").filter(pl.col("metric") == metric, pl.col("value").is_not_null())
            return dict(scores.select("dialogue_id", "value").iter_rows())

        found, problems = self._of_each_run(values)
        return {"values": found, "problems": problems}

    def _search(self, text: str) -> dict[str, Any]:
        wanted = text.strip().lower()

        def holding(run: Run) -> list[str] | None:
            if not (run.has("dialogues") and run.has("turns")):
                return None
            return [dialogue for dialogue, said in self._said(run).items() if wanted in said]

        found, problems = self._of_each_run(holding)
        return {"found": found, "problems": problems}

    def _of_each_run(self, read: Callable[[Run], Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """By run: what is read of it, where it has that, and of damaged runs a sentence."""
        found, problems = {}, {}
        for key, run in self._runs.items():
            try:
                if (content := read(run)) is not None:
                    found[key] = content
            except CrsError as error:
                problems[key] = str(error)
        return found, problems

    def _said(self, run: Run) -> dict[str, str]:
        """By dialogue: what is searched, in lower case. Read again when the turns are written again."""
        key = run.path, (run.path / "turns.parquet").stat().st_mtime_ns
        if key not in self._texts:
            profiles = run.read("profiles").select("profile_id", "summary", "attributes")
            names = (
                run.read("dialogues").select("dialogue_id", "profile_id").join(profiles, on="profile_id", how="left")
            )
            texts = {row[0]: [row[0], row[2] or "", row[3] or ""] for row in names.iter_rows()}
            for dialogue, said in (
                run.read("turns").sort("dialogue_id", "turn").select("dialogue_id", "text").iter_rows()
            ):
                texts.setdefault(dialogue, [dialogue]).append(utterances.plain(said))
            self._texts[key] = {dialogue: "\n".join(parts).lower() for dialogue, parts in texts.items()}
        return self._texts[key]

    def report(self, word: str) -> Path | None:
        """The report of the run in whose row the index has the `report` `word`; None where there is none."""
        keys = [key for key, own in self._reports.items() if key in self._runs and compare_digest(own, word)]
        path = self._runs[keys[0]].path / "report.html" if keys else None
        return path if path and path.is_file() else None


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """A name for each run: its tag, else what differs from the defaults, else its condition; with its id where another
    run has the same.

    Not by the rule of `runs.labels`, which names a few chosen runs by what differs between them: of all runs nearly
    every parameter differs, and with every further run all names would change.
    """
    names = [row["tag"] or row["differs"] or row["condition"] or row["run_id"] for row in rows]
    return [
        f"{name} ({row['run_id'][:6]})" if names.count(name) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]


def _brief(run: Run, number: int) -> list[dict[str, Any]]:
    """A run's dialogues without texts and scores; none where it has not made any yet."""
    if not (run.has("dialogues") and run.has("turns")):
        return []
    columns = ("dialogue_id", "profile_id", "stop_reason", "n_turns")
    return [
        {
            "run": number,
            "id": dialogue,
            "profile": profile,
            "stop": stop,
            "ending": STOP_REASONS.get(stop, stop),
            "n_turns": n_turns,
            "read": False,
        }
        for dialogue, profile, stop, n_turns in run.read("dialogues").sort("dialogue_id").select(columns).iter_rows()
    ]


def _scored(run: Run) -> set[str]:
    """The metrics with a value per dialogue."""
    return set(run.read("scores")["metric"].unique()) if run.has("scores") else set()


def _parameters(run: Run) -> dict[str, str]:
    return {name: written(value) for name, value in run.info.get("parameters", {}).items()}


def _that_differ(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`runs` with those of their parameters that have two values or more; a run may lack one."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run["parameters"].items():
            values.setdefault(name, set()).add(value)
    differ = [name for name in sorted(values) if len(values[name]) > 1]
    return [{**run, "parameters": {n: run["parameters"][n] for n in differ if n in run["parameters"]}} for run in runs]


# ── on this machine ─────────────────────────────────────────────────────────────────────────────────────────────


class _Report(serving.Handler):
    """A run's report, by a secret word of its own. In a sandbox: it shares no origin with the viewer and fetches
    nothing. It can lead away and take its address along, which opens nothing but this report."""

    policy = (
        "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:"
    )

    def initialize(self, archive: Archive) -> None:
        self.archive = archive

    def get(self, word: str) -> None:
        if (path := self.archive.report(word)) is None:
            self.refuse(404, "There is no such report; load the page of dialogues again and follow its link.")
        else:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(path.read_bytes())


def application(archive: Archive, token: str) -> Application:
    """The page and its requests, which need the token."""
    report = (r"/report/([\w-]+)", _Report, {"archive": archive})
    return serving.application(_FILES, list(_CONTENTS), archive.reply, token, [report])


def serve(archive: Archive, port: int, ready: Callable[[str], None]) -> None:
    """Serves the viewer on this machine, to whoever has the address, until it is interrupted (Ctrl-C). `ready` gets the
    address, with its token. Raises `CrsError` for a port in use."""
    token = secrets.token_urlsafe(16)
    served = application(archive, token)
    serving.listen(served, HOST, port, lambda address: ready(f"{address}?token={quote(token)}"))
