"""A negative control: each dialogue is evaluated against another profile with its history and hidden items.

Metrics that depend on the profile (agreement with the notes, recall of hidden items, contradictions of the summary)
must get worse; a metric that does not get worse measures something else. The dialogues stay the same, so the two
evaluations are paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from crslib import schemas
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.users.opinions import UserOpinions


def strangers(profile_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Another profile for each of `profile_ids`: the next one in a random circle of all. Raises `CrsError` for fewer
    than two."""
    names = sorted(profile_ids)
    if len(names) < 2:
        raise CrsError("judged_by = 'another' needs two or more profiles; raise n_profiles")
    circle = np.random.default_rng(derive_seed(seed, "strangers")).permutation(len(names))
    return {names[one]: names[other] for one, other in zip(circle, np.roll(circle, -1), strict=True)}


def exchange(
    dialogues: pl.DataFrame,
    turns: pl.DataFrame,
    profiles: pl.DataFrame,
    opinions: UserOpinions,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `dialogues` and `turns` as if another one of `profiles` had talked: its `profile_id`, and notes of what it
    remembers or thinks of the same items."""
    others = strangers(profiles["profile_id"].to_list(), seed)
    swapped = dialogues.with_columns(pl.col("profile_id").replace_strict(others))
    owner = dict(swapped.select("dialogue_id", "profile_id").iter_rows())
    notes = [
        [_of(note, owner[dialogue_id], opinions) for note in of_turn]
        for dialogue_id, of_turn in turns.select("dialogue_id", "notes").iter_rows()
    ]
    return swapped, turns.with_columns(pl.Series("notes", notes, dtype=schemas.TABLES["turns"]["notes"]))


def _of(note: Mapping[str, Any], profile_id: str, opinions: UserOpinions) -> dict[str, Any]:
    seen, liked = opinions.of(profile_id, note["item_id"])
    return {**note, "seen": seen, "liked": liked}
