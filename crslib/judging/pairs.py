"""Which pairs of dialogues people compare, and in which order and on which side each rater sees them.

Every random choice is a sort by a derived seed: the same runs and seed give the same pairs, and a rater who comes back
gets the same order. Knows neither votes nor pages nor the files of a study.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import Path
from typing import Any

import polars as pl

from crslib import schemas
from crslib.data.catalog import Catalog
from crslib.dialogue.domain import of_run
from crslib.errors import CrsError
from crslib.identity import derive_seed, digest
from crslib.judging import turing
from crslib.judging.controls import REPEATING, SHUFFLED, corrupt
from crslib.judging.turing import HUMAN
from crslib.store import Run

CHECKS = (SHUFFLED, REPEATING)
"""Conditions that exist in attention checks only: corrupted copies of a dialogue."""
EVERY = 10  # pairs per attention check, and pairs per pair that is shown a second time
CHECK_TURNS = 6  # least length of a dialogue in a check: corruption of a shorter one is hard to notice

_Dialogues = Mapping[str, dict[str, Any]]
_Candidates = dict[tuple[str, str], list[tuple[dict[str, Any], dict[str, Any]]]]
_SCHEMA = dict(schemas.TABLES["pairs"])
_SIDE = {"run": "run_id", "condition": "condition", "dialogue": "dialogue_id", "turns": "turns"}


def pair_id(*sides: tuple[str, str, str]) -> str:
    """The id of a pair from (run_id, dialogue_id, condition) of its two dialogues, in either order. `condition` is the
    one in the run's own table, so that people's and models' votes on the same dialogues share the id."""
    return digest(sorted([list(side) for side in sides]), "pair")


# ── building pairs ────────────────────────────────────────────────────────────────────────────────────────────────


def build(runs: Mapping[str, Run], n_pairs: int, seed: int, redial: Path | None = None) -> pl.DataFrame:
    """`n_pairs` pairs from two or more runs (condition → run), and attention checks in addition: table `pairs`.

    A pair is one profile's dialogue (of the same id) under two conditions. All pairs of conditions are equally
    frequent, each condition is as often left as right (±1), and no profile is used twice before all are used once.
    Turns without text are not shown, nor dialogues in which one party says nothing. A check sets a dialogue against a
    copy with shuffled turns (`shuffled`) or with one text for all turns of the recommender (`repeating`). Profiles that
    are in no pair are preferred for checks.

    With `redial` (ReDial's zip or folder) one run is enough. A pair then is one of its dialogues and a human one with
    the same opener and the same number of turns, both in the form of `turing.normalise` and without a profile. No human
    dialogue is used twice.

    Raises `CrsError` for too few runs, a condition with the name of a check or `human`, or too few dialogues.
    """
    candidates, dialogues, which = _candidates(runs, seed, redial)
    if (available := sum(map(len, candidates.values()))) < n_pairs:
        names = ", ".join(runs)
        raise CrsError(f"{n_pairs} pairs asked for, but {names} have {available} {which}; ask for as many at most")
    rows: list[dict[str, Any]] = []
    used: set[str] = set()
    n_drawn = dict.fromkeys(candidates, 0)
    while len(rows) < n_pairs:
        for number, (conditions, rest) in enumerate(candidates.items()):
            if rest and len(rows) < n_pairs:
                pair = next((pair for pair in rest if pair[1]["dialogue_id"] not in used), rest[0])
                rest.remove(pair)
                used.update(side["dialogue_id"] for side in pair)
                rows.append(_row(*(pair if (n_drawn[conditions] + number) % 2 == 0 else reversed(pair))))
                n_drawn[conditions] += 1
    return schemas.check(pl.DataFrame(rows + _checks(dialogues, used, n_pairs, seed), schema=_SCHEMA), "pairs")


def n_pairs_of(runs: Mapping[str, Run], seed: int, redial: Path | None = None) -> int:
    """How many pairs there are. Arguments and errors as of `build`."""
    candidates, _, _ = _candidates(runs, seed, redial)
    return sum(map(len, candidates.values()))


