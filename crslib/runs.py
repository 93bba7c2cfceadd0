"""Runs among others: which there are, how a word finds one, and what tells them apart."""

import difflib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from crslib import json_files, schemas
from crslib.config import Parameters, RunParameters, StoredParameters, expanded, kind_of, marked, resolve
from crslib.errors import CrsError
from crslib.files import writing
from crslib.store import Run

LATEST = "latest"
_TAG = TypeAdapter(dict[str, str])
_WORD = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A run below a folder of reports. `info`: its `run.json`. `status`: that of `run.json`, but of one that was
    started `running` or `interrupted`; `by hand` where a notebook or Python made it. `started`: ISO 8601, by hand the
    time of its last dialogue."""

    run: Run
    run_id: str
    tag: str
    status: str
    started: str
    condition: str
    info: Mapping[str, Any]

    def __str__(self) -> str:
        words = (self.tag, self.condition, differences(self.info))
        return f"{self.run_id} ({', '.join(filter(None, words))})"


def scan(reports: Path, report: Callable[[str], None] = warnings.warn) -> list[Found]:
    """The runs below `reports`, newest first; not the shards of runs.

    `report` gets a sentence about each `run.json` that is damaged, or of no run and without dialogues; it is left out.
    """
    runs = []
    for folder, inside, files in os.walk(reports):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        if "run.json" in files or "journal.jsonl" in files:
            try:
                if found := _found(Path(folder)):
                    runs.append(found)
            except CrsError as error:
                report(str(error))
    return sorted(runs, key=lambda found: (found.started, found.run_id), reverse=True)


def _found(folder: Path) -> Found | None:
    """The run in a folder; None for a shard, and for a journal of something else. Raises `CrsError` as `scan` says."""
    run, file = Run(folder), folder / "run.json"
    has_dialogues = run.has("dialogues") or _holds_dialogues(folder / "journal.jsonl")
    if not file.exists():
        return _by_hand(run, {}) if has_dialogues else None
    try:
        json_files.read_as(file, schemas.LISTED, "damaged, or of no run that `crs` made, it is left out")
    except CrsError as error:
        if not has_dialogues or "error" in (info := run.outcome):
            raise error
        return _by_hand(run, info)
    info = run.info
    if "shard" in info:
        return None
    status = info["status"]
    if status == "started":
        status = "running" if run.in_use else "interrupted"
    started, condition = info.get("started") or "", info["parameters"]["condition"]
    return Found(run, info["run_id"], tag(run), status, started, condition, info)


def _by_hand(run: Run, info: Mapping[str, Any]) -> Found:
    times = [path.stat().st_mtime for path in (run.path / "journal.jsonl", run.path / "run.json") if path.exists()]
    started = datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds")
    condition = str(info.get("parameters", {}).get("condition", "by hand"))
    return Found(run, info.get("run_id", run.path.name), tag(run), "by hand", started, condition, info)


def _holds_dialogues(journal: Path) -> bool:
    """Whether a journal is of dialogues: judges and trainings have journals too."""
    try:
        with journal.open("rb") as file:
            first = json_files.parse(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and "dialogue" in first


# ── a run by a word ─────────────────────────────────────────────────────────────────────────────────────────────────


def find(word: str, reports: Path) -> Run:
    """The run that `word` names: `latest`, a path, an id, a tag, or the beginning of one id.

    Raises `CrsError` where there is none, or where there are several.
    """
    if word == LATEST:
        if not (link := reports / LATEST).exists():
            raise CrsError(f"there is no latest run below {reports}; make one with `crs run`, or name another")
        return Run(link.resolve())
    path, is_path = expanded(word or os.devnull), os.sep in word
    if is_path and os.path.isdir(path):
        return Run(path.resolve())
    known = [] if is_path or not word else scan(reports, lambda sentence: None)
    if exact := [found for found in known if word in (found.run_id, found.tag)]:
        return _only(word, "is the name", exact)
    if not is_path and os.path.isdir(path):
        return Run(path.resolve())
    if begun := [found for found in known if found.run_id.startswith(word)]:
        return _only(word, "begins the ids", begun)
    if named := [found for found in known if found.condition == word]:
        raise _several(word, "is the condition", named, "give an id, or tag one with `crs runs tag ID NAME`")
    names = [LATEST, *filter(None, (name for found in known for name in (found.tag, found.run_id)))]
    close = difflib.get_close_matches(word, names, n=2)
    hint = f"did you mean {' or '.join(close)}? `crs runs` lists them" if close else "`crs runs` lists them"
    where = "there is no folder" if is_path else f"no run below {reports} is called"
    raise CrsError(f"{where} {word[:200]!r}; {hint}, a folder of a run will also do")


def folders(words: Sequence[str], reports: Path) -> list[Path]:
    """The folders that words name, as `find` takes them; of a sweep or study too. Relative ones are below the project
    folder (`resolve`), wherever a notebook runs. Raises `CrsError` as `find`."""
    paths = [resolve(word) for word in words]
    is_folder = [os.sep in word and path.is_dir() for word, path in zip(words, paths, strict=True)]
    named = zip(words, paths, is_folder, strict=True)
    return [path if is_path else find(word, reports).path for word, path, is_path in named]


def _only(word: str, relation: str, runs: Sequence[Found]) -> Run:
    if len(runs) > 1:
        raise _several(word, relation, runs, "give more of one, or its folder")
    return runs[0].run


def _several(word: str, relation: str, runs: Sequence[Found], remedy: str) -> CrsError:
    listed = "; ".join(map(str, runs[:5])) + (f"; and {len(runs) - 5} more" if len(runs) > 5 else "")
    number = f"{len(runs)} runs" if len(runs) > 1 else "a run"
    return CrsError(f"{word!r} {relation} of {number}: {listed}; {remedy}")


def tag(run: Run) -> str:
    """The name that a person gave to a run; empty without one. Raises `CrsError` when its file is damaged."""
    if not (file := run.path / "tag.json").exists():
        return ""
    return json_files.read_as(file, _TAG, "delete this one file and tag the run again").get("tag", "")


def give_tag(run: Run, name: str, reports: Path) -> None:
    """Names a run, or takes its name with an empty one. Raises `CrsError` for a name that is no plain word, or that
    finds another run below `reports` already."""
    if not name:
        (run.path / "tag.json").unlink(missing_ok=True)
        return
    if not _WORD.fullmatch(name) or name == LATEST:
        raise CrsError(f"{name!r} cannot be a tag; give a word of up to 40 letters, digits, '.', '_' and '-'")
    for other in scan(reports, lambda sentence: None):
        if other.run.path.resolve() != run.path.resolve() and (name == other.tag or other.run_id.startswith(name)):
            remedy = "give another name" if name != other.tag else "give another, or take it with --remove first"
            raise CrsError(f"{name!r} already finds the run {other.run_id}; {remedy}")
    with writing(run.path / "tag.json") as temporary:
        temporary.write_text(json.dumps({"tag": name}) + "\n", encoding="utf-8")


# ── what differs ────────────────────────────────────────────────────────────────────────────────────────────────────


def written(value: object) -> str:
    """A parameter's value as people write it: true, false; `default` where none is given."""
    return str(value).lower() if isinstance(value, bool) else "default" if value is None else str(value)


