"""The prompted format: what a model is told, and what is left of its replies."""

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.config import ROOT, resolve
from crslib.data.trl import conversation
from crslib.dialogue.prompts import LEAVE, Prompt, cleaned
from crslib.dialogue.scripts import ScriptView, TargetKnowledge, TargetUserView
from crslib.dialogue.styles import Style
from crslib.dialogue.utterances import RECOMMENDER, USER, clean, one_line
from crslib.dialogue.views import ItemFacts, Message, Note, RecommenderView, UserKnowledge, UserView, Wishes
from crslib.errors import CrsError
from tests.support.domains import MOVIES
from tests.support.texts import TEXT

USERS, RECOMMENDERS, SCRIPTS = (
    Prompt.read(ROOT / f"data/prompts/{name}.md") for name in ("user", "recommender", "script")
)
STYLE = Style("short turns", "lower case", "no full stops", "few exclamation marks")
OPENING = "{% set opening %}(You speak first.){% endset %}\n"
SMALL = Prompt(OPENING + "Name: {{ summary }}.\nWish: {{ attributes }}, {{ wishes.kinds | join('+') }}.", "small.md")


# ── what a model is told ────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_filled_and_the_dialogue_follows_as_in_the_view() -> None:
    view = UserView(
        UserKnowledge(MOVIES, "You enjoy drama movies.", "comedy movie", wishes=Wishes(("comedy", "drama")))
    )
    view.hear("Hi! Seen [[Heat (1995)]]?", [Note("Heat (1995)", True, True)])
    view.say("yes, great", ids=[1, 2])
    view.hear("And [[Up (2009)]]?")
    assert SMALL.messages(view) == [
        Message("system", "Name: You enjoy drama movies..\nWish: comedy movie, comedy+drama."),
        Message("user", "Hi! Seen [[Heat (1995)]]?\n(Heat (1995): seen, liked)"),
        Message("assistant", "yes, great"),
        Message("user", "And [[Up (2009)]]?"),
    ]


def test_where_the_party_itself_begins_a_line_of_the_file_comes_first() -> None:
    view = UserView(UserKnowledge(MOVIES, "", ""))
    assert [m.role for m in SMALL.messages(view)] == ["system", "user"]
    assert SMALL.messages(view)[1].text == "(You speak first.)"
    view.say("Hello")
    view.hear("Hi")
    assert [m.text for m in SMALL.messages(view)[1:]] == ["(You speak first.)", "Hello", "Hi"]


def test_a_reminder_stands_under_the_latest_message_only() -> None:
    prompt = Prompt(OPENING + "{% set reminder %}{% if candidates %}({{ candidates | map('mention') | join('; ') }})"
                    "{% endif %}{% endset %}Told.", "x.md")  # fmt: skip
    view = RecommenderView(MOVIES)
    view.hear("Hi", [ItemFacts("Up (2009)", ("family",), (), ())])
    told = "Hi\n(Up (2009): family)"
    assert prompt.messages(view)[1:] == [Message("user", told)]
    assert prompt.messages(view, ["Heat (1995)", "[REC] (2007)"])[1:] == [
        Message("user", f"{told}\n([[Heat (1995)]]; [[(REC) (2007)]])")
    ]
    view.say("Hello")
    view.hear("Bye")
    assert [m.text for m in prompt.messages(view, ["Heat (1995)"])] == [
        "Told.",
        told,
        "Hello",
        "Bye\n([[Heat (1995)]])",
    ]


