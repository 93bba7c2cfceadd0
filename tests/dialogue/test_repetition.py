import pytest

from crslib.dialogue.repetition import ends_sentence, in_title, repeats


@pytest.mark.parametrize(
    "text",
    [
        "It's a great movie. It's a great movie.",
        "It’s a GREAT movie! I liked it. it's a great movie",
        "Great movie. Great movie.",
        "I liked [[Up (2009)]]. I liked [[Up (2009)]]!",
        "I liked that one a lot I liked that one a lot",
        "no more no more no more",
        "it was so it was so it was so good",
        "no no no no",
        "he really wants to see it and she really wants to see it",
        "Or [[Heat (1995)]] or [[Heat (1995)]] or [[Heat (1995)]] or",
    ],
)
def test_what_repeats_itself(text: str) -> None:
    assert repeats(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no",
        "Yes yes yes, I love, love, love it",
        "Bye. Bye.",
        "Not so bad, not so bad. What about you?",
        "Have you seen [[Up (2009)]]? Have you seen [[Heat (1995)]]?",
        "[[It's a Mad, Mad, Mad, Mad World (1963)]] was funny",
        "[[Up (2009)]]. [[Up (2009)]].",
        "I have not seen it. I have heard of it.",
        "It was good. It was good but long",
        "and [[Up (2009)]] and [[Up (2009)]] and [[Up (2009)]]",  # ends with a title
    ],
)
def test_what_people_say_does_not(text: str) -> None:
    assert not repeats(text)


def test_an_open_sentence_counts_at_the_end_only() -> None:
    assert not repeats("Great movie. Great movie", ended=False)
    assert repeats("Great movie. Great movie", ended=True)


def test_titles_are_open_and_sentences_end() -> None:
    assert in_title("I liked [[Up") and in_title("[[Up]] and [[Heat (19]")
    assert not in_title("I liked [[Up]]") and not in_title("[[Up\nUser: hi")
    assert ends_sentence("Good. ") and ends_sentence("[[Up (2009)]]?")
    assert not ends_sentence("so good") and not ends_sentence("I liked [[Good Morning, Vietnam.")
