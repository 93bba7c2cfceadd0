import polars as pl
import pytest

from crslib.dialogue.words import n_words, repeats_itself, sentences, spaced, words

TEXTS = {
    "I haven't seen [[Up (2009)]]!": ["i", "haven't", "seen", "up", "2009"],
    "It’s great — really.": ["it's", "great", "really"],
    "sci-fi, 90's": ["sci", "fi", "90's"],
    "...!": [],
    "": [],
    "Amélie": ["amélie"],
}


@pytest.mark.parametrize(("text", "expected"), TEXTS.items())
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_the_frame_counts_the_same_words() -> None:
    frame = pl.DataFrame({"text": list(TEXTS)})
    assert frame.select(n_words())["text"].to_list() == [len(expected) for expected in TEXTS.values()]


def test_phrases_are_found_as_whole_words_whatever_the_punctuation() -> None:
    text = spaced("Loved Schindler's List! And [[Alien: Covenant (2017)]].")
    assert text == " Loved Schindler s List . And Alien Covenant 2017 . "
    assert spaced("schindler’s list").lower() in text.lower()
    assert spaced("Covenant").lower() in text.lower()
    assert spaced("Aliens").lower() not in text.lower()


def test_sentences_hold_a_title_as_one_word() -> None:
    assert [len(words) for words in sentences("It's [[St. Elmo's Fire (1985)]]! Ok. ...")] == [2, 1]


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("It is great. I like it. It is great!", True),
        ("No. No. It is not.", False),  # a single word may come twice
        ("you should see it and you should see it", True),
        ("you should see it and you should see that", False),  # three words in a row
        ("Have you seen [[Heat (1995)]]? Have you seen [[Up (2009)]]?", False),
        ("Have you seen [[Heat (1995)]]? Have you seen [[Heat (1995)]]?", True),
        ("ha ha ha ha ha", True),
        ("", False),
    ],
)
def test_utterances_that_repeat_themselves(text: str, repeats: bool) -> None:
    assert repeats_itself(text) == repeats