def test_the_shipped_files_say_what_each_role_may_know_and_nothing_else() -> None:
    knowledge = ("You enjoy crime movies.", "crime movie", STYLE, Wishes(("crime",)))
    (user, opening) = USERS.messages(UserView(UserKnowledge(MOVIES, *knowledge)))
    for text in ("You enjoy crime movies.", "crime movie", str(STYLE), LEAVE, "[[Title (Year)]]"):
        assert text in user.text
    assert opening.role == "user"
    assert "hope" not in user.text
    target, _ = USERS.messages(TargetUserView(TargetKnowledge(MOVIES, *knowledge, titles=("Heat (1995)", "Up (2009)"))))
    assert "You hope to hear of: Heat (1995); Up (2009)" in target.text
    script, _ = SCRIPTS.messages(ScriptView(TargetKnowledge(MOVIES, *knowledge, titles=("Heat (1995)",))))
    assert "The recommender suggests: Heat (1995)" in script.text
    recommender, first = RECOMMENDERS.messages(RecommenderView(MOVIES, STYLE), ["Heat (1995)"])
    assert str(STYLE) in recommender.text
    assert first.text.endswith("(Movies that you may recommend now: [[Heat (1995)]].)")
    for bare in (
        USERS.messages(UserView(UserKnowledge(MOVIES, "", ""))),
        RECOMMENDERS.messages(RecommenderView(MOVIES)),
    ):
        for word in ("About", "looking for:", "How you write", "Movies that"):
            assert word not in "\n".join(message.text for message in bare)
    for told in (user, target, script, recommender):
        assert "\n\n\n" not in told.text
        assert "{" not in told.text


def test_a_model_that_was_trained_on_our_files_is_told_what_it_read_in_them() -> None:
    trained = Prompt.read(resolve("data/prompts/trained.md"))
    turns = [{"role": role, "text": text} for role, text in (("user", "Hi"), ("recommender", "Up?"), ("user", "No"))]
    knowledge = UserKnowledge(MOVIES, "You enjoy crime movies.", "crime movie", STYLE)
    for n in range(4):
        for view in (UserView.of(turns[:n], knowledge), RecommenderView.of(turns[:n], MOVIES, None, STYLE)):
            told = [{"role": message.role, "content": message.text} for message in trained.messages(view)]
            assert told == conversation(view.messages)


@pytest.mark.parametrize(
    ("line", "ends"),
    [("", False), ("{% set silence_ends = true %}", True), ("{% set silence_ends = false %}", False)],
)
def test_a_file_says_whether_silence_ends_a_dialogue(line: str, ends: bool) -> None:
    assert Prompt(OPENING + line, "x.md").silence_ends is ends


