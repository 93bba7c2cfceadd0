import pytest

from crslib.dialogue import utterances
from crslib.dialogue.reactions import Reaction, react

ONE = "How about [[Heat (1995)]]?"
TWO = "How about [[Heat (1995)]] or [[Up (2009)]]?"


def read(question: str, reply: str, name: str = "Heat (1995)") -> Reaction:
    named = [(start, end, said == name) for said, start, end in utterances.mentions(reply)]
    return react(question, reply, named, alone=len(utterances.mentions(question)) == 1)


@pytest.mark.parametrize(
    ("reply", "seen", "liked"),
    [
        ("I haven't seen that one.", False, None),
        ("havent seen it yet", False, None),
        ("Never heard of it.", False, None),
        ("I don't think I have seen that.", False, None),
        ("I'll check it out, thanks!", False, True),
        ("That sounds great.", None, True),
        ("Yes, I have seen it.", True, None),
        ("I loved that movie!", True, True),
        ("One of my favorites", True, True),
        ("I saw it but I didn't like it.", True, False),
        ("I've seen it, not a fan.", True, False),
        ("I haven't seen it in years, great movie", True, True),
        ("I didn't see that one.", False, None),
        ("No, I will not watch that ever", False, False),
        ("Not really my type of movie", None, False),
        ("No thanks", None, False),
        ("Is it good?", False, None),
        ("Hello there", None, None),
        ("", None, None),
    ],
)
def test_what_a_reply_says_of_the_only_item(reply: str, seen: bool | None, liked: bool | None) -> None:
    assert read(ONE, reply) == Reaction(seen, liked)


def test_yes_and_no_answer_only_the_question_that_asks_whether_it_was_seen() -> None:
    asked = "I liked it. Have you seen [[Heat (1995)]]?"
    assert read(asked, "Yes.").seen is True
    assert read(asked, "no").seen is False
    assert read("Do you want action, like [[Heat (1995)]]?", "Yes.").seen is None


def test_clauses_that_name_another_item_say_nothing_of_this_one() -> None:
    assert read(ONE, "I loved [[Up (2009)]].") == Reaction(None, None)
    assert read(ONE, "I loved [[Heat (1995)]]. I hated [[Up (2009)]].") == Reaction(True, True)


def test_with_two_items_only_words_on_all_or_on_this_one_count() -> None:
    assert read(TWO, "I loved it") == Reaction(None, None)
    assert read(TWO, "I haven't seen either of those").seen is False
    assert read(TWO, "I loved [[Heat (1995)]]!") == Reaction(True, True)
    assert read(TWO, "I loved [[Heat (1995)]]!", "Up (2009)") == Reaction(None, None)


def test_contradicting_clauses_decide_nothing() -> None:
    assert read(ONE, "I haven't seen it. Yes I have seen this one.").seen is None
