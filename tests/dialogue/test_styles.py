"""How people write, in few words."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.config import resolve
from crslib.dialogue import styles
from crslib.dialogue.styles import LEVELS, LIMITS, MIN_TURNS, Style
from crslib.errors import CrsError

PLAIN = Style("short turns", "lower case", "no full stops", "no exclamation marks")


def test_the_levels_follow_from_shares_of_turns() -> None:
    assert Style.of(["hi there"] * 4) is None
    assert Style.of(["hi there"] * MIN_TURNS) == PLAIN
    long = "I have seen [[The Long Title of a Film (1999)]] with two good friends of mine some time last week!"
    assert Style.of([long] * 5) == Style("long turns", "capitals", "full stops", "many exclamation marks")
    mixed = Style.of(
        [*["Hello my dear friend how are you doing today"] * 3, *["ok. nice to meet you here, and you too!"] * 2]
    )
    assert mixed == Style("medium turns", "few capitals", "few full stops", "many exclamation marks")
    assert Style.of(["", "  ", "7 is a lot", "[[Up (2009)]]", "?", "!", "¿Qué?"]) is not None


def test_limits_belong_to_the_upper_level() -> None:
    n = 10
    for share, level in ((0.3, 0), (0.4, 1), (0.6, 1), (0.7, 2)):
        texts = ["a."] * round(share * n) + ["a"] * (n - round(share * n))
        style = Style.of(texts)
        assert style is not None
        assert style.stops == LEVELS["stops"][level]
    assert all(low < high for low, high in LIMITS.values())


@given(st.lists(st.text(), max_size=12))
def test_a_style_holds_nothing_of_the_texts(texts: list[str]) -> None:
    style = Style.of(texts)
    if style is not None:
        assert all(getattr(style, name) in levels for name, levels in LEVELS.items())
        assert Style.parse(str(style)) == style
        assert style.line == f"How you write: {style}"


def test_other_words_are_no_style() -> None:
    with pytest.raises(CrsError, match="length = 'You loved Heat' is not one of short turns"):
        Style("You loved Heat", "capitals", "full stops", "no exclamation marks")
    with pytest.raises(CrsError, match="is not a style; give one level each"):
        Style.parse("short turns")
    assert Style.parse(None) is None


def test_styles_are_drawn_as_often_as_people_have_them() -> None:
    other = Style("long turns", "capitals", "full stops", "many exclamation marks")
    table = styles.count([("user", PLAIN)] * 3 + [("user", other), ("recommender", other)])
    assert table["n"].to_list() == [1, 1, 3]
    drawn = Counter(styles.draw(table, "user", seed) for seed in range(2000))
    assert drawn[PLAIN] / 2000 == pytest.approx(0.75, abs=0.04)
    assert drawn[PLAIN] + drawn[other] == 2000
    assert styles.draw(table, "recommender", 1) == other
    assert styles.draw(table, "user", 7) == styles.draw(table, "user", 7)
    assert styles.draw(table.clear(), "user", 7) is None


def test_the_shipped_table_is_of_both_roles(tmp_path: Path) -> None:
    table = styles.read(resolve("data/human/styles.parquet"))
    assert set(table["role"]) == {"user", "recommender"}
    for row in table.iter_rows(named=True):
        assert row["n"] > 0
        Style(*(row[name] for name in LEVELS))
    assert styles.read(None).is_empty()
    with pytest.raises(CrsError, match="does not exist"):
        styles.read(tmp_path / "none.parquet")
