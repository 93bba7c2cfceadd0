"""A negative control: each dialogue is held against another person's profile, history and hidden items.

What depends on who talked (do answers fit the notes, are hidden items found, does the talk contradict the summary) must
get worse; a figure that does not has measured something else. No dialogue changes, so the two are paired.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from crslib import schemas
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.users.opinions import Opinions


def strangers(profile_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Somebody else for everybody: each profile's place in one random circle, to the next. Raises `CrsError` for one
    profile alone."""
    names = sorted(profile_ids)
    if len(names) < 2:
        raise CrsError("judged_by = 'another' needs two or more profiles; raise n_profiles")
    circle = np.random.default_rng(derive_seed(seed, "strangers")).permutation(len(names))
    return {names[one]: names[other] for one, other in zip(circle, np.roll(circle, -1), strict=True)}


def exchange(
    dialogues: pl.DataFrame, turns: pl.DataFrame, profiles: pl.DataFrame, opinions: Opinions, seed: int
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `dialogues` and `turns` as if another person of `profiles` had talked: the stranger's `profile_id`, and
    notes that say what the stranger remembers or thinks of the same items."""
    others = strangers(profiles["profile_id"], seed)
    swapped = dialogues.with_columns(pl.col("profile_id").replace_strict(others))
    whose = dict(swapped.select("dialogue_id", "profile_id").iter_rows())
    notes = [
        [_of(note, whose[dialogue], opinions) for note in noted]
        for dialogue, noted in turns.select("dialogue_id", "notes").iter_rows()
    ]
    return swapped, turns.with_columns(pl.Series("notes", notes, dtype=schemas.TABLES["turns"]["notes"]))


def _of(note: Mapping[str, Any], profile_id: str, opinions: Opinions) -> dict[str, Any]:
    seen, liked = opinions.of(profile_id, note["item_id"])
    return {**note, "seen": seen, "liked": liked}
