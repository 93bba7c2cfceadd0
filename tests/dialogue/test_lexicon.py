import pytest

from crslib.dialogue import lexicon
from crslib.dialogue.lexicon import polarity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I loved it", 1),
        ("I did not like it", -1),
        ("not bad", 1),
        ("it was boring", -1),
        ("I haven't seen it", 0),
        ("I am not a fan of it", -1),
    ],
)
def test_polarity(text: str, expected: int) -> None:
    assert polarity(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("something from the 90s", [1990]),
        ("the eighties or 1970's", [1980, 1970]),
        ("the 10s", [2010]),
        ("90 minutes", []),
    ],
)
def test_decades(text: str, expected: list[int]) -> None:
    assert lexicon.decades(text) == expected


def test_clauses_know_what_is_refused() -> None:
    said = lexicon.clauses("I want a sci-fi movie, but no [[Alien (1979)]] and nothing scary")
    assert [sign for _, sign in said] == [1, -1, -1]
    assert said[0][0] == ["i", "want", "a", "scifi", "movie"]
    assert lexicon.GENRES_OF["scifi"] == ["sci-fi"]


def test_age() -> None:
    assert lexicon.age("a new movie or an old classic") == {"new", "old"}
    assert lexicon.age("a movie") == set()


def test_common_words_leave_what_titles_are_known_by() -> None:
    assert {"the", "of", "and", "movie"} <= lexicon.COMMON
    assert lexicon.COMMON.isdisjoint({"bill", "fire", "twelve", "alone"})
