"""Format v1: what each party sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.dialogue import views
from crslib.dialogue.styles import Style
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.views import ItemFacts, Note, RecommenderView, UserKnowledge, UserView
from crslib.engines.scripted import ScriptedEngine
from tests.support.domains import MOVIES

ENGINE = ScriptedEngine(lambda prompt, seed: "")


def rendered(view: views.View) -> str:
    return ENGINE.decode(ChatTemplate("").encode(view.messages, ENGINE))


def test_the_user_view_has_the_exact_text_of_format_v1() -> None:
    view = UserView(UserKnowledge(MOVIES, "You enjoy drama movies.", "comedy movie from the 1990s"))
    view.hear(
        "Seen [[Heat (1995)]] or [[Up (2009)]]?", [Note("Heat (1995)", True, True), Note("Up (2009)", False, False)]
    )
    assert rendered(view) == (
        "<|im_start|>system\nYou are chatting with a movie recommender.\nAbout you: You enjoy drama movies.\n"
        "Looking for: comedy movie from the 1990s<|im_end|>\n"
        "<|im_start|>user\nSeen [[Heat (1995)]] or [[Up (2009)]]?\n"
        "(Heat (1995): seen, liked; Up (2009): not seen, not interested)<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_recommender_view_is_the_dialogue_alone() -> None:
    view = RecommenderView(MOVIES)
    view.hear("Hi")
    view.say("Hello!")
    assert rendered(view) == (
        "<|im_start|>system\nYou are a movie recommender.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>assistant\n"
    )


TURNS = [
    {"role": "user", "text": "Hi", "items": [], "notes": []},
    {"role": "recommender", "text": "[[Heat (1995)]]?", "items": [{"item_id": "1"}], "notes": []},
    {
        "role": "user",
        "text": "No.",
        "items": [],
        "notes": [{"item_id": "1", "title": "Heat (1995)", "seen": False, "liked": True}],
    },
    {"role": "recommender", "text": "[[Up (2009)]]?", "items": [{"item_id": "6"}], "notes": []},
    {"role": "user", "text": "[[Heat (1995)]] again", "items": [{"item_id": "1"}], "notes": []},
]
LOOKUP = {
    "1": ItemFacts("Heat (1995)", ("action", "crime"), ("Michael Mann",), ("Al Pacino", "Robert De Niro")),
    "6": ItemFacts("Up (2009)", ("animation",), (), ()),
    "9": ItemFacts("Her (2013)", ("drama",), (), ()),
}
STYLE = Style("short turns", "lower case", "no full stops", "few exclamation marks")
KNOWN = UserKnowledge(MOVIES, "You enjoy drama movies.", "drama movie")


def test_the_users_view_of_a_recorded_dialogue_is_the_original_one() -> None:
    view = UserView(KNOWN)
    view.say("Hi")
    view.hear("[[Heat (1995)]]?", [Note("Heat (1995)", False, True)])
    view.say("No.")
    view.hear("[[Up (2009)]]?")
    view.say("[[Heat (1995)]] again")
    assert UserView.of(TURNS, KNOWN).messages == view.messages


def test_the_recommenders_view_of_a_recorded_dialogue_has_roles_and_texts_alone() -> None:
    view = RecommenderView.of([{"role": turn["role"], "text": turn["text"]} for turn in TURNS], MOVIES)
    assert RecommenderView.of(TURNS, MOVIES).messages == view.messages
    assert [message.text for message in view.messages[1:]] == [turn["text"] for turn in TURNS]
    assert [message.role for message in view.messages[1:]] == ["user", "assistant", "user", "assistant", "user"]


def test_the_recommender_looks_up_each_item_once_when_the_user_has_answered() -> None:
    view = RecommenderView.of(TURNS, MOVIES, LOOKUP, STYLE)
    assert view.messages[0].text == (
        "You are a movie recommender.\nHow you write: short turns, lower case, no full stops, few exclamation marks"
    )
    assert [message.text for message in view.messages[1:]] == [
        "Hi",
        "[[Heat (1995)]]?",
        "No.\n(Heat (1995): action/crime, by Michael Mann, with Al Pacino, Robert De Niro)",
        "[[Up (2009)]]?",
        "[[Heat (1995)]] again\n(Up (2009): animation)",
    ]
    *_, last = views.replay(TURNS, UserView(KNOWN), LOOKUP, STYLE)
    assert isinstance(last, UserView)


def test_an_item_without_facts_has_no_line() -> None:
    assert views.facts_line([ItemFacts("Up (2009)", (), (), ())], MOVIES) == ""
    assert views.facts_line([ItemFacts("Up\n(2009)", ("a\nb",), (), ())], MOVIES) == "(Up (2009): a b)"


def test_replay_gives_the_speakers_view_before_each_turn() -> None:
    speakers_views = [(len(view.messages), type(view)) for view in views.replay(TURNS, UserView(KNOWN))]
    assert speakers_views == [(1, UserView), (2, RecommenderView), (3, UserView), (4, RecommenderView), (5, UserView)]


def test_kinds_of_notes_have_the_same_words_as_views() -> None:
    assert views.note_words(MOVIES) == {
        "seen_liked": "seen, liked",
        "seen_disliked": "seen, disliked",
        "unseen_interested": "not seen, interested",
        "unseen_uninterested": "not seen, not interested",
    }


def test_lines_without_content_are_left_out() -> None:
    assert UserKnowledge(MOVIES, "", "").system() == "You are chatting with a movie recommender."
    assert UserKnowledge(MOVIES, "", "drama movie").system().endswith("recommender.\nLooking for: drama movie")
    assert (
        UserKnowledge(MOVIES, "", "drama movie", STYLE)
        .system()
        .endswith(f"Looking for: drama movie\nHow you write: {STYLE}")
    )


@pytest.mark.parametrize(
    ("seen", "liked", "expected"),
    [
        (True, True, "(X: seen, liked)"),
        (True, False, "(X: seen, disliked)"),
        (True, None, "(X: seen)"),
        (False, True, "(X: not seen, interested)"),
        (False, False, "(X: not seen, not interested)"),
        (False, None, "(X: not seen)"),
        (None, True, "(X: liked)"),
        (None, None, ""),
    ],
)
def test_notes(seen: bool | None, liked: bool | None, expected: str) -> None:
    assert views.note_line([Note("X", seen, liked)], MOVIES) == expected


_names = st.sampled_from(["Heat (1995)", "X: Y; Z (2001)", "seen, liked (1990)", "(500) Days (2009)"])
_notes = st.builds(Note, _names, st.sampled_from([True, False, None]), st.sampled_from([True, False, None]))


@given(st.lists(_notes, max_size=4))
def test_a_line_of_notes_is_read_back(notes: list[Note]) -> None:
    assert views.read_notes(views.note_line(notes, MOVIES), MOVIES) == [note for note in notes if note.words(MOVIES)]


def test_no_other_line_is_notes() -> None:
    for line in (
        "",
        "()",
        "(Heat (1995))",
        "(Heat (1995): crime, by Michael Mann)",
        "Heat (1995): seen",
        "(a: seen) b",
    ):
        assert views.read_notes(line, MOVIES) == []
