"""Spellings of titles."""

import pytest

from crslib.data.titles import is_named, split_year, title_key, title_parts, title_words, without_titles


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("The Godfather", "Godfather, The"),
        ("The Godfather Part II", "Godfather: Part 2, The"),
        ("Kill Bill: Vol. 1", "Kill Bill: Volume One"),
        ("Amélie", "AMELIE"),
        ("Fast & Furious", "Fast and Furious"),
        ("Twelve Monkeys", "12 Monkeys"),
        ("Alien³", "Alien 3"),
        ("The Texas Chain Saw Massacre", "Texas Chainsaw Massacre, The"),
        ("National Lampoon's Christmas Vacation", "Christmas Vacation"),
        ("Star Wars: Episode V – The Empire Strikes Back", "Star Wars: Episode V - The Empire Strikes Back"),
    ],
)
def test_spellings_of_one_title_share_a_key(first: str, second: str) -> None:
    assert title_key(first) == title_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("V for Vendetta", "5 for Vendetta"),
        ("X-Men", "10-Men"),
        ("Saw II", "Saw III"),
        ("Rocky", "Rocky V"),
        ("A", "The"),
    ],
)
def test_other_titles_have_another_key(first: str, second: str) -> None:
    assert title_key(first) != title_key(second)


def test_words_keep_the_article_and_a_title_of_signs_is_its_key() -> None:
    assert title_words("Secret, The") == ["the", "secret"]
    assert title_words("One, Two, Three") == ["1", "2", "3"]
    assert title_key("...") == "..."


def test_titles_are_split_into_parts() -> None:
    assert title_parts("Star Wars: Episode IV - A New Hope") == ["starwars", "newhope"]
    assert title_parts("Heat") == []
    assert title_parts("Hostel: Part III") == []
    assert title_parts("Kill Bill: Vol. 1") == ["killbill"]


def test_a_name_is_split_into_title_and_year() -> None:
    assert split_year("Heat (1995)") == ("Heat", 1995)
    assert split_year("Blade Runner 2049 (2017) ") == ("Blade Runner 2049", 2017)
    for bare in ("Heat", "(1995)", "Heat (199)", "Heat (3095)", "Heat (1995) again", ""):
        assert split_year(bare) == (bare, None)


@pytest.mark.parametrize(
    ("title", "text", "named"),
    [
        ("The Quiet Harbour", "they saw THE QUIET  HARBOUR twice", True),
        ("Amélie Poulain", "amelie poulain's smile", True),
        ("Fast & Furious", "fast and furious", True),
        ("Alien", "aliens came", False),
        ("Heat", "heat waves", False),
        ("Heat", "Heat's ending", True),
        ("Heat", "HEAT", True),
        ("Insomnia", "my insomnia", True),  # eight letters are no ordinary word
        ("Up", "What's up?", False),
        ("9", "It was 9 o'clock", True),
        ("", "anything", False),
        ("!!!", "Oh!!!", False),
        ("!!!", "loved !!!", True),
    ],
)
def test_a_text_names_a_title_in_any_spelling_but_no_ordinary_words(title: str, text: str, named: bool) -> None:
    assert is_named(title, text) is named


@pytest.mark.parametrize(
    ("text", "names", "left"),
    [
        ("I like it. Heat was long! Bye.", ["Heat (1995)"], "I like it. Bye."),
        ("Loved Mr. Nobody. Fine.", ["Mr. Nobody (2009)"], "Fine."),
        ("One.\n\nTwo", [], "One. Two"),
        ("Up and Heat; Rain.", ["Up (2009)", "Rain"], ""),
        ("All Heat", ["Heat"], ""),
    ],
)
def test_sentences_that_name_a_title_are_left_out(text: str, names: list[str], left: str) -> None:
    assert without_titles(text, names) == left