def _candidates(
    runs: Mapping[str, Run], seed: int, redial: Path | None
) -> tuple[_Candidates, dict[str, _Dialogues], str]:
    """The pairs of each two conditions, in the order in which they are taken; all dialogues; and in words of what kind
    the pairs are."""
    if len(runs) < (1 if redial else 2):
        raise CrsError("people compare the dialogues of two or more runs; name two run folders, or that of a sweep")
    if reserved := sorted({*CHECKS, HUMAN} & set(runs)):
        raise CrsError(
            f"condition {reserved[0]!r} has the name of an attention check or of human dialogues; rename that condition"
        )
    dialogues: dict[str, _Dialogues] = {condition: _shown(run, condition) for condition, run in runs.items()}
    if redial:
        first = next(iter(runs.values()))
        catalog = Catalog(first.read("items"), of_run(first))
        human = turing.human_dialogues(redial, catalog)
        dialogues = {condition: _normalised(own, catalog) for condition, own in dialogues.items()}
        candidates, which = _with_human(dialogues, human, seed), "with the opener and length of a human one"
        dialogues[HUMAN] = human
    else:
        candidates, which = _of_same_profile(dialogues, seed), "of one profile"
    return candidates, dialogues, which


def _shown(run: Run, condition: str) -> dict[str, dict[str, Any]]:
    """The dialogues of a run in which both parties speak, by id: ids, condition, profile and turns. `condition` is the
    name in the study, `own_condition` the one in the run's table."""
    turns = (
        run.read("turns")
        .filter(pl.col("text") != "")
        .sort("dialogue_id", "turn")
        .group_by("dialogue_id", maintain_order=True)
        .agg(pl.struct("role", "text").alias("turns"), pl.col("role").n_unique().alias("parties"))
    )
    table = (
        run.read("dialogues")
        .rename({"condition": "own_condition"})
        .join(run.read("profiles"), on="profile_id")
        .join(turns.filter(pl.col("parties") == 2), on="dialogue_id")
        .select("dialogue_id", "run_id", "own_condition", "profile_id", "summary", "attributes", "turns")
        .sort("dialogue_id")
    )
    return {row["dialogue_id"]: {**row, "condition": condition} for row in table.iter_rows(named=True)}


def _normalised(dialogues: _Dialogues, catalog: Catalog) -> _Dialogues:
    """The dialogues in the form of human ones and without profiles; those with an item without a year are left out."""
    forms = {name: turing.normalise(dialogue["turns"], catalog) for name, dialogue in dialogues.items()}
    return {
        name: {**dialogues[name], **turing.NO_PROFILE, "turns": turns}
        for name, turns in forms.items()
        if turns is not None
    }


def _of_same_profile(dialogues: Mapping[str, _Dialogues], seed: int) -> _Candidates:
    """For every two conditions the pairs of one profile's dialogues, in random order."""
    candidates = {}
    for a, b in combinations(dialogues, 2):
        left, right = dialogues[a], dialogues[b]
        both = [name for name in left if name in right and _same_profile(left[name], right[name])]
        candidates[a, b] = [(left[name], right[name]) for name in _shuffled(both, seed)]
    return candidates


def _with_human(dialogues: Mapping[str, _Dialogues], human: _Dialogues, seed: int) -> _Candidates:
    """For `human` and each condition the pairs of a human dialogue and a simulated one of the same shape, in random
    order. No human dialogue is used twice: a rater who sees it again would know that it is the real one."""
    unused = defaultdict(list)
    for name in _shuffled(human, seed):
        unused[turing.shape(human[name])].append(human[name])
    candidates: _Candidates = {(HUMAN, condition): [] for condition in dialogues}
    # conditions take turns, so that none of them uses up the rare shapes
    for names in zip_longest(*(_shuffled(own, seed) for own in dialogues.values())):
        for condition, name in zip(dialogues, names, strict=True):
            if name is not None and (matches := unused[turing.shape(dialogues[condition][name])]):
                candidates[HUMAN, condition].append((matches.pop(0), dialogues[condition][name]))
    return candidates


