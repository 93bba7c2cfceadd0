"""Which dialogues people compare, and in which order and on which side each rater sees them.

Every draw is a sort by a derived seed: the same runs and seed give the same pairs, and a rater who comes back finds the
same order. Knows nothing of votes, pages or files of a study.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from crslib import schemas
from crslib.config import ROOT
from crslib.data.catalog import Catalog
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.judging import turing
from crslib.judging.controls import REPEATING, SHUFFLED, spoil
from crslib.judging.turing import HUMAN
from crslib.store import Run

CHECKS = (SHUFFLED, REPEATING)
"""Conditions that exist in attention checks only: an intact dialogue's spoilt copies."""
EVERY = 10  # one attention check, and one pair that comes back with its sides changed, among so many pairs
CHECK_TURNS = 6  # what is spoilt must be long enough to notice


# ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Question:
    """What is asked of a pair. `profile`: the private profile is shown; `check`: a spoilt copy must lose it."""

    criterion: str
    question: str
    profile: bool = False
    check: bool = False


def read_questions(path: Path = ROOT / "data/questions.yaml") -> list[Question]:
    """The questions of a YAML list. Raises `CrsError` when the file is missing or holds something else."""
    try:
        questions = [Question(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except OSError as error:
        raise CrsError(f"cannot read the questions in {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        why = " ".join(str(error).split())
        raise CrsError(f"{path} must be a YAML list of criterion, question, profile and check: {why}") from None
    names = [question.criterion for question in questions]
    if not names or len(set(names)) < len(names):
        raise CrsError(f"{path} must hold one or more questions, each with a criterion of its own; found {names}")
    return questions


# ── pairs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def build(runs: Mapping[str, Run], n_pairs: int, seed: int, redial: Path | None = None) -> pl.DataFrame:
    """`n_pairs` pairs from two or more runs (condition → run), and attention checks on top: table `pairs`.

    A pair is one profile's dialogue (of the same id, so the same copy) under two conditions; conditions meet equally
    often, each as often left as right (±1), and nobody comes twice before all have come. Turns without words are
    not shown, nor dialogues in which one side says nothing. Checks set an intact dialogue against a copy with its turns
    shuffled (`shuffled`), or with one line for all the recommender says (`repeating`); they prefer people who are in no
    pair.

    With `redial` (ReDial's zip or folder) one run is enough, and a pair is one of its dialogues beside one of two
    people that the same side opens and that has as many turns, both in one form (`humans.alike`). No human dialogue
    comes twice, and there is no profile.

    Raises `CrsError` for too few runs, a condition called like a check or like people, or too few dialogues that fit.
    """
    if len(runs) < (1 if redial else 2):
        raise CrsError("people compare the dialogues of two or more runs; name two run folders, or that of a sweep")
    if taken := sorted({*CHECKS, HUMAN} & set(runs)):
        raise CrsError(
            f"condition {taken[0]!r} is called like an attention check, or like people; give that run another name"
        )
    talks = {condition: _talks(run, condition) for condition, run in runs.items()}
    if redial:
        catalog = Catalog(next(iter(runs.values())).read("items"))
        people = turing.talks(redial, catalog)
        talks = {condition: _alike(own, catalog) for condition, own in talks.items()}
        met, fitting = _beside_people(talks, people, seed), "that a human one fits in opener and turns"
        talks[HUMAN] = people
    else:
        met, fitting = _of_one_profile(talks, seed), "of one profile"
    if (there := sum(map(len, met.values()))) < n_pairs:
        names = ", ".join(runs)
        raise CrsError(f"{n_pairs} pairs asked for, but {names} have {there} {fitting}; ask for as many at most")
    rows, used, times = [], set(), dict.fromkeys(met, 0)
    while len(rows) < n_pairs:
        for number, (ab, rest) in enumerate(met.items()):
            if rest and len(rows) < n_pairs:
                pair = next((pair for pair in rest if pair[1]["dialogue_id"] not in used), rest[0])
                rest.remove(pair)
                used.update(side["dialogue_id"] for side in pair)
                rows.append(_pair(*(pair if (times[ab] + number) % 2 == 0 else reversed(pair))))
                times[ab] += 1
    return schemas.check(pl.DataFrame(rows + _checks(talks, used, n_pairs, seed), schema=_SCHEMA), "pairs")


_Talks = Mapping[str, dict[str, Any]]
_Met = dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]]
_SCHEMA = dict(schemas.TABLES["pairs"])
_SIDE = {"run": "run_id", "condition": "condition", "dialogue": "dialogue_id", "turns": "turns"}


def _talks(run: Run, condition: str) -> dict[str, dict[str, Any]]:
    """Dialogue id → condition, run, profile and turns of every dialogue that is shown."""
    said = (
        run.read("turns")
        .filter(pl.col("text") != "")
        .sort("dialogue_id", "turn")
        .group_by("dialogue_id", maintain_order=True)
        .agg(pl.struct("role", "text").alias("turns"), pl.col("role").n_unique().alias("sides"))
    )
    table = (
        run.read("dialogues")
        .rename({"condition": "called"})
        .join(run.read("profiles"), on="profile_id")
        .join(said.filter(pl.col("sides") == 2), on="dialogue_id")
        .select("dialogue_id", "run_id", "called", "profile_id", "summary", "attributes", "turns")
        .sort("dialogue_id")
    )
    return {row["dialogue_id"]: {**row, "condition": condition} for row in table.iter_rows(named=True)}


def _alike(talks: _Talks, catalog: Catalog) -> _Talks:
    """The dialogues as human ones are shown: in one form, without profiles, and none in which a film has no year."""
    formed = {one: turing.alike(talk["turns"], catalog) for one, talk in talks.items()}
    return {one: {**talks[one], **turing.NOBODY, "turns": turns} for one, turns in formed.items() if turns is not None}


def _of_one_profile(talks: Mapping[str, _Talks], seed: int) -> _Met:
    """Every two conditions → the pairs of one profile's dialogues, in the order in which they are drawn."""
    met = {}
    for a, b in combinations(talks, 2):
        both = [one for one in talks[a] if one in talks[b] and _same_person(talks[a][one], talks[b][one])]
        met[a, b] = [(talks[a][one], talks[b][one]) for one in _drawn(both, seed)]
    return met


def _beside_people(talks: Mapping[str, _Talks], people: _Talks, seed: int) -> _Met:
    """People and each condition → the pairs of a human dialogue and a simulated one of its kind, as they are drawn.

    No human dialogue comes twice: who meets it again would know it for the real one.
    """
    free = defaultdict(list)
    for one in _drawn(people, seed):
        free[turing.kind(people[one])].append(people[one])
    met: _Met = {(HUMAN, condition): [] for condition in talks}
    for in_turn in zip_longest(*(_drawn(own, seed) for own in talks.values())):  # no condition takes the rare ones
        for condition, one in zip(talks, in_turn, strict=True):
            if one is not None and (fit := free[turing.kind(talks[condition][one])]):
                met[HUMAN, condition].append((fit.pop(0), talks[condition][one]))
    return met


def _drawn(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda one: derive_seed(seed, "pair", one))


def _same_person(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("profile_id", "summary", "attributes"))


def _pair(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    who = sorted([side["run_id"], side["dialogue_id"], side["called"]] for side in (left, right))
    return {
        "pair_id": digest(who, "pair"),
        **{name: left[name] for name in ("profile_id", "summary", "attributes")},
        **{f"left_{name}": left[column] for name, column in _SIDE.items()},
        **{f"right_{name}": right[column] for name, column in _SIDE.items()},
    }


# ── attention checks ──────────────────────────────────────────────────────────────────────────────────────────────


def _checks(talks: Mapping[str, Mapping[str, dict[str, Any]]], used: set[str], n_pairs: int, seed: int) -> list[Any]:
    """One check per `EVERY` pairs, one of each kind at least, where dialogues are long enough; conditions in turn."""
    wanted = max(len(CHECKS), n_pairs // EVERY)
    queues = []
    for condition, own in talks.items():
        fit = [talk for one, talk in own.items() if len(talk["turns"]) >= CHECK_TURNS]
        keys = {talk["dialogue_id"]: derive_seed(seed, "check", condition, talk["dialogue_id"]) for talk in fit}
        queues.append(sorted(fit, key=lambda talk: (talk["dialogue_id"] in used, keys[talk["dialogue_id"]])))
    rows, taken = [], set()
    for number in range(wanted):
        turn, place = divmod(number, len(queues))
        free = [talk for talk in queues[place] if talk["dialogue_id"] not in taken]
        if free:
            talk, kind = free[0], CHECKS[(turn + place) % len(CHECKS)]  # both kinds for every condition
            taken.add(talk["dialogue_id"])
            copy = spoil([(turn["role"], turn["text"]) for turn in talk["turns"]], kind, seed)
            turns = [{"role": role, "text": text} for role, text in copy]
            spoilt = {**talk, "condition": kind, "called": kind, "turns": turns}
            left = derive_seed(seed, "side", talk["dialogue_id"]) % 2
            rows.append(_pair(spoilt, talk) if left else _pair(talk, spoilt))
    return rows


# ── what one rater sees ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Showing:
    """One pair as a rater sees it; `swapped`: the sides of table `pairs` are changed."""

    pair_id: str
    swapped: bool


def schedule(pairs: pl.DataFrame, number: int, seed: int) -> list[Showing]:
    """What the rater of this number (0, 1, … as they come) sees, in order.

    All pairs in an order of the rater's own; every second rater sees all sides changed, so that over raters a pair has
    been seen both ways. One pair in `EVERY`, one at least, comes from the first third and again, with its sides
    changed, in the last third.
    """

    def drawn(*keys: str) -> int:
        return derive_seed(seed, "rater", number, *keys)

    swapped = number % 2 == 1
    shown = [Showing(one, swapped) for one in sorted(pairs["pair_id"], key=lambda one: drawn("order", one))]
    real = set(pairs.filter(~is_check())["pair_id"])
    early = [showing for showing in shown[: max(1, len(shown) // 3)] if showing.pair_id in real]
    wanted = max(1, len(real) // EVERY)
    for showing in sorted(early, key=lambda showing: drawn("again", showing.pair_id))[:wanted]:
        last = len(shown) - 2 * len(shown) // 3
        shown.insert(len(shown) - drawn("where", showing.pair_id) % last, Showing(showing.pair_id, not swapped))
    return shown


def is_check() -> pl.Expr:
    """Whether a row of `pairs` or `votes` is an attention check."""
    return pl.col("left_condition").is_in(CHECKS) | pl.col("right_condition").is_in(CHECKS)
