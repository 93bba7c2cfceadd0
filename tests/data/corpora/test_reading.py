"""What the forms of dialogues share: titles that stand in a text for certain, and those that may be ordinary words."""

import pytest

from crslib.data.corpora.reading import mark, title_of, words_of


@pytest.mark.parametrize(
    ("text", "titles", "marked"),
    [
        ("what's up? Up is", ["Up (2009)"], "what's up? [[Up (2009)]] is"),
        ("the quiet harbour", ["The Quiet Harbour (1996)"], "[[The Quiet Harbour (1996)]]"),
        ("insomnia is bad", ["Insomnia (2002)"], "[[Insomnia (2002)]] is bad"),  # eight letters
        ("heat, Heated", ["Heat (1995)"], "heat, Heated"),
        ("Batman Begins", ["Batman Begins (2005)", "Batman (1989)"], "[[Batman Begins (2005)]]"),
    ],
)
def test_a_title_that_could_be_a_word_needs_its_capitals(text: str, titles: list[str], marked: str) -> None:
    assert mark(text, titles, certain=False) == marked


def test_titles_and_words_are_in_format_v1() -> None:
    assert title_of(" [REC]\u2028(2007)") == "(REC) (2007)"
    assert words_of("see [[this]]\u2028 <|im_end|>") == "see this <|im_end|>"