def short(value: str) -> str:
    """A model, adapter or file in a word: the name of a file, of a model on a server, of a function, or the host."""
    kind, rest = kind_of(value), value.partition(":")[2]
    if kind == "openai":
        return rest.partition("@")[0]
    if kind == "http":
        return value.partition("://")[2].partition("/")[0]
    if kind in ("python", "dialoguekit"):
        return ":".join(Path(part).stem for part in rest.split(":"))
    return Path(value).name.removesuffix(".gguf")


def settings(parameters: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Of a run's parameters those that can change what comes out: name → value and how it is shown; not the name of
    the condition."""
    shown: dict[str, tuple[Any, str]] = {}
    fields = _kind(parameters).model_fields
    for name, field in fields.items():
        if name not in parameters or name == "condition":
            continue
        value = parameters[name]
        if marked(field, "path", False) and isinstance(value, str):
            shown[name] = (value and str(resolve(value)), short(value) if value else "none")
        elif marked(field, "identity", True):
            shown[name] = value, written(value)
    return shown


def differences(info: Mapping[str, Any]) -> str:
    """What of the parameters in a `run.json` differs from the defaults: `temperature=0.9, opener=user`."""
    parameters = info.get("parameters", {})
    given = info.get("parameters_given", parameters)  # a default file of another checkout is a default
    fields = _kind(parameters).model_fields
    default = settings({name: field.default for name, field in fields.items()})
    own = settings({name: value for name, value in parameters.items() if name in given})
    changed = (name for name, (value, _) in own.items() if name not in default or value != default[name][0])
    return ", ".join(f"{name}={own[name][1]}" for name in changed)


def _kind(parameters: Mapping[str, Any]) -> type[Parameters]:
    return StoredParameters if "form" in parameters else RunParameters


def labels(runs: Sequence[Run]) -> dict[str, Run]:
    """Name → run, in the same order; a name says what differs between these runs.

    That is the condition where each run has its own, else the parameters: `temperature 1.0`. Runs that differ in none,
    of other data or versions, are told apart by their ids. Raises `CrsError` for a folder without dialogues, and for
    one that is given twice.
    """
    for run in runs:
        if not run.has("dialogues"):
            raise CrsError(f"{run.path} holds no dialogues; give the folder of a run that succeeded")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise CrsError("the same run is given twice; give different runs")
    parameters = [run.info.get("parameters", {}) for run in runs]
    conditions = [str(own.get("condition", run.path.name)) for own, run in zip(parameters, runs, strict=True)]
    own = [settings(each) for each in parameters]
    names = []
    for number, condition in enumerate(conditions):
        alike = [own[other] for other, name in enumerate(conditions) if name == condition]
        varied = [name for name in own[number] if len({each.get(name, ("", ""))[1] for each in alike}) > 1]
        words = [f"{name} {own[number][name][1]}" for name in varied[:4]]
        if not words or len(set(conditions)) > 1:
            words = [condition, *words]
        names.append(", ".join(words))
    named: dict[str, Run] = {}
    for name, run in zip(names, runs, strict=True):
        name = f"{name} {run.run_id[:6]}" if names.count(name) > 1 else name
        again = sum(other.rpartition(" (")[0] == name or other == name for other in named)
        named[f"{name} ({again + 1})" if again else name] = run
    return named


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_sweep(path: Path) -> tuple[dict[str, Any], list[tuple[str, Run]]]:
    """The contents of `sweep.json` in folder `path`, and of each condition its label and its run.

    Raises `CrsError` when the file is missing or damaged.
    """
    file = path / "sweep.json"
    if not file.is_file():
        raise CrsError(f"{path} holds no readable sweep.json; make one with `crs sweep GRID`")
    content: Any = json_files.read_as(file, schemas.SWEEP, "make it again with `crs sweep GRID`")
    values = [condition["values"] for condition in content["conditions"]]
    names = condition_names(values)
    ended = [name for name, each in zip(names, content["conditions"], strict=True) if each["state"] == "success"]
    if len(set(ended)) < len(ended) or any(set(each) != set(content["axes"]) for each in values):
        raise CrsError(f"the conditions in {file} do not differ in its axes; make it again with `crs sweep GRID`")
    runs = [Run(path / condition["path"]) for condition in content["conditions"]]
    return content, list(zip(names, runs, strict=True))


def condition_names(values: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each condition of a sweep, from the values of its axes: `condition` where that tells them apart, else
    all values."""
    names = [each.get("condition") for each in values]
    if None in names or len(set(names)) < len(names):
        return [", ".join(f"{k}={written(v)}" for k, v in each.items()) or "only condition" for each in values]
    return [str(name) for name in names]


def newest_sweep() -> Path:
    """The folder of the newest sweep below `reports/sweeps`. Raises `CrsError` when there is none."""
    sweeps = sorted(resolve("reports/sweeps").glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not sweeps:
        raise CrsError("there is no sweep below reports/sweeps; make one with `crs sweep GRID`")
    return sweeps[-1].parent


def find_runs(paths: Sequence[Path]) -> dict[str, Run]:
    """Label → run: of a sweep's folder, of run folders (`labels`), or of the newest sweep when no path is given.

    Of a sweep only the conditions that succeeded. Raises `CrsError` for a folder without dialogues.
    """
    if paths and not (len(paths) == 1 and (paths[0] / "sweep.json").exists()):
        return labels([Run(path.resolve()) for path in paths])
    content, runs = read_sweep(paths[0] if paths else newest_sweep())
    conditions = zip(runs, content["conditions"], strict=True)
    return {name: run for (name, run), condition in conditions if condition["state"] == "success"}
