"""The tables of a run: one Polars schema each, checked whenever a table is read or written; and what programs read of
its JSON files. Knows nothing of files; `store` reads and writes them.
"""

from collections.abc import Mapping
from typing import Any, NotRequired

import polars as pl
from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from crslib.errors import CrsError

Schema = Mapping[str, pl.DataType | type[pl.DataType]]

_TEXTS = pl.List(pl.String)
_ATTRIBUTES = pl.List(pl.Struct({"name": pl.String, "value": pl.String}))
_SIDE = ("run", "condition", "dialogue")
_VOTES: Schema = {
    "pair_id": pl.String,
    "criterion": pl.String,
    "rater": pl.String,
    **{f"{side}_{what}": pl.String for side in ("left", "right") for what in _SIDE},
    "choice": pl.String,
    "preference": pl.Float64,
    "order": pl.Int32,
    "seconds": pl.Float64,
    "at": pl.String,
}
MENTION = pl.Struct({"item_id": pl.String, "title": pl.String, "start": pl.Int32, "end": pl.Int32})
UTTERANCES = pl.List(pl.Struct({"role": pl.String, "text": pl.String}))
NOTE = pl.Struct({"item_id": pl.String, "title": pl.String, "seen": pl.Boolean, "liked": pl.Boolean})

