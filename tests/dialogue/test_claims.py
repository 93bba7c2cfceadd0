"""What turns state of an item's persons and year, and what they ask."""

import polars as pl
import pytest

from crslib.dialogue.claims import Claim, answers, claims
from crslib.dialogue.credits import Credits, name_key
from crslib.dialogue.questions import ABOUT, WHEN, WHO, questions
from tests.support.domains import MOVIES
from tests.support.metrics_frames import talk


def read(items: pl.DataFrame, *utterances: str) -> list[Claim]:
    turns = talk({"p": utterances})[1].to_dicts()
    return claims(turns[-1], turns[:-1], Credits.of(items, MOVIES))


@pytest.mark.parametrize(
    ("utterances", "stated"),
    [
        (["R: [[Heat (1995)]] stars Al Pacino and Tom Hanks."], [("1", "Al Pacino", True), ("1", "Tom Hanks", False)]),
        (["R: Try [[Heat (1995)]].", "U: Who is in it?", "R: Al Pacino"], [("1", "Al Pacino", True)]),
        (["U: I like [[Up (2009)]]. Who is in [[Heat (1995)]]?", "R: deniro"], []),
        (["U: Who is in [[Heat (1995)]]?", "R: robert de niro!"], [("1", "robert de niro", True)]),
        (["U: [[Heat (1995)]]?", "R: It has Pacino in it."], [("1", "Pacino", True)]),
        (["R: [[Heat (1995)]] with Bob Dinero"], [("1", "Bob Dinero", False)]),
        (["R: [[Notting Hill (1999)]] with Huge Grant"], [("3", "Huge Grant", True)]),
        (["R: [[Notting Hill (1999)]] with Harry Grant"], [("3", "Harry Grant", True)]),  # the same initial
        (["R: [[Notting Hill (1999)]] with Cary Grant"], [("3", "Cary Grant", False)]),
        (["U: [[The Matrix (1999)]]?", "R: The lead actor is Leonardo DiCaprio."], [("2", "Leonardo DiCaprio", False)]),
        (["R: [[Heat (1995)]] is by Michael Mann"], [("1", "Michael Mann", True)]),
        (["R: [[Heat (1995)]] was directed by Al Pacino"], [("1", "Al Pacino", False)]),
        (["R: [[Up (2009)]] stars Tom Hanks"], [("6", "Tom Hanks", None)]),  # no cast in the catalogue
        (["R: [[Heat (1995)]] came out in 1995. It's from the 80s."], [("1", "1995", True), ("1", "1980s", False)]),
        (["U: When was [[Heat (1995)]] made?", "R: I think 1996"], [("1", "1996", False)]),
        (["R: An old 90s movie called [[Heat (1995)]]"], [("1", "1990s", True)]),
        (["R: Al Pacino stars in [[Heat (1995)]], Hugh Grant in [[Notting Hill (1999)]]"],
         [("1", "Al Pacino", True), ("3", "Hugh Grant", True)]),
        (["R: [[Heat (1995)]] and [[Up (2009)]]", "U: and?", "R: Al Pacino is in it"], [("1", "Al Pacino", True)]),
        # What states nothing: questions, wishes, denials, other works, settings, titles.
        (["U: [[Heat (1995)]]", "R: Do you like movies with Tom Hanks?"], []),
        (["U: [[Heat (1995)]]", "R: Is Tom Hanks in it?"], []),
        (["U: [[Heat (1995)]]", "R: It does not star Tom Hanks"], []),
        (["U: [[Heat (1995)]]", "R: If you like Tom Hanks you may like something with Tom Hanks"], []),
        (["R: [[Heat (1995)]] is based on a book by Stephen King"], []),
        (["R: [[Heat (1995)]] is set in 1950"], []),
        (["U: [[Heat (1995)]]", "R: I like Double Indemnity with Fred Mac"], []),
        (["R: It stars Tom Hanks"], []),  # of which item?
        (["R: [[Ghost Film (1900)]] stars Tom Hanks"], []),
    ],
)  # fmt: skip
def test_statements_by_hand(items: pl.DataFrame, utterances: list[str], stated: list[tuple[str, str, bool]]) -> None:
    assert [(claim.item_id, claim.value, claim.true) for claim in read(items, *utterances)] == stated


def test_names_have_one_key_in_all_spellings() -> None:
    assert name_key("Samuel L. Jackson") == name_key("samuel jackson")
    assert name_key("J.J. Abrams") == name_key("JJ Abrams")
    assert name_key("Robert Downey Jr.") == "robert downey"
    assert name_key("Penélope Cruz") == "penelope cruz"
    assert name_key("Peter O'Toole") == name_key("Peter O’Toole")


@pytest.mark.parametrize(
    ("utterance", "asked"),
    [
        ("Who stars in it?", [WHO]),
        ("whos in that one", [WHO]),
        ("Who directed [[Heat (1995)]]?", [WHO]),
        ("No. Who is in it and what is it about?", [WHO, ABOUT]),
        ("What's that about?", [ABOUT]),
        ("what kind of movie is it", [ABOUT]),
        ("How old is it?", [WHEN]),
        ("When did that come out?", [WHEN]),
        ("Who is your favorite actor?", []),
        ("I know who did it", []),
        ("What about [[Heat (1995)]]?", []),
        ("What kind of movies do you like?", []),
    ],
)
def test_questions_by_hand(utterance: str, asked: list[str]) -> None:
    assert questions(talk({"p": [f"U: {utterance}"]})[1].to_dicts()[0], MOVIES) == asked


@pytest.mark.parametrize(
    ("kind", "question", "reply", "answered"),
    [
        (WHO, "Who is in it?", "Al Pacino", True),
        (WHO, "Who is in it?", "It stars John Doe", True),
        (WHO, "Who is in it?", "It's a good one.", False),
        (ABOUT, "What is it about?", "It's a comedy", True),
        (ABOUT, "What is it about?", "A cop hunts a gang of robbers", True),
        (ABOUT, "What is it about?", "It's a great movie, I think you would like it.", False),
        (ABOUT, "What is it about?", "Have you ever seen wolves eating pizza with scientists?", False),
        (WHEN, "When was it made?", "1995", True),
        (WHEN, "When was it made?", "the nineties", True),
        (WHEN, "When was it made?", "Try [[Up (2009)]]", False),
    ],
)
def test_answers_by_hand(items: pl.DataFrame, kind: str, question: str, reply: str, answered: bool) -> None:
    turns = talk({"p": ["R: [[Heat (1995)]]", f"U: {question}", f"R: {reply}"]})[1].to_dicts()
    assert answers(kind, turns[2], turns[:2], Credits.of(items, MOVIES)) == answered