def _shuffled(ids: Iterable[str], seed: int) -> list[str]:
    return sorted(ids, key=lambda name: derive_seed(seed, "pair", name))


def _same_profile(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("profile_id", "summary", "attributes"))


def _row(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    """The row of table `pairs`."""
    return {
        "pair_id": pair_id(*((side["run_id"], side["dialogue_id"], side["own_condition"]) for side in (left, right))),
        **{name: left[name] for name in ("profile_id", "summary", "attributes")},
        **{f"left_{name}": left[column] for name, column in _SIDE.items()},
        **{f"right_{name}": right[column] for name, column in _SIDE.items()},
    }


# ── attention checks ──────────────────────────────────────────────────────────────────────────────────────────────


def _checks(dialogues: Mapping[str, _Dialogues], used: set[str], n_pairs: int, seed: int) -> list[dict[str, Any]]:
    """One check per `EVERY` pairs, at least one of each kind, of dialogues that are long enough; conditions in turn."""
    queues = []
    for condition, own in dialogues.items():
        long = [dialogue for dialogue in own.values() if len(dialogue["turns"]) >= CHECK_TURNS]
        keys = {one["dialogue_id"]: derive_seed(seed, "check", condition, one["dialogue_id"]) for one in long}
        queues.append(sorted(long, key=lambda one: (one["dialogue_id"] in used, keys[one["dialogue_id"]])))
    rows: list[dict[str, Any]] = []
    checked: set[str] = set()
    for number in range(max(len(CHECKS), n_pairs // EVERY)):
        turn, place = divmod(number, len(queues))
        free = [dialogue for dialogue in queues[place] if dialogue["dialogue_id"] not in checked]
        if free:
            intact, kind = free[0], CHECKS[(turn + place) % len(CHECKS)]  # every condition gets both kinds
            checked.add(intact["dialogue_id"])
            copy = corrupt([(turn["role"], turn["text"]) for turn in intact["turns"]], kind, seed)
            turns = [{"role": role, "text": text} for role, text in copy]
            corrupted = {**intact, "condition": kind, "own_condition": kind, "turns": turns}
            corrupted_left = derive_seed(seed, "side", intact["dialogue_id"]) % 2
            rows.append(_row(corrupted, intact) if corrupted_left else _row(intact, corrupted))
    return rows


def is_check() -> pl.Expr:
    """Whether a row of `pairs` or `votes` is an attention check."""
    return pl.col("left_condition").is_in(CHECKS) | pl.col("right_condition").is_in(CHECKS)


# ── what one rater sees ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Showing:
    """One pair as a rater sees it. `swapped`: the sides of table `pairs` are exchanged."""

    pair_id: str
    swapped: bool


def schedule(pairs: pl.DataFrame, number: int, seed: int) -> list[Showing]:
    """What the rater of this number (0, 1, … in order of arrival) sees, in order.

    Each rater has an order of their own. Every second rater sees all pairs with exchanged sides, so that over raters a
    pair is seen both ways. One pair in `EVERY`, at least one, is shown in the first third and again, with exchanged
    sides, in the last third.
    """

    def key(*keys: str) -> int:
        return derive_seed(seed, "rater", number, *keys)

    swapped = number % 2 == 1
    shown = [Showing(name, swapped) for name in sorted(pairs["pair_id"], key=lambda name: key("order", name))]
    no_checks = set(pairs.filter(~is_check())["pair_id"])
    early = [showing for showing in shown[: max(1, len(shown) // 3)] if showing.pair_id in no_checks]
    n_repeats = max(1, len(no_checks) // EVERY)
    for showing in sorted(early, key=lambda showing: key("again", showing.pair_id))[:n_repeats]:
        last_third = len(shown) - 2 * len(shown) // 3
        shown.insert(len(shown) - key("where", showing.pair_id) % last_third, Showing(showing.pair_id, not swapped))
    return shown
