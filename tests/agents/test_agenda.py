"""The agenda user: agrees with its notes, tells its wish, leaves, repeats nothing, and always says the same."""

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.agents.agenda import Agenda
from crslib.agents.base import Ask, Reply
from crslib.dialogue import reactions, utterances
from crslib.dialogue.stances import wishes
from crslib.dialogue.utterances import RECOMMENDER, USER, item_key, mention
from crslib.dialogue.views import Note, RecommenderView, UserKnowledge, UserView, Wishes
from crslib.errors import CrsError
from crslib.identity import derive_seed
from crslib.users.agenda import PHRASES, _reached, read_phrases
from tests.support.domains import MOVIES
from tests.support.fuzz import tries
from tests.support.texts import TEXT

FILMS = [f"Film {number} ({1950 + number})" for number in range(40)]
LOVED, DISLIKED, HELD_OUT = ("Heat (1995)", "Up (2009)"), ("Jaws (1975)",), "Vertigo (1958)"
WISHES = Wishes(("comedy", "sci-fi"), 1990, "Tom Hanks", "Rob Reiner")
SUMMARY = "You enjoy western movies. You loved Heat (1995) and Up (2009). You did not like Jaws (1975)."
KNOWLEDGE = UserKnowledge(
    MOVIES, SUMMARY, "comedy/sci-fi movie from the 1990s with Tom Hanks by Rob Reiner", None, WISHES, LOVED, DISLIKED
)
RECOMMENDS = (
    "have you seen {}?", "how about {}?", "{} is good", "try {} or {}", "i love {} and {}, did you see {}?",
    "what do you like?", "tell me what you are looking for", "hello", "do you like {}? it has {} in it",
    "it is by Michael Mann", "",
)  # fmt: skip
SEEDS = st.integers(0, 2**32)
few = settings(max_examples=tries(25))  # each is a dialogue


@cache
def agent() -> Agenda:
    return Agenda(MOVIES)


def link(text: str) -> list[dict[str, Any]]:
    """Mentions as rows of `schemas.MENTION`; every second film is in the catalogue."""
    return [
        {"item_id": str(FILMS.index(name)) if name in FILMS[::2] else None, "title": name, "start": start, "end": end}
        for name, start, end in utterances.mentions(text)
    ]


def said(view: UserView, seed: int) -> Reply:
    agent().ask(Ask("d", view, seed))
    [(dialogue_id, reply)] = agent().step(wait=True)
    assert (dialogue_id, agent().pending) == ("d", 0)
    return reply


def talk(
    seed: int, says: Sequence[str] = RECOMMENDS, knowledge: UserKnowledge = KNOWLEDGE, films: Sequence[str] = FILMS,
    max_turns: int = 40,
) -> list[dict[str, Any]]:  # fmt: skip
    """A dialogue with a recommender that says what is drawn from `says`: rows of table `turns`. Notes of films are
    drawn by film, so that a film named again has the same."""
    view, turns, draw = UserView(knowledge), list[dict[str, Any]](), random.Random(seed)
    opens = draw.random() < 0.6
    while len(turns) < max_turns:
        if (len(turns) % 2 == 0) == opens:
            text = draw.choice(says)
            while "{}" in text:
                text = text.replace("{}", mention(draw.choice(films)), 1)
            text = utterances.clean(text)  # as every utterance reaches the loop
            items = link(text)
            notes = {}
            for item in items:
                chance = random.Random(f"{seed} {item['title']}").choice
                notes[item["title"]] = Note(item["title"], chance([True, False, None]), chance([True, False, None]))
            view.hear(text, list(notes.values()), items)
            turns.append({"role": RECOMMENDER, "text": text, "items": items, "notes": []})
        else:
            reply = said(view, derive_seed(seed, len(turns)))
            rows = [
                {"item_id": item["item_id"], "title": note.name, "seen": note.seen, "liked": note.liked}
                for note in view.notes for item in turns[-1]["items"] if item["title"] == note.name
            ]  # fmt: skip
            items = link(reply.text)
            view.say(reply.text, None, items)
            turns.append({"role": USER, "text": reply.text, "items": items, "notes": rows if turns else []})
            if reply.finish == "left":
                return turns
            assert reply.finish == "end"
    return turns


