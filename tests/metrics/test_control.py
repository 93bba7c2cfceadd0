"""The control that evaluates dialogues against another profile."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.errors import CrsError
from crslib.metrics.control import exchange, strangers
from tests.support.metrics_frames import talk


class Known:
    """u1 has seen and liked everything; u2 has seen nothing and would not like it."""

    def of(self, profile_id: str, item_id: str | None) -> tuple[bool | None, bool | None]:
        return profile_id == "u1", profile_id == "u1"


def test_profile_and_notes_are_those_of_the_other_profile() -> None:
    notes = {("u1.0", 1): [("Heat (1995)", True, True)], ("u2.0", 1): [("Up (2009)", False, False)]}
    dialogues, turns = talk({f"u{n}.0": ["R: [[Heat (1995)]]?", "U: Great, thanks."] for n in (1, 2)}, notes)
    profiles = pl.DataFrame({"profile_id": ["u1", "u2"]})
    swapped, exchanged = exchange(dialogues, turns, profiles, Known(), 0)
    assert swapped.select("dialogue_id", "profile_id").rows() == [("u1.0", "u2"), ("u2.0", "u1")]
    noted = exchanged.filter(pl.col("notes").list.len() > 0).select("dialogue_id", "notes").rows()
    assert [(name, note["title"], note["seen"], note["liked"]) for name, (note,) in noted] == [
        ("u1.0", "Heat (1995)", False, False),
        ("u2.0", "Up (2009)", True, True),
    ]
    assert exchanged.drop("notes").equals(turns.drop("notes"))


@given(st.sets(st.text(max_size=3), min_size=2, max_size=30), st.integers(0, 9))
def test_every_profile_gets_another_one(names: set[str], seed: int) -> None:
    others = strangers(list(names), seed)
    assert others.keys() == set(others.values()) == names
    assert all(one != other for one, other in others.items())


def test_a_single_profile_is_refused() -> None:
    with pytest.raises(CrsError, match="two or more profiles"):
        strangers(["u1"], 0)
