import pytest

from crslib.dialogue import utterances
from crslib.dialogue.reactions import Reaction, Reply, fits, later, react, reaction, replies
from tests.support.domains import MOVIES

ONE = "How about [[Heat (1995)]]?"
TWO = "How about [[Heat (1995)]] or [[Up (2009)]]?"


def turn(role: str, text: str, *notes: tuple[str, bool | None, bool | None]) -> dict[str, object]:
    """A row of table `turns`; item ids are names."""
    return {
        "role": role,
        "text": text,
        "items": [
            {"item_id": name, "title": name, "start": start, "end": end}
            for name, start, end in utterances.mentions(text)
        ],
        "notes": [{"item_id": name, "title": name, "seen": seen, "liked": liked} for name, seen, liked in notes],
    }


def read(question: str, reply: str, name: str = "Heat (1995)") -> Reaction:
    return react(question, turn("user", reply), name, MOVIES, alone=len(utterances.mentions(question)) == 1)


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


def test_clauses_that_name_another_item_do_not_count() -> None:
    assert read(ONE, "I loved [[Up (2009)]].") == Reaction(None, None)
    assert read(ONE, "I loved [[Heat (1995)]]. I hated [[Up (2009)]].") == Reaction(True, True)


def test_with_two_items_only_words_on_all_or_on_this_one_count() -> None:
    assert read(TWO, "I loved it") == Reaction(None, None)
    assert read(TWO, "I haven't seen either of those").seen is False
    assert read(TWO, "I loved [[Heat (1995)]]!") == Reaction(True, True)
    assert read(TWO, "I loved [[Heat (1995)]]!", "Up (2009)") == Reaction(None, None)


@pytest.mark.parametrize(
    ("reply", "heat", "up"),
    [
        ("Yes I did love [[Heat (1995)]] I havent seen [[Up (2009)]]", (True, True), (False, None)),
        ("I really like [[Up (2009)]] so I will check out [[Heat (1995)]]", (False, True), (None, True)),
        ("I liked [[Heat (1995)]] and [[Up (2009)]]", (None, None), (None, None)),  # of one statement
        ("I loved it when I saw [[Heat (1995)]] with [[Up (2009)]]", (None, None), (None, None)),
    ],
)
def test_statements_that_nothing_parts_but_a_new_subject(
    reply: str, heat: tuple[bool | None, ...], up: tuple[bool | None, ...]
) -> None:
    assert read(TWO, reply) == Reaction(*heat)
    assert read(TWO, reply, "Up (2009)") == Reaction(*up)


def test_it_is_the_item_that_the_clause_before_named_alone() -> None:
    said = "I've heard of [[Heat (1995)]], but haven't seen it. I'll check that out"
    assert read(TWO, said) == Reaction(False, True)
    assert read(TWO, said, "Up (2009)") == Reaction(None, None)
    assert read(TWO, "I've heard of [[Heat (1995)]] and [[Up (2009)]], but haven't seen it") == Reaction(None, None)
    assert read(TWO, "[[Heat (1995)]]? I have seen [[Up (2009)]] and liked it") == Reaction(None, None)


def test_contradicting_clauses_give_no_answer() -> None:
    assert read(ONE, "I haven't seen it. Yes I have seen this one.").seen is None


def test_replies_pair_words_and_notes_of_each_item_just_named() -> None:
    asked = turn("recommender", TWO + " [[Heat (1995)]] is good.")
    answered = turn("user", "I loved [[Heat (1995)]].", ("Up (2009)", False, None), ("Jaws (1975)", True, True))
    assert replies(asked, answered, MOVIES) == [
        Reply("Heat (1995)", Reaction(True, True), Reaction(None, None)),
        Reply("Up (2009)", Reaction(None, None), Reaction(False, None)),
    ]
    assert replies(answered, asked, MOVIES) == []


def test_a_reply_fits_unless_it_contradicts_its_note() -> None:
    asked = turn("recommender", ONE)
    contrary = turn("user", "I loved it!", ("Heat (1995)", True, False))
    open_reply = turn("user", "What is it about?", ("Heat (1995)", None, False))
    assert reaction(contrary, [asked], MOVIES) == 0
    assert not fits(contrary, [asked], MOVIES)
    assert reaction(open_reply, [asked], MOVIES) == 0.5
    assert fits(open_reply, [asked], MOVIES)
    assert fits(contrary, [], MOVIES)


HEAT, UP = ("Heat (1995)", True, True), ("Up (2009)", False, True)


@pytest.mark.parametrize(
    ("text", "agrees"),
    [
        ("I loved [[Heat (1995)]] . Anything else?", [True]),
        ("I still haven't seen [[Heat (1995)]]", [False]),
        ("Haven't seen [[Heat (1995)]]. I loved [[Up (2009)]]!", [False, False]),
        ("I think I'll watch [[Up (2009)]] tonight", [True]),
        ("Not [[Heat (1995)]] , please", [None]),
        ("I loved [[Titanic (1997)]]", []),  # no note on it
        ("I loved that one!", []),  # names none
    ],
)
def test_what_is_said_later_is_held_against_the_earlier_note(text: str, agrees: list[bool | None]) -> None:
    history = [turn("recommender", TWO), turn("user", "Thanks", HEAT, UP), turn("recommender", "Anything else?")]
    reply = turn("user", text)
    assert [one.agrees for one in later(reply, history, MOVIES)] == agrees
    assert fits(reply, history, MOVIES) is (False not in agrees)


def test_the_last_note_on_an_item_counts() -> None:
    again = turn("user", "Hm", ("Heat (1995)", False, True))
    history = [turn("recommender", ONE), turn("user", "Ok", HEAT), turn("recommender", ONE), again]
    history.append(turn("recommender", "Well?"))
    assert fits(turn("user", "I haven't seen [[Heat (1995)]]"), history, MOVIES)
    new = turn("user", "I have seen [[Heat (1995)]], loved it", HEAT)  # of an item with a new note `reaction` speaks
    assert later(new, history, MOVIES) == []
