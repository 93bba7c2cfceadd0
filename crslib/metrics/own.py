"""Metrics of one's own: functions from the frames of a run to the scores of its dialogues.

    def thanks(frames):
        "Share of the user's turns that thank."
        return frames.turns.filter(role="user").select("dialogue_id", value=pl.col("text").str.contains("(?i)thank"))

`crs run -p metrics=python:my_metrics:thanks` measures it beside all others; so do `crs evaluate` and, in Python,
`metrics.evaluate(…, metrics=[thanks])`. Several of one module are `python:my_metrics:thanks,praise`.

A function gets `Frames` and returns columns `dialogue_id` and `value` (a number or a truth value), one row or many per
dialogue, say one per turn. The score of a dialogue is the mean of its rows, the metric is the mean over all rows, with
an interval over dialogues. A null value is none; a dialogue without values has no score. The name of the metric is that
of the function, its definition the docstring; `metric` says more, such as which direction is better.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import polars as pl

from crslib.agents import callable as functions
from crslib.config import kind_of
from crslib.dialogue.domain import Domain
from crslib.dialogue.utterances import one_line
from crslib.errors import CrsError
from crslib.metrics.base import PARTS, Metric, parts_of
from crslib.metrics.definitions import METRICS

Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True)
class Frames:
    """What a function gets: the tables of a run (`schemas.TABLES`), copies, and what the dialogues talk about.

    Dialogues of a file have no `holdouts`, `ratings` and `prompts`, and empty summaries in `profiles`.
    """

    dialogues: pl.DataFrame
    turns: pl.DataFrame
    profiles: pl.DataFrame
    holdouts: pl.DataFrame
    items: pl.DataFrame
    ratings: pl.DataFrame
    prompts: pl.DataFrame
    domain: Domain

    def copies(self) -> "Frames":
        """The same with frames of its own: what changes one of them in place changes no other."""
        frames: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        copies: dict[str, Any] = {name: one.clone() for name, one in frames.items() if isinstance(one, pl.DataFrame)}
        return replace(self, **copies)


Function = Callable[[Frames], pl.DataFrame]


def metric(
    title: str = "", *, unit: str = "", direction: Better = "none", definition: str = ""
) -> Callable[[Function], Function]:
    """Says more of a function that is a metric: its title in tables and charts (else its name), the unit of its value
    (share, distance and index lie between 0 and 1), what is better, and its definition (else its docstring).

    Raises `CrsError` for another direction.
    """
    if direction not in get_args(Better):
        raise CrsError(f"the direction {direction!r} of a metric is none of {', '.join(get_args(Better))}; give one")

    def described(function: Function) -> Function:
        own = _described(function)
        about = replace(own, title=title or own.title, unit=unit, direction=direction)
        function.definition = replace(about, definition=definition or own.definition)  # type: ignore[attr-defined]
        return function

    return described


def load(name: str) -> list[Function]:
    """The functions named `python:module:function`, or `python:file.py:function`, with commas for several of one
    module; none for an empty name. Raises `CrsError` when there is no such function, or it can be no metric."""
    if not name:
        return []
    place, _, names = name.rpartition(":")
    if kind_of(name) != "python":
        raise CrsError(f"metrics = {name!r} names no function; write python:MODULE:FUNCTION or python:FILE.py:FUNCTION")
    loaded = [functions.load(f"{place}:{each.strip()}") for each in names.split(",")]
    definitions(loaded)
    return loaded


def definitions(own: Sequence[Function]) -> dict[str, Metric]:
    """The metrics that functions define, by name. Raises `CrsError` for a function without a name or that cannot be
    called with `Frames` alone, and for a name that another metric has."""
    defined: dict[str, Metric] = {}
    for function in own:
        one = getattr(function, "definition", None) or _described(function)
        if one.name in METRICS or one.name in defined:
            owner = "crslib" if one.name in METRICS else "yours"
            raise CrsError(f"a metric of {owner} has the name {one.name!r} already; rename the function")
        defined[one.name] = one
    return defined


def parts(own: Sequence[Function], frames: Frames) -> pl.DataFrame:
    """Parts (dialogue_id, metric, part, whole) of functions, each of which gets copies of its own.

    Raises `CrsError` for a function that raises, or returns something else than scores of dialogues in `frames`.
    """
    measured = [
        _values(name, function, frames).select("dialogue_id", pl.lit(name).alias("metric"), "value")
        for name, function in zip(definitions(own), own, strict=True)
    ]
    return pl.concat([pl.DataFrame(schema=PARTS), *map(parts_of, measured)])


def sources(own: Sequence[Function]) -> dict[str, str]:
    """SHA-256 of the source of each function, by name: what a run's identity has of it."""
    return {name: functions.source_sha256(one) for name, one in zip(definitions(own), own, strict=True)}


def _described(function: Function) -> Metric:
    """The metric that a function's name and docstring define."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise CrsError(f"a metric needs a name, which {function!r:.100} lacks; write it as def name(frames)")
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError) as error:
        raise CrsError(f"the metric {name!r} cannot be called ({error}); write it as {name}(frames)") from None
    text = one_line(inspect.getdoc(function) or "")
    return Metric(
        name,
        "own",
        one_line(name.replace("_", " ")).capitalize(),
        "",
        "none",
        text or "A metric of one's own, without a docstring.",
        settings=f"source:{functions.source_sha256(function)[:8]}",
        headline=name.replace("_", " "),
        chart=True,
    )


def _values(name: str, function: Function, frames: Frames) -> pl.DataFrame:
    """(dialogue_id, value) of a function, without nulls."""
    try:
        scores: Any = function(frames.copies())
    except (Exception, SystemExit) as error:
        raise CrsError(f"the metric {name!r} raised {functions.raised(error)}; correct it and run again") from None
    rule = "it must return a frame with columns dialogue_id and value"
    if not isinstance(scores, pl.DataFrame):
        raise CrsError(f"the metric {name!r} returned {type(scores).__name__}; {rule}")
    if set(scores.columns) != {"dialogue_id", "value"}:
        raise CrsError(f"the metric {name!r} returned columns {', '.join(scores.columns) or '(none)'}; {rule}")
    kind = scores["value"].dtype
    if not (kind.is_numeric() or kind in (pl.Boolean, pl.Null)) or scores["dialogue_id"].dtype != pl.String:
        raise CrsError(
            f"the metric {name!r} returned dialogue_id as {scores['dialogue_id'].dtype} and value as {kind}; they must "
            "be text, and numbers or truth values"
        )
    values = scores.select("dialogue_id", pl.col("value").cast(pl.Float64)).drop_nulls("value")
    if (wrong := values.filter(~pl.col("value").is_finite())).height:
        where, value = wrong.row(0)
        raise CrsError(f"the metric {name!r} returned {value} for dialogue {where!r}; leave such rows out, or null")
    if (strange := values.join(frames.dialogues, on="dialogue_id", how="anti")).height:
        raise CrsError(f"the metric {name!r} returned dialogue {strange['dialogue_id'][0]!r}, which the run lacks")
    return values.sort("dialogue_id", "value")