@few
@given(SEEDS)
def test_reactions_agree_with_the_notes(seed: int) -> None:
    """By the reader of metric `reaction_consistency`; of items new in the turn before, everything that is known is said
    of the first three."""
    turns = talk(seed)
    for number, (before, turn) in enumerate(pairwise(turns)):
        if turn["role"] == USER:
            assert reactions.fits(turn, [before], MOVIES)
            earlier = {item_key(item) for one in turns[:number] for item in one["items"]}
            new = [reply for reply in reactions.replies(before, turn, MOVIES) if reply.item not in earlier]
            for reply in new[:3]:
                assert reply.note.seen is None or reply.says.seen == reply.note.seen
                assert reply.note.liked is None or reply.says.liked == reply.note.liked


@few
@given(SEEDS)
def test_the_wish_is_told_by_the_third_turn(seed: int) -> None:
    turns = talk(seed, says=["hello", "what do you like?", "tell me more"])
    own = [turn["text"] for turn in turns if turn["role"] == USER][:3]
    profile = {f"target_{kind}": getattr(WISHES, kind) for kind in ("kinds", "decade", "person", "maker")}
    for attribute, says in wishes(profile, MOVIES):
        assert any(says(text) for text in own), attribute


@few
@given(SEEDS, st.sampled_from([RECOMMENDS, ("how about {}?",), ("what do you like?",), ("",), ("hello",)]))
def test_leaves_and_goes_round_in_no_circle(seed: int, says: Sequence[str]) -> None:
    turns = talk(seed, says=says, films=FILMS[:1] if len(says) == 1 else FILMS)
    own = [utterances.plain(turn["text"]).lower() for turn in turns if turn["role"] == USER]
    assert len(own) <= 10
    assert turns[-1]["role"] == USER
    assert all(own.count(text) < 3 for text in own if len(text.split()) > 3)  # what the loop calls repetition


def test_talks_as_long_as_people_do() -> None:
    """People: 7 to 19 turns (90 %), 11 in the median; 11.4 words in the user's turns."""
    says = ["have you seen {}?", "how about {}?", "{} is good", "try {} or {}", "what do you like?"]
    dialogues = [talk(seed, says=says) for seed in range(100)]
    lengths = sorted(len(turns) for turns in dialogues)
    assert 9 <= lengths[50] <= 14
    words = [len(turn["text"].split()) for turns in dialogues for turn in turns if turn["role"] == USER]
    assert 8 <= sum(words) / len(words) <= 15


@few
@given(SEEDS)
def test_names_only_what_it_knows_or_heard(seed: int) -> None:
    turns = talk(seed)
    known = {*LOVED, *DISLIKED}
    for turn in turns:
        names = {name for name, *_ in utterances.mentions(turn["text"])}
        known |= names if turn["role"] == RECOMMENDER else set()
        assert names <= known
        assert HELD_OUT not in turn["text"]
        assert utterances.clean(turn["text"]) == turn["text"]


@few
@given(SEEDS)
def test_same_view_and_seed_give_the_same_words(seed: int) -> None:
    turns = talk(seed)
    assert turns == talk(seed)
    view = UserView.of(turns[:-1], KNOWLEDGE)  # built anew, as after a restart
    assert Agenda(MOVIES).answer(Ask("other", view, 7)).text == said(view, 7).text


