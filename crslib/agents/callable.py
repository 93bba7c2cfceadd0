"""A recommender or user of one's own as a Python function.

A recommender is `reply(turns)`, a user `reply(turns, knowledge)`; `plain` says what they get and may return. A function
that also has parameters `dialogue_id` or `seed` gets those by name: to tell dialogues apart, and to draw alike in each
run. It is called for one dialogue at a time, in the process that simulates.
"""

import difflib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from crslib.agents import plain
from crslib.agents.base import Ask, AskQueue, Reply, Transcript
from crslib.config import ROOT, expanded
from crslib.data.catalog import Catalog
from crslib.dialogue.utterances import RECOMMENDER
from crslib.dialogue.views import UserView
from crslib.errors import CrsError
from crslib.identity import digest, file_sha256

Function = Callable[..., Any]
_FORM = "python:MODULE:FUNCTION or python:FILE.py:FUNCTION"


class FunctionAgent(AskQueue):
    """An agent that is a Python function. What goes wrong in it is a failed utterance with a sentence."""

    reproducible = False  # nobody knows what a function looks at

    def __init__(self, function: Function, role: str, catalog: Catalog, linked: plain.Linked, name: str = "") -> None:
        """`name`: of the function in sentences, else by its module.

        Raises `CrsError` for a function that cannot be called as one of this role.
        """
        super().__init__()
        self.identity = identity(function)
        self.name = name or f"python:{self.identity['name']}"
        self._function, self._role, self._catalog, self._linked = function, role, catalog, linked
        self._named = _named_parameters(function, role, self.name)
        self._transcript, self._names = Transcript(), plain.Names()

    def answer(self, ask: Ask) -> Reply:
        """The utterance in what the function returns."""
        turns = plain.turns(ask.view)
        known = plain.knowledge(ask.view) if isinstance(ask.view, UserView) else None
        sent = self._transcript.add(ask.dialogue_id, plain.messages(turns, known))
        given = (turns,) if known is None else (turns, known)
        try:
            about = {
                "dialogue_id": self._names.of(ask.dialogue_id),
                "seed": self._names.seed(ask.dialogue_id, len(turns)),
            }
            answer = self._function(*given, **{name: about[name] for name in self._named})
        except (Exception, SystemExit) as error:
            return plain.failed(f"{self.name} raised {raised(error)}", sent)
        return plain.reply(answer, self._role, self.name, sent, self._catalog, self._linked)

    def release(self, dialogue_id: str) -> None:
        """Forgets a dialogue that has ended."""
        self._transcript.release(dialogue_id)
        self._names.release(dialogue_id)


def open_function(name: str, role: str, catalog: Catalog, linked: plain.Linked) -> FunctionAgent:
    """The agent of a function that is named `python:module:function`. Raises `CrsError` as `load` does."""
    return FunctionAgent(load(name), role, catalog, linked, name)


# ── from a name to a function ───────────────────────────────────────────────────────────────────────────────────


def load(name: str) -> Function:
    """The function named `python:module:function`, or `python:file.py:function` with a path below the working directory
    or the project (any word may stand for `python`). Modules are found in the working directory too, and a file finds
    those beside it.

    Raises `CrsError` when there is none, or its module cannot be imported.
    """
    place, _, attribute = name.partition(":")[2].rpartition(":")
    if not place or not attribute:
        raise CrsError(f"{name!r} names no function; write {_FORM}")
    module = _file(place, name) if place.endswith(".py") else _module(place, name)
    try:
        function = getattr(module, attribute)
    except AttributeError:
        known = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
        close = difflib.get_close_matches(attribute, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise CrsError(
            f"{name!r}: {getattr(module, '__file__', place)} has no {attribute!r}; "
            f"it has {', '.join(known) or 'no functions'}{hint}"
        ) from None
    if not callable(function):
        raise CrsError(f"{name!r} is a value of type {type(function).__name__}, not a function; write {_FORM}")
    return function


def find_file(place: str) -> Path | None:
    """The file of a module, or the file that is named, below the working directory or the project."""
    if not place.endswith(".py"):
        place = f"{place.replace('.', '/')}.py"
    files = (folder / expanded(place) for folder in (Path.cwd(), ROOT))
    return next((file for file in files if os.path.isfile(file)), None)  # false also for what cannot be a path


def identity(function: Function, agent: str = "python") -> dict[str, str]:
    """What is known of what a function says: its name and its source, but not what it imports and reads."""
    module = getattr(function, "__module__", type(function).__module__)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return {"agent": agent, "name": f"{module}:{name}", "source_sha256": source_sha256(function)}


def source_sha256(function: Function) -> str:
    """SHA-256 of the file with a function's source, a digest of a source that is in no file; empty without any."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
        if path and Path(path).is_file():
            return file_sha256(Path(path))
        return digest(inspect.getsource(function), "source")
    except (TypeError, OSError):
        return ""


def _file(place: str, name: str) -> ModuleType:
    path = find_file(place)
    if path is None:
        raise CrsError(f"{name!r}: there is no file {place}; give a path below the working directory, {Path.cwd()}")
    path = path.resolve()
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    module = _module(".".join(path.relative_to(folder).with_suffix("").parts), name, folder)
    if Path(module.__file__ or "").resolve() != path:
        raise CrsError(f"{name!r}: another module has this name, {module.__file__}; rename {path.name}")
    return module


def _module(place: str, name: str, folder: Path | None = None) -> ModuleType:
    """Imports a module; `folder`, else the working directory, is searched after all others and stays on the path."""
    where = str(folder or Path.cwd())
    if where not in sys.path:
        sys.path.append(where)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{place}.".startswith(f"{error.name}."):
            raise CrsError(
                f"{name!r}: there is no module {error.name!r}; start in the folder that holds it ({where} does not), "
                "or install it"
            ) from None
        raise CrsError(f"{name!r}: importing {place} raised {raised(error)}") from None
    except (Exception, SystemExit) as error:
        raise CrsError(f"{name!r}: importing {place} raised {raised(error)}") from None


def _named_parameters(function: Function, role: str, name: str) -> list[str]:
    """Which of `dialogue_id` and `seed` a function takes by name."""
    given = ("turns",) if role == RECOMMENDER else ("turns", "knowledge")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C have none
        return []
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    every = inspect.Parameter.VAR_KEYWORD in kinds
    named = [key for key in ("dialogue_id", "seed") if every or key in signature.parameters]
    try:
        signature.bind(*given, **dict.fromkeys(named))
    except TypeError as error:
        raise CrsError(f"{name} cannot be called as {role} ({error}); write it as reply({', '.join(given)})") from None
    if inspect.iscoroutinefunction(function):
        raise CrsError(f"{name} is an async function; write it as a plain one, or serve it over HTTP")
    return named


def raised(error: BaseException) -> str:
    """`ValueError: no such item (my_crs.py, line 12)`: an exception in a line, with the last place it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(("<frozen", os.path.dirname(__file__)))]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return " ".join(f"{type(error).__name__}: {error}".split()) + place
