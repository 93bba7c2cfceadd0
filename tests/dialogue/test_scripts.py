from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue.scripts import ScriptView, TargetKnowledge, TargetUserView, parse_script, script
from crslib.dialogue.utterances import RECOMMENDER, USER, clean
from crslib.dialogue.views import Note, UserKnowledge, UserView
from tests.support.domains import MOVIES

KNOWN = ("You enjoy crime movies.", "crime movie")


def test_the_target_users_view_has_one_line_more() -> None:
    view = TargetUserView(TargetKnowledge(MOVIES, *KNOWN, titles=("Heat (1995)", "Up (2009)")))
    plain = UserView(UserKnowledge(MOVIES, *KNOWN))
    assert view.messages[0].text == plain.messages[0].text + "\nYou hope to hear of: Heat (1995); Up (2009)"
    for user_view in (view, plain):
        user_view.say("Hi")
        user_view.hear("[[Heat (1995)]]?", [Note("Heat (1995)", False, True)])
    assert view.messages[1:] == plain.messages[1:]
    assert TargetKnowledge(MOVIES, *KNOWN).system() == UserKnowledge(MOVIES, *KNOWN).system()


def test_the_script_view_has_all_knowledge_and_a_line_per_turn() -> None:
    view = ScriptView(TargetKnowledge(MOVIES, *KNOWN, titles=("Heat (1995)",)))
    assert [message.text for message in view.messages] == [
        "Write a dialogue between a user and a movie recommender.\nAbout the user: You enjoy crime movies.\n"
        "Looking for: crime movie\nThe recommender suggests: Heat (1995)"
    ]
    assert ScriptView(TargetKnowledge(MOVIES, "", "")).messages[0].text.count("\n") == 0
    text = script([(RECOMMENDER, "Seen [[Heat (1995)]]?"), (USER, "Yes:\nbye")])
    assert text == "Recommender: Seen [[Heat (1995)]]?\nUser: Yes: bye"


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("User: Hi\nRecommender: Hello", [(USER, "Hi"), (RECOMMENDER, "Hello")]),
        ("  user :Hi\n\nRECOMMENDER:  Hello\n", [(USER, "Hi"), (RECOMMENDER, "Hello")]),
        ("**User:** Hi\n2. **Assistant**: _Hello_", [(USER, "Hi"), (RECOMMENDER, "_Hello_")]),
        ("Here it is:\nSeeker: Hi", [(USER, "Hi")]),
        (
            "User: Hi\nthere\nUser: I like\nRecommender:\nRecommender: ok",
            [(USER, "Hi there I like"), (RECOMMENDER, "ok")],
        ),
        ("User: a\nRecommender:\nUser: b", [(USER, "a b")]),
        (
            "User: my user: he said\nRecommender: [[Heat (1995)]",
            [(USER, "my user: he said"), (RECOMMENDER, "Heat (1995)]")],
        ),
        ("Recommender: see [[Up (2009)]]", [(RECOMMENDER, "see [[Up (2009)]]")]),
        ("no speaker at all", []),
        ("", []),
    ],
)
def test_generated_scripts_are_parsed(text: str, turns: list[tuple[str, str]]) -> None:
    assert parse_script(text) == turns


words = st.text(st.characters(codec="utf-8"), max_size=30).map(clean).filter(bool)


@given(st.booleans(), st.lists(words, max_size=6))
def test_a_written_script_is_parsed_to_the_same_turns(opens: bool, texts: list[str]) -> None:
    turns = [((USER, RECOMMENDER)[(number + opens) % 2], text) for number, text in enumerate(texts)]
    assert parse_script(script(turns)) == turns


@given(st.text(max_size=200))
def test_any_text_gives_alternating_clean_turns(text: str) -> None:
    turns = parse_script(text)
    assert all(words and clean(words) == words for _, words in turns)
    assert all(before[0] != after[0] for before, after in pairwise(turns))


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\x0b", "\x1e"])
def test_a_separator_inside_a_line_begins_no_turn(inside: str) -> None:
    text = f"User: Hi{inside}Recommender: no turn\r\nRecommender: Yes\rUser: Bye"
    assert [role for role, _ in parse_script(text)] == [USER, RECOMMENDER, USER]
    assert parse_script(text)[1:] == [(RECOMMENDER, "Yes"), (USER, "Bye")]
