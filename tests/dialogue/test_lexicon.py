import pytest

from crslib.dialogue import lexicon
from crslib.dialogue.lexicon import polarity
from tests.support.domains import MOVIES


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
    assert polarity(text, MOVIES) == expected


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
    assert lexicon.decades(text, MOVIES) == expected


def test_single_years_count_as_decades_on_request() -> None:
    assert lexicon.decades("a movie of 1994 or the 80s", MOVIES) == [1980]
    assert lexicon.decades("a movie of 1994 or the 80s", MOVIES, years=True) == [1980, 1990]


def test_a_clause_with_a_negation_or_refusal_has_sign_minus_one() -> None:
    clauses = lexicon.clauses("I want a sci-fi movie, but no [[Alien (1979)]] and nothing scary")
    assert [sign for _, sign in clauses] == [1, -1, -1]
    assert clauses[0][0] == ["i", "want", "a", "scifi", "movie"]
    assert lexicon.kinds(clauses[0][0], MOVIES) == ["sci-fi"]


def test_words_that_judge_a_film_ask_for_a_genre_in_phrases_only() -> None:
    words = lexicon.tokens("It was funny")
    assert lexicon.kinds(words, MOVIES) == ["comedy"]
    assert not lexicon.asks_for("comedy", words, MOVIES)
    assert lexicon.asks_for("comedy", lexicon.tokens("a funny movie"), MOVIES)
    assert lexicon.asks_for("comedy", lexicon.tokens("something funny"), MOVIES)
    assert lexicon.asks_for("comedy", lexicon.tokens("comedies"), MOVIES)


def test_a_genre_outside_the_lexicon_is_recognised_by_its_name() -> None:
    assert lexicon.asks_for("Road Movie", lexicon.tokens("any road movie"), MOVIES)
    assert not lexicon.asks_for("Road Movie", lexicon.tokens("a movie on the road"), MOVIES)


def test_polarity_around_each_mention() -> None:
    assert lexicon.around("I loved [[Heat (1995)]] and [[Up (2009)]]. [[Jaws (1975)]] was boring", MOVIES) == [1, 1, -1]


def test_age() -> None:
    assert lexicon.age("a new movie or an old classic", MOVIES) == {"new", "old"}
    assert lexicon.age("a movie", MOVIES) == set()


def test_common_words_do_not_include_words_of_titles() -> None:
    assert {"the", "of", "and", "movie"} <= lexicon.common(MOVIES)
    assert lexicon.common(MOVIES).isdisjoint({"bill", "fire", "twelve", "alone"})