@few
@given(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=2), st.lists(TEXT, max_size=2), SEEDS)
def test_takes_whatever_names_and_words_there_are(
    genre: str, person: str, heard: str, loved: list[str], says: list[str], seed: int
) -> None:
    knowledge = UserKnowledge(MOVIES, heard, "", None, Wishes((genre,), -10, person, person), tuple(loved), (person,))
    known = {mention(utterances.one_line(name)) for name in (*loved, person)}
    for turn in talk(seed, says=[*(text.replace("{", "") for text in says), "{}?"], knowledge=knowledge):
        named = {mention(name) for name, *_ in utterances.mentions(turn["text"])}
        known |= named if turn["role"] == RECOMMENDER else set()
        assert named <= known
        assert turn["role"] == RECOMMENDER or utterances.clean(turn["text"]) == turn["text"] != ""


def test_a_limit_drawn_step_by_step_is_drawn_as_once_for_all() -> None:
    limits, draw = ((1, 0.3), (2, 0.4), (3, 0.3)), random.Random(5)
    reached = [next(n for n in range(1, 5) if _reached(limits, n - 1, n, draw)) for _ in range(4000)]
    assert [round(reached.count(n) / 4000, 1) for n in (1, 2, 3, 4)] == [0.3, 0.4, 0.3, 0]
    assert not _reached(limits, 3, 9, draw)
    assert _reached(limits, 0, 3, draw)


def test_leaves_when_the_recommender_says_goodbye() -> None:
    view = UserView(KNOWLEDGE)
    view.say("hi")
    view.hear("Goodbye!")
    assert said(view, 0).finish == "left"


def test_only_users_have_an_agenda() -> None:
    with pytest.raises(CrsError, match="agenda is a user and cannot recommend; name it as user_model"):
        Agenda(MOVIES).answer(Ask("d", RecommenderView(MOVIES), 0))


def test_what_it_was_sent_is_told_once() -> None:
    fresh = Agenda(MOVIES)
    view = UserView(KNOWLEDGE)
    first = fresh.answer(Ask("d", view, 0)).sent
    assert first.text.startswith("system: You are chatting with a movie recommender.\nAbout you: You enjoy western")
    view.say("hi")
    view.hear("hello")
    assert fresh.answer(Ask("d", view, 1)).sent.text == "assistant: hi\nuser: hello"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("bye:", "goodbye:", "has no wording for 'bye'"),
        ('bye: ["bye!"', 'leave: []\nbye: ["bye!"', "unknown act 'leave'; known are greet"),
        ('"hi there"', '"hi {it}"', "'hi {it}' of 'greet' needs no placeholder and nothing else in braces"),
        ('"i loved {title}"', '"i loved it"', "'i loved it' of 'loved' needs {title} once"),
        ('"i loved {title}"', '"i loved {title!r}"', "needs {title} once and nothing else in braces"),
        ('"hi there"', '"[[hi]]"', "is not one line of text without brackets"),
        ('"hi there"', '" "', "is not one line of text without brackets"),
        ('"what else?"', '"good one"', "of 'more' is read as interested|of 'more' is read as liked"),
        ('["hi", ', '[7, ', "greet.0 is not valid"),
    ],
)  # fmt: skip
def test_faults_of_the_wordings_are_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = PHRASES.read_text(encoding="utf-8")
    assert before in text
    (tmp_path / "a.yaml").write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(CrsError) as caught:
        read_phrases(MOVIES, tmp_path / "a.yaml")
    assert any(part in str(caught.value) for part in message.split("|")), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("act", "wording", "message"),
    [
        ("seen", "yes {it}, it was boring", "is read as seen, disliked, not as seen; word"),
        ("ask_who", "nice day?", "is not read as such a question"),
    ],
)
def test_faults_of_a_domains_wordings_are_named(act: str, wording: str, message: str) -> None:
    other = MOVIES.model_copy(update={"agenda": {**MOVIES.agenda, act: (wording,)}})
    with pytest.raises(CrsError) as caught:
        read_phrases(other)
    assert str(caught.value).startswith("the domain movies: ")
    assert message in str(caught.value)