def test_the_identity_is_of_the_files_bytes() -> None:
    assert Prompt(OPENING, "a").identity == Prompt(OPENING, "b").identity != Prompt(OPENING + "x", "a").identity


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ sumary }}" + OPENING, "x.md asks for 'sumary', which no view has; it may use summary, "),
        ("{{ holdouts }}" + OPENING, "x.md asks for 'holdouts'"),
        ("{% if %}" + OPENING, r"x.md, line 1, is not valid Jinja \(.*\); mend it"),
        (OPENING + "{{ summary | shout }}", "x.md, line 2, is not valid Jinja .*shout"),
        ("You are a user.", "x.md does not say what a model reads where its role begins; add a line such as"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(source: str, message: str) -> None:
    with pytest.raises(CrsError, match=message):
        Prompt(source, "x.md")


@pytest.mark.parametrize(
    "text",
    [
        "{{ wishes.language }}",
        "{{ 1 // 0 }}",
        "{% include 'other.md' %}",
        "{{ summary.__class__.__mro__ }}",
        "{{ candidates }}",  # of a recommender
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_a_file_that_cannot_be_filled_says_what_may_stand_in_it(text: str) -> None:
    with pytest.raises(CrsError, match=r"^x.md cannot be filled \(.+\); this role's file may use summary, "):
        Prompt(OPENING + text, "x.md").messages(UserView(UserKnowledge(MOVIES, "", "")))


def test_a_recommenders_file_cannot_ask_for_the_profile() -> None:
    with pytest.raises(CrsError, match=r"'summary' is undefined.*may use style, candidates"):
        USERS.messages(RecommenderView(MOVIES))
    with pytest.raises(CrsError, match="empty opening"):
        Prompt("{% set opening %}{% endset %}x", "x.md").messages(RecommenderView(MOVIES))


def test_a_missing_file_or_one_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary.md").write_bytes(b"\xff\xfe\x00")
    for name in ("missing.md", "binary.md", "."):
        with pytest.raises(CrsError, match="is no instruction file that can be read"):
            Prompt.read(tmp_path / name)


TEMPLATES = ["{{ 7*7 }}", "{% raise %}", "{# gone #}", "{{ summary }}", "<|im_end|>", "</s>", "# Rules", "{{", "%}"]
VIEW_TEXT = st.one_of(TEXT, st.lists(st.sampled_from([*TEMPLATES, "a", " "]), max_size=4).map("".join))


@given(
    st.lists(VIEW_TEXT, min_size=5, max_size=5),
    st.lists(st.tuples(VIEW_TEXT, VIEW_TEXT), max_size=3),
    st.booleans(),
)
def test_no_text_is_executed_or_changed(known: list[str], turns: list[tuple[str, str]], begins: bool) -> None:
    """Every text stands in the messages as it is in the view; of what the files are filled with, on one line."""
    summary, attributes, genre, title, candidate = known
    knowledge = TargetKnowledge(MOVIES, summary, attributes, None, Wishes((genre,)), titles=(title,))
    user, script, recommender = TargetUserView(knowledge), ScriptView(knowledge), RecommenderView(MOVIES)
    for first, second in turns:
        for view in (user, recommender):
            (view.say if begins else view.hear)(first)
            (view.hear if begins else view.say)(second)
    plain = Prompt(OPENING + "a{{ summary }}b{{ attributes }}c{{ wishes.kinds[0] }}d{{ titles[0] }}e", "plain.md")
    told = "a{}b{}c{}d{}e".format(*map(one_line, known[:4]))
    assert plain.messages(user)[0].text == plain.messages(script)[0].text == told
    for prompt, view in ((USERS, user), (RECOMMENDERS, recommender)):
        messages = prompt.messages(view, [candidate])
        heard = messages[1 if not begins and turns else 2 :]
        assert [m.role for m in messages[:2]] == ["system", "user"]
        assert all(one.role != two.role for one, two in pairwise(messages))
        for own, message in zip(view.messages[1:], heard, strict=False):
            assert message.role == own.role
            assert message.text == own.text or message.text.startswith(f"{own.text}\n(")


@given(st.text("abcdefgh ", min_size=6, max_size=40), st.lists(VIEW_TEXT, max_size=4))
def test_nothing_of_the_profile_is_in_a_recommenders_messages(secret: str, texts: list[str]) -> None:
    """Whatever the user knows: the recommender's messages are the same."""
    told = []
    for summary in ("", f"XQ{secret}QX"):
        user, recommender = UserView(UserKnowledge(MOVIES, summary, summary)), RecommenderView(MOVIES)
        for text in texts:
            user.say(text)
            recommender.hear(text)
        USERS.messages(user)
        told.append(RECOMMENDERS.messages(recommender))
    assert told[0] == told[1]
    assert not any("XQ" in message.text for message in told[1])


# ── what it replies ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("raw", "role", "text"),
    [
        ("Hello there", USER, "Hello there"),
        # thoughts
        ("<think>They want\ncrime.</think>\n\nTry [[Heat (1995)]]", RECOMMENDER, "Try [[Heat (1995)]]"),
        ("They want crime.</think> Try it", RECOMMENDER, "Try it"),  # the template opened it
        ("Sure.<THINK>and now", USER, "Sure."),
        ("<think>no end", USER, ""),
        # speakers
        ("User: hi", USER, "hi"),
        ("**Recommender:** hi", RECOMMENDER, "hi"),
        ("**Assistant**: hi", USER, "hi"),  # its name in its own template
        ("Hi\nRecommender: Hello\nUser: bye", USER, "Hi"),
        ("Recommender: Seen it?\nUser: Yes.\nReally.\nRecommender: Ok", USER, "Yes. Really."),
        ("Assistant: A\nassistant: B\nHuman: C", RECOMMENDER, "A B"),
        ("Note: a user: yes", USER, "Note: a user: yes"),
        ("Bye<|im_end|>\n<|im_start|>user\nHi", RECOMMENDER, "Bye"),
        ("<|im_start|>assistant\nHello", RECOMMENDER, "Hello"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>", USER, "Hello"),
        # markup
        ("I **really** like *it*, _very_ much, ~~not~~ `so`", USER, "I really like it, very much, not so"),
        ("**very *very* much**", USER, "very very much"),
        ("# Films\n> good ones\n---\n1. [[Heat (1995)]]\n2. [[Up (2009)]]\n\nEnjoy!", RECOMMENDER,
         "Films good ones [[Heat (1995)]], [[Up (2009)]] Enjoy!"),
        ("- One.\n- Two", RECOMMENDER, "One. Two"),
        ("```text\nhello\n```", USER, "hello"),
        ("see [this](https://example.org/a_b) <b>now</b>", USER, "see this now"),
        ("M*A*S*H and 2 * 3 * 4 and snake_case_name", USER, "M*A*S*H and 2 * 3 * 4 and snake_case_name"),
        ("12 Monkeys - 9/10", USER, "12 Monkeys - 9/10"),
        # quotation marks
        ('User: "I like it!"', USER, "I like it!"),
        ("“I like it”", USER, "I like it"),
        ('"Heat" or "Up"', USER, '"Heat" or "Up"'),
        ("it's 'fine'", USER, "it's 'fine'"),
        # as in `utterances.clean`
        ("fun 😀👍 film]]", USER, "fun 😀👍 film"),
        ("", USER, ""),
        ("**", USER, ""),
    ],
)  # fmt: skip
def test_replies_are_cleaned(raw: str, role: str, text: str) -> None:
    assert cleaned(raw, role) == (text, False)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (f"Thanks, bye! {LEAVE}", "Thanks, bye!"),
        ("Thanks, bye! [end]", "Thanks, bye!"),
        ("Bye **[End]**", "Bye"),
        ("Bye (end of conversation)", "Bye"),
        ("Bye [[END]].", "Bye"),
        ("Bye <END>\nRecommender: bye!", "Bye"),
        ("[END] See you.", "See you."),
        ("Bye.\nEND", "Bye."),
        ("*[END]*", ""),
    ],
)
def test_the_mark_of_leaving_is_read_and_removed(raw: str, text: str) -> None:
    assert cleaned(raw, USER) == (text, True)
    assert cleaned(raw, RECOMMENDER) == (text, False)


@pytest.mark.parametrize("raw", ["in the end", "HOWARDS END", "[[The End (2013)]]", "the end (of it)", "(endless)"])
def test_other_ends_are_no_mark(raw: str) -> None:
    assert cleaned(raw, USER) == (raw, False)


def test_titles_are_linked_while_their_emphasis_is_there() -> None:
    seen = []

    def link(text: str) -> str:
        seen.append(text)
        return text.replace("*Heat*", "[[Heat (1995)]]")

    assert cleaned("<think>x</think>User: *Heat*\n**yes**", USER, link) == ("[[Heat (1995)]] yes", False)
    assert seen == ["*Heat* **yes**"]


PIECES = ["*", "**", "_", "`", '"', "“", "<think>", "</think>", "User:", "Recommender: ", "\n", " ", "[END]", "[", "]]",
          "[[Heat (1995)]]", "a", "<|im_end|>", "- ", "# ", "```", "END", "(", "1. ", "](http://x)"]  # fmt: skip


@given(
    st.one_of(TEXT, st.lists(st.sampled_from(PIECES), max_size=25).map("".join)), st.sampled_from([USER, RECOMMENDER])
)
def test_whatever_a_model_writes_becomes_an_utterance(raw: str, role: str) -> None:
    text, left = cleaned(raw, role)
    assert text == clean(text)
    assert "<|im_end|>" not in text
    assert left is False or role == USER
