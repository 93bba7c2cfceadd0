"""The viewer over all runs: its page holds an index of their dialogues and asks for what a person looks at.

A hundred runs of two hundred dialogues would make a file of hundreds of megabytes, so texts and scores stay in the
runs' tables. `Archive` answers the page's requests; `serve` is a server on this machine, `widgets.looking` the same in
JupyterLab.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
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
    started, path, and further columns for people to read. It is called again when the page is loaded again.
    """

    def __init__(self, listed: Callable[[], pl.DataFrame]) -> None:
        self._listed = listed
        self._runs: dict[str, Run] = {}
        self._texts: dict[tuple[Path, int], dict[str, str]] = {}

    def answer(self, action: str, content: Any) -> dict[str, Any]:
        """The reply to a request of the page; {error} with a sentence where there is none.

        `index` {}: `runs`, `metrics` and `dialogues` as `viewer.rows`, the dialogues without texts and scores.
        `dialogue` {run, dialogue}: one dialogue with them. `values` {metric}: `values`, a map run → dialogue → value.
        `search` {text}: `found`, a map run → dialogues in which somebody says the text, or whose profile or name holds
        it; case does not count.
        """
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "index": self._index,
            "dialogue": self._dialogue,
            "values": self._values,
            "search": self._search,
        }
        try:
            return actions[action](**_CONTENTS[action].model_validate(content).model_dump())
        except CrsError as error:
            return {"error": str(error)}
        except (KeyError, ValidationError):
            return {"error": f"{action!r} with these fields is not a request of this page; load the page again"}

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
            cells = {column: cell for column, cell in row.items() if column not in _NOT_SHOWN}
            cells["started"] = str(row["started"] or "")[:16].replace("T", " ")
            about = {"id": key, "name": name, "cells": cells, "problem": "", "parameters": {}}
            try:
                about["parameters"] = _parameters(run)
                dialogues += _brief(run, len(runs))
                metrics |= _scored(run)
                defined |= all_metrics(run)
            except CrsError as error:
                about["problem"] = str(error)
            about["report"] = (run.path / "report.html").is_file()
            runs.append(about)
        self._runs = found
        return {"runs": _that_differ(runs), "metrics": viewer.titled(metrics, defined), "dialogues": dialogues}

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
        values = {}
        for key, run in self._runs.items():
            if run.has("scores"):
                scores = run.read("scores").filter(pl.col("metric") == metric, pl.col("value").is_not_null())
                values[key] = dict(scores.select("dialogue_id", "value").iter_rows())
        return {"values": values}

    def _search(self, text: str) -> dict[str, Any]:
        wanted = text.strip().lower()
        found = {}
        for key, run in self._runs.items():
            if run.has("dialogues") and run.has("turns"):
                found[key] = [dialogue for dialogue, said in self._said(run).items() if wanted in said]
        return {"found": found}

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

    def report(self, key: str) -> Path | None:
        """The report of a run; None where there is none."""
        path = self._runs[key].path / "report.html" if key in self._runs else None
        return path if path and path.is_file() else None


def _names(rows: list[dict[str, Any]]) -> list[str]:
    """A name for each run: its tag, else what differs from the defaults, else its condition; with its id where another
    run has the same."""
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
            "ending": STOP_REASONS[stop],
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
    """A run's report. In a sandbox: it shares no origin with the viewer and reaches nothing."""

    policy = (
        "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; img-src data:"
    )

    def initialize(self, archive: Archive, token: str) -> None:
        self.archive, self.token = archive, token

    def get(self, key: str) -> None:
        if why := self.refusal(self.token, self.get_query_argument("token", "")):
            self.refuse(403, why)
        elif (path := self.archive.report(key)) is None:
            self.refuse(404, "This run has no report.")
        else:
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(path.read_bytes())


def application(archive: Archive, token: str) -> Application:
    """The page and its requests, which need the token."""
    report = (r"/report/(.+)", _Report, {"archive": archive, "token": token})
    return serving.application(_FILES, list(_CONTENTS), archive.reply, token, [report])


def serve(archive: Archive, port: int, ready: Callable[[str], None]) -> None:
    """Serves the viewer on this machine, to whoever has the address, until it is interrupted (Ctrl-C). `ready` gets the
    address, with its token. Raises `CrsError` for a port in use."""
    token = secrets.token_urlsafe(16)
    served = application(archive, token)
    serving.listen(served, HOST, port, lambda address: ready(f"{address}?token={quote(token)}"))
