"""Spellings of titles."""

import pytest

from crslib.data.titles import split_year, title_key, title_parts, title_words


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