TABLES: Mapping[str, Schema] = {
    # Catalogue facts. `title` is in natural order ("The Godfather"). `n_ratings` and `mean_rating` are of the table
    # `ratings` in the same folder: all ratings in the data folder, training ratings only in a run.
    "items": {
        "item_id": pl.String,
        "title": pl.String,
        "year": pl.Int32,
        "kinds": _TEXTS,
        "makers": _TEXTS,
        "people": _TEXTS,
        "attributes": _ATTRIBUTES,
        "external_id": pl.String,
        "n_ratings": pl.Int32,
        "mean_rating": pl.Float64,
    },
    # `rated_at` in seconds since 1970, null where unknown.
    "ratings": {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "rated_at": pl.Int64},
    # `target_decade`, `liked_decade`: the first year of a decade, or a year, as the domain says time. `target_…`: what
    # the user looks for, `liked_…`, `disliked_…`: what its summary says. What a user simulator may know. Everything
    # comes from the visible part of the history, except the target attributes in `heldout` mode (never a title).
    "profiles": {
        "profile_id": pl.String,
        "user_id": pl.String,
        "summary": pl.String,
        "attributes": pl.String,
        "target_mode": pl.String,
        "target_kinds": _TEXTS,
        "target_decade": pl.Int32,
        "target_person": pl.String,
        "target_maker": pl.String,
        "target_attributes": _ATTRIBUTES,
        "k_anonymity": pl.Int32,
        "relaxed": _TEXTS,
        "liked_kinds": _TEXTS,
        "disliked_kinds": _TEXTS,
        "liked_decade": pl.Int32,
        "liked_makers": _TEXTS,
        "liked_attributes": _ATTRIBUTES,
        "loved_items": _TEXTS,
        "disliked_items": _TEXTS,
        "n_visible": pl.Int32,
    },
    # Evaluation only: the later part of each profile's history. `liked`: rated at or above the user's visible mean.
    "holdouts": {"profile_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "liked": pl.Boolean},
    "dialogues": {
        "dialogue_id": pl.String,
        "run_id": pl.String,
        "profile_id": pl.String,
        "condition": pl.String,
        "opener": pl.String,
        "seed": pl.Int64,
        "stop_reason": pl.String,
        "n_turns": pl.Int32,
        "user_style": pl.String,
        "recommender_style": pl.String,
    },
    # How human speakers write (`dialogue.styles`), and in how many dialogues.
    "styles": {
        "role": pl.String,
        "length": pl.String,
        "capitals": pl.String,
        "stops": pl.String,
        "exclamations": pl.String,
        "n": pl.Int32,
    },
    # `text` is format v1 (`[[Title (Year)]]`); `items[].start/end` index its characters, brackets included;
    # `item_id` is null for a title that is not in the catalogue. `notes` is what the user privately remembers or thinks
    # of the items that it answers to (user turns only). `finish`: end, max_tokens or context_full.
    "turns": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "text": pl.String,
        "items": pl.List(MENTION),
        "notes": pl.List(NOTE),
        "n_tokens": pl.Int32,
        "mean_logprob": pl.Float64,
        "finish": pl.String,
    },
    # What was newly given to the speaking role's agent before a turn. `n_tokens`: words where it counts no tokens.
    "prompts": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "text": pl.String,
        "n_tokens": pl.Int32,
    },
    # Human dialogues as `data.corpora.folder` stores them. `user`, `recommender`: who spoke; no agent ever sees these
    # ids. `summary`, `attributes`: what the seeker was told; `targets`: ids of the items that were to be found; null:
    # the corpus does not say.
    "conversations": {
        "dialogue_id": pl.String,
        "user": pl.String,
        "recommender": pl.String,
        "summary": pl.String,
        "attributes": pl.String,
        "targets": _TEXTS,
    },
    # The turns of these dialogues, as in table `turns`. `n_messages`: as it is in `corpora.Turn`.
    "utterances": {
        "dialogue_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "text": pl.String,
        "items": pl.List(MENTION),
        "n_messages": pl.Int32,
    },
    # What the seeker of a human dialogue says of its items, in the order of `corpora.Dialogue.items`; null: not known.
    "answers": {
        "dialogue_id": pl.String,
        "item_id": pl.String,
        "title": pl.String,
        "suggested": pl.Boolean,
        "seen": pl.Boolean,
        "liked": pl.Boolean,
        "source": pl.String,
    },
    # Dialogues that could not be simulated: whose utterance was missing, at which turn, and why.
    "failures": {
        "dialogue_id": pl.String,
        "profile_id": pl.String,
        "turn": pl.Int32,
        "role": pl.String,
        "error": pl.String,
    },
    # One value per dialogue and metric. A dialogue in which a metric is undefined (nothing to count) has no row.
    "scores": {"run_id": pl.String, "dialogue_id": pl.String, "metric": pl.String, "value": pl.Float64},
    # What people said of stored dialogues, such as `satisfaction`; `turn` is null for a label of the whole dialogue.
    "labels": {"dialogue_id": pl.String, "turn": pl.Int32, "label": pl.String, "value": pl.Float64},
    # One row per metric: estimate, 95 % interval over dialogues, the value of human dialogues and the human-vs-human
    # floor of a distance (null where there is none). `signature`: what has to be equal for two values to be comparable
    # (`metrics.Metric.signature`), such as `crslib:0.1.0|n:64|boot:1000|seed:0|ratio:90`.
    "metrics": {
        "metric": pl.String,
        "family": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
        "human": pl.Float64,
        "floor": pl.Float64,
        "unit": pl.String,
        "direction": pl.String,
        "signature": pl.String,
    },
    # One row per metric with a bootstrap interval: its value in each resample of the dialogues. Resample k of two runs
    # with the same dialogues and seed is of the same dialogues, so that their differences are paired.
    "resamples": {"metric": pl.String, "values": pl.List(pl.Float64)},
    # How people's satisfaction goes with a metric, over the dialogues that have both: Spearman's rank correlation with
    # its 95 % interval.
    "correlations": {
        "metric": pl.String,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "n": pl.Int64,
    },
    # One row per answer of a rater, a model or a person, who saw two dialogues of one profile, `left` first. `pair_id`
    # does not depend on the sides. `choice`: left, right, tie, or null for no usable answer. `preference`: P(left) −
    # P(right) where the rater gives probabilities. `order`: number of earlier answers. `at`: UTC, ISO 8601.
    "votes": _VOTES,
    # The same for pairs with a known answer: a dialogue and its corrupted copy, whose condition names the corruption.
    "controls": _VOTES,
    # One row per mark of a dialogue, 1 to 5 (a mean where the rater gives probabilities); null: no usable answer.
    "marks": {
        "run_id": pl.String,
        "condition": pl.String,
        "dialogue_id": pl.String,
        "criterion": pl.String,
        "rater": pl.String,
        "mark": pl.Float64,
        "n_words": pl.Int32,
        "seconds": pl.Float64,
        "at": pl.String,
    },
    # What raters see: two dialogues of one profile, or a human one (condition `human`, no profile) and a simulated one,
    # on random sides. A condition `shuffled` or `repeating` is a corrupted copy of the other side: an attention check.
    "pairs": {
        "pair_id": pl.String,
        "profile_id": pl.String,
        "summary": pl.String,
        "attributes": pl.String,
        **{f"{side}_{what}": pl.String for side in ("left", "right") for what in _SIDE},
        "left_turns": UTTERANCES,
        "right_turns": UTTERANCES,
    },
}


def empty(name: str) -> pl.DataFrame:
    """A table of schema `name` without rows."""
    return pl.DataFrame(schema=dict(TABLES[name]))


def check(frame: pl.DataFrame, name: str) -> pl.DataFrame:
    """`frame` with exactly the columns of table `name`, in order.

    Raises `CrsError` with the first column that is missing, unknown or of another type.
    """
    schema = TABLES[name]
    if missing := [column for column in schema if column not in frame.columns]:
        raise CrsError(f"table {name} lacks column {missing[0]!r}; it needs {', '.join(schema)}")
    if surplus := [column for column in frame.columns if column not in schema]:
        raise CrsError(f"table {name} has an unknown column {surplus[0]!r}; it holds {', '.join(schema)} only")
    for column, dtype in schema.items():
        if frame.schema[column] != dtype:
            raise CrsError(f"column {column!r} of table {name} is {frame.schema[column]}; it must be {dtype}")
    return frame.select(list(schema))


# ── JSON files ──────────────────────────────────────────────────────────────────────────────────────────────────────

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
OPEN = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")  # it holds more, for people
Plain = str | int | float | bool | None


@with_config(STRICT)
class Usage(TypedDict):
    """What a role's server counted."""

    tokens_in: int
    tokens_out: int
    price: NotRequired[float]


@with_config(ConfigDict(extra="forbid"))
class NoUsage(TypedDict):
    """Of a role without a server."""


@with_config(OPEN)
class Source(TypedDict):
    """The file whose dialogues a run evaluates."""

    name: str
    form: str
    sha256: str
    lines: list[str]


@with_config(OPEN)
class Machine(TypedDict):
    cpu: str
    cores: int | None


@with_config(STRICT)
class Measured(TypedDict):
    """An estimate with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    n: int


@with_config(OPEN)
class RunRecord(TypedDict, total=False):
    """`run.json`, as far as programs read it; it holds more for people. A run that is not finished lacks parts."""

    run_id: str
    status: str
    started: str | None
    finished: str | None
    stages: dict[str, float]
    files: dict[str, dict[str, str]]
    parameters: dict[str, Any]
    parameters_given: dict[str, Any]
    agents: dict[str, dict[str, Any]]
    usage: dict[str, Usage | NoUsage]
    n_failed: int
    n_made: int
    audit: dict[str, int | None] | None
    opinion_auc: Measured | None
    source: Source
    lacking: list[str]
    machine: Machine
    git: dict[str, Any] | None
    error: str | None
    traceback: str | None


@with_config(STRICT)
class ConditionRecord(TypedDict):
    """A run of a sweep: `path` from the sweep's folder, `values` of its axes."""

    run_id: str
    path: str
    state: str
    values: dict[str, Plain]
    error: NotRequired[str | None]


@with_config(OPEN)
class SweepRecord(TypedDict):
    """`sweep.json`."""

    axes: list[str]
    conditions: list[ConditionRecord]


@with_config(STRICT)
class ProgressRecord(TypedDict):
    """`progress.json`: how much of what is done; `first`: how much was, at the first report."""

    done: int
    total: int
    what: str
    first: NotRequired[int]


@with_config(OPEN)
class _Condition(TypedDict):
    condition: str


@with_config(OPEN)
class Listed(TypedDict):
    """What the list of runs needs of a `run.json`."""

    run_id: str
    status: str
    started: NotRequired[str | None]
    finished: NotRequired[str | None]
    parameters: _Condition


RUN, LISTED = TypeAdapter(RunRecord), TypeAdapter(Listed)
SWEEP, PROGRESS = TypeAdapter(SweepRecord), TypeAdapter(ProgressRecord)


def agent_words(agent: Mapping[str, Any]) -> str:
    """An agent of `run.json` in words: the hashes of a model's files and whether it is untried, or what else speaks."""
    if "model_sha256" in agent:
        adapter = agent.get("adapter_sha256")
        untried = f"; {agent['untried']}" if agent.get("untried") else ""
        return f"model {agent['model_sha256']}, adapter {adapter or 'none'}{untried}"
    return ", ".join(str(agent[name]) for name in ("agent", "name", "model", "url") if agent.get(name)) or "unknown"
