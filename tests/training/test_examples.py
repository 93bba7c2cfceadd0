"""Human dialogues as examples: knowledge of the seeker, tokens and their kinds, and the split by workers."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import get_args

import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from crslib.cli.bench import bench_adapters
from crslib.data.corpora import Dialogue, Item, redial
from crslib.data.corpora.base import merge_messages
from crslib.data.titles import split_year, title_key
from crslib.dialogue.scripts import SCRIPTED, USER_TARGET
from crslib.dialogue.templates import ChatTemplate
from crslib.dialogue.utterances import RECOMMENDER, USER, mention
from crslib.dialogue.views import Note, RecommenderView, UserView, looked_up
from crslib.engines.llama import Model, model_path
from crslib.engines.scripted import ScriptedEngine
from crslib.errors import CrsError
from crslib.training import examples as training
from crslib.training.examples import (
    CONTEXT,
    END,
    ROLES,
    TEXT,
    TITLE,
    WITHOUT,
    encode,
    examples,
    split,
    turn_rows,
    view,
)
from crslib.training.knowledge import Knowledge, Seekers, targets
from crslib.training.parameters import TrainingParameters
from tests.support.domains import MOVIES

TOKENIZER, TEMPLATE = ScriptedEngine(lambda prompt, seed: ""), ChatTemplate("")
HEAT, MATRIX, HILL, UP = "Heat (1995)", "The Matrix (1999)", "Notting Hill (1999)", "Up (2009)"
ITEMS = {
    "1": Item(HEAT, False, True, True, "user"),
    "2": Item(MATRIX, True, False, True, "user"),
    "3": Item(HILL, True, True, False, "user"),
}


def make(
    *spoken: tuple[str, str],
    items: dict[str, Item] | None = None,
    dialogue_id: str = "7",
    user: str = "a",
    recommender: str = "b",
) -> Dialogue:
    """A dialogue; `{1}` in a text is a mention of item 1."""
    items = ITEMS if items is None else items
    messages = []
    for role, text in spoken:
        ids = [part.split("}")[0] for part in text.split("{")[1:]]
        for item_id in ids:
            text = text.replace(f"{{{item_id}}}", mention(items[item_id].name))
        messages.append((role, text, ids))
    return Dialogue(dialogue_id, user, recommender, merge_messages(messages), items)


WORDS = "action/crime, by Michael Mann, with Al Pacino, Robert De Niro"  # what the catalogue says of Heat
TALK = make(
    (USER, "Hi, a thriller from the 90s please, no comedy. I like {1}"),
    (RECOMMENDER, "{2} or {3}?"),
    (USER, "{2} sounds good"),
    (RECOMMENDER, "Enjoy"),
)


def of_kind(row: dict[str, Sequence[int]], kind: int) -> str:
    return TOKENIZER.decode([token for token, one in zip(row["tokens"], row["kind"], strict=True) if one == kind])


# ── knowledge of the seeker ───────────────────────────────────────────────────────────────────────────────────────────


def test_targets_are_items_suggested_and_liked() -> None:
    assert targets(TALK) == ["2"]


def test_the_summary_has_other_items_and_the_attributes_what_is_asked_for(items: pl.DataFrame) -> None:
    known = Seekers(items.with_columns(kinds=pl.lit(["action", "thriller"])), MOVIES).knowledge(TALK)
    assert known.summary == (f"You enjoy action and thriller movies. You loved {HEAT}. You did not like {HILL}.")
    assert known.attributes == "thriller movie from the 1990s"


def test_the_facts_of_a_summary_follow_from_the_labels(items: pl.DataFrame) -> None:
    labels = {
        "1": Item(HEAT, False, True, True, ""),
        "2": Item(MATRIX, False, None, True, ""),
        "3": Item(HILL, False, True, False, ""),
        "4": Item("King Kong (1933)", False, False, True, ""),  # would like to see it, so not loved
        "6": Item(UP, False, False, False, ""),  # would not like to see it, so not disliked
        "9": Item("Unknown", True, True, None, ""),
    }
    facts = Seekers(items, MOVIES).facts(make((USER, "{1} {2} {3}"), items=labels))
    assert facts == {
        "liked_kinds": ["action", "crime", "sci-fi"],  # both have the first; the others are equally rare
        "liked_decade": 1990,
        "loved_items": ["1", "2"],
        "liked_makers": [],
        "disliked_items": ["3"],
        "disliked_kinds": [],
    }


def test_the_attributes_are_what_the_seeker_asks_for_and_nothing_else(items: pl.DataFrame) -> None:
    seekers = Seekers(items, MOVIES)
    assert seekers.knowledge(make((USER, "Hi, I like {1}"))).attributes == ""
    assert seekers.knowledge(make((USER, "Hi, something with al pacino"))).attributes == "movie with Al Pacino"
    assert (
        seekers.knowledge(make((USER, "by Michael Mann. No horror, no action"))).attributes == "movie by Michael Mann"
    )
    # What follows the recommender's first suggestion does not count as a request: it may be about a target.
    late = make((USER, "Hi"), (RECOMMENDER, "{2}?"), (USER, "That comedy!"), items={"2": ITEMS["2"]})
    assert seekers.knowledge(late).attributes == ""


TITLES = st.sampled_from([HEAT, MATRIX, HILL, UP, "King Kong (2005)", "King Kong (1933)", "Heat", "matrix", "It"])
LABEL = st.sampled_from([True, False, None])
LABELS = st.dictionaries(
    st.sampled_from("123456789"), st.builds(Item, TITLES, LABEL, LABEL, LABEL, st.just("user")), min_size=1
)


Spoken = list[tuple[str, str]]


@st.composite
def talks(draw: st.DrawFn) -> tuple[Spoken, dict[str, Item]]:
    """The turns and the items that `make` takes."""
    labels = draw(LABELS)
    texts = st.lists(st.sampled_from(["hi", "a comedy", "bye", "", *[f"{{{item}}}" for item in labels]]), max_size=3)
    spoken = st.lists(st.tuples(st.sampled_from([USER, RECOMMENDER]), texts.map(" ".join).map(str.strip)), max_size=8)
    return draw(spoken), labels


dialogues = talks().map(lambda talk: make(*talk[0], items=talk[1]))


FACTS = pl.DataFrame(  # of all items that `talks` mentions
    [
        {
            "item_id": item,
            "title": f"Film {item}",
            "n_ratings": 0,
            "year": 1990 + int(item),
            "kinds": ["drama", f"genre{item}"],
            "makers": ["D"],
            "people": ["C"],
            "attributes": [],
        }
        for item in "123456789"
    ]
)


@given(dialogues)
def test_no_target_reaches_a_users_system_message(dialogue: Dialogue) -> None:
    known = Knowledge(FACTS, [dialogue], MOVIES)
    system = view(dialogue, USER, known).messages[0].text
    keys = {title_key(split_year(dialogue.items[item].name)[0]) for item in targets(dialogue)}
    facts = known.seekers.facts(dialogue)
    summarised = [dialogue.items[item].name for item in (*facts["loved_items"], *facts["disliked_items"])]
    assert not keys & {title_key(split_year(name)[0]) for name in summarised}
    assert not [item for item in targets(dialogue) if f" {dialogue.items[item].name}" in system]


@given(talks())
def test_the_system_message_does_not_depend_on_the_targets(talk: tuple[Spoken, dict[str, Item]]) -> None:
    spoken, labels = talk
    dialogue = make(*spoken, items=labels)
    own_targets = targets(dialogue)
    keys = [title_key(split_year(item.name)[0]) for item in labels.values()]
    assume(len(set(keys)) == len(keys))  # the summary leaves out namesakes of targets too
    other = {f"x{item}" if item in own_targets else item: one for item, one in labels.items()}
    other |= {f"x{item}": replace(labels[item], name=f"Other {item} (1950)") for item in own_targets}
    for item in own_targets:
        spoken = [(role, text.replace(f"{{{item}}}", f"{{x{item}}}")) for role, text in spoken]
    known = Knowledge(FACTS, (), MOVIES)
    one, two = (view(each, USER, known).messages[0] for each in (dialogue, make(*spoken, items=other)))
    assert one == two


def left(dialogue: Dialogue) -> list[str]:
    """The recommender's empty turn after a seeker's last."""
    return [""] if dialogue.turns and dialogue.turns[-1].role == USER else []


@given(dialogues)
def test_nothing_private_reaches_the_recommender(dialogue: Dialogue) -> None:
    whole = view(dialogue, RECOMMENDER, Knowledge(FACTS, (), MOVIES), without=("facts",))
    assert [message.text for message in whole.messages[1:]] == [turn.text for turn in dialogue.turns] + left(dialogue)
    assert whole.messages[0] == RecommenderView(MOVIES).messages[0]
    # Other labels, the same example.
    blank = {item: Item(one.name, None, None, None, "") for item, one in dialogue.items.items()}
    bare = Dialogue("7", "a", "b", dialogue.turns, blank)
    one, other = (
        examples([each], RECOMMENDER, TOKENIZER, TEMPLATE, Knowledge(FACTS, (), MOVIES)) for each in (dialogue, bare)
    )
    assert one.equals(other)


@given(dialogues)
def test_a_recommender_looks_up_what_was_mentioned_once_and_nothing_else(dialogue: Dialogue) -> None:
    whole = view(dialogue, RECOMMENDER, Knowledge(FACTS, (), MOVIES))
    mentioned: list[str] = []
    shown: list[str] = []
    assert len(whole.messages) == 1 + len(dialogue.turns) + len(left(dialogue))
    for turn, message in zip(dialogue.turns, whole.messages[1:], strict=False):
        mentioned += [mention.item_id for mention in turn.mentions]
        text, _, line = message.text.partition("\n")
        assert text == turn.text
        shown += re.findall(r"Film (\d) \(19\d\d\):", line)
        if turn.role == USER:
            assert set(shown) == set(mentioned)
        else:
            assert not line
    assert len(shown) == len(set(shown))


def test_a_style_is_that_of_other_dialogues_of_the_same_person(items: pl.DataFrame) -> None:
    shouted = [(USER, "HELLO!"), (RECOMMENDER, "hi there")] * 5
    loud = [make(*shouted, dialogue_id=name) for name in ("8", "9")]
    known = Knowledge(items, [TALK, *loud], MOVIES)
    style = "short turns, capitals, full stops, many exclamation marks"
    assert str(known.writers.style(TALK, USER)) == style
    assert view(TALK, USER, known).messages[0].text.endswith(f"\nHow you write: {style}")
    quiet = "How you write: short turns, lower case, no full stops, no exclamation marks"
    assert view(TALK, RECOMMENDER, known).messages[0].text == f"You are a movie recommender.\n{quiet}"
    assert Knowledge(items, [TALK], MOVIES).writers.style(TALK, USER) is None  # nothing of the dialogue itself counts
    for role in (USER, RECOMMENDER):
        assert "How you write" not in view(TALK, role, known, without=("style",)).messages[0].text
    assert "How you write" not in view(TALK, SCRIPTED, known).messages[0].text


@given(dialogues)
def test_exactly_the_own_words_and_their_ends_are_targets(dialogue: Dialogue) -> None:
    for role in ROLES:
        own_view = view(dialogue, role, Knowledge(FACTS, (), MOVIES))
        own = [message.text for message in own_view.messages if message.role == "assistant"]
        rows = examples([dialogue], role, TOKENIZER, TEMPLATE, Knowledge(FACTS, (), MOVIES)).to_dicts()
        assert len(rows) == bool(own)
        for row in rows:
            own_tokens = [token for token, target in zip(row["tokens"], row["target"], strict=True) if target]
            # With this tokenizer every character is a token, so the end token is the "<" of "<|im_end|>".
            assert TOKENIZER.decode(own_tokens) == "".join(f"{text}<" for text in own)
            assert row["kind"].count(END) == len(own)
            titles = "".join(text[start:end] for text in own for _, start, end in training.mentions(text))
            assert of_kind(row, TITLE) == titles
            assert row["target"] == [kind != CONTEXT for kind in row["kind"]]
            assert row["kind"][-1] == END


# ── examples ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_has_notes_and_leaves_after_the_recommenders_last_turn(items: pl.DataFrame) -> None:
    (row,) = examples([TALK], USER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES)).to_dicts()
    assert (row["dialogue_id"], row["worker"], row["partner"]) == ("7", "a", "b")
    text = TOKENIZER.decode(row["tokens"])
    assert f"[[{HILL}]]?\n({MATRIX}: not seen, interested; {HILL}: seen, disliked)<|im_end|>" in text
    assert text.endswith("<|im_start|>user\nEnjoy<|im_end|>\n<|im_start|>assistant\n<")
    assert of_kind(row, TEXT) == "Hi, a thriller from the 90s please, no comedy. I like  sounds good"
    assert of_kind(row, END) == "<<<"
    stays = make((RECOMMENDER, "Hi"), (USER, "Bye"))
    (row,) = examples([stays], USER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES)).to_dicts()
    assert TOKENIZER.decode(row["tokens"]).endswith("assistant\nBye<")


def test_tokens_equal_those_of_a_simulation(items: pl.DataFrame) -> None:
    user, recommender = UserView(Seekers(items, MOVIES).knowledge(TALK)), RecommenderView(MOVIES)
    known, spoken = Knowledge(items, (), MOVIES), turn_rows(TALK)
    rows = {
        role: examples([TALK], role, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES))["tokens"].to_list()[0]
        for role in (USER, RECOMMENDER)
    }
    for number, turn in enumerate(TALK.turns, start=1):
        own = tuple(TOKENIZER.encode(turn.text))
        speaker, role = (user, USER) if turn.role == USER else (recommender, RECOMMENDER)
        prompt = [*TEMPLATE.encode(speaker.messages, TOKENIZER), *own]
        assert rows[role][: len(prompt)] == prompt
        if turn.role == USER:
            user.say(turn.text, own)
            recommender.hear(turn.text, looked_up(spoken[:number], known.lookup))
        else:
            recommender.say(turn.text, own)
            notes = {
                m.name: Note(m.name, TALK.items[m.item_id].seen, TALK.items[m.item_id].liked) for m in turn.mentions
            }
            user.hear(turn.text, list(notes.values()))
    assert rows[USER][:-1] == TEMPLATE.encode(user.messages, TOKENIZER)


def test_ablations_remove_a_part_of_the_view(items: pl.DataFrame) -> None:
    def text(role: str, *without: str) -> str:
        rows = examples([TALK], role, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES), without=without)
        return TOKENIZER.decode(rows["tokens"].to_list()[0])

    assert "not seen" not in text(USER, "notes")
    assert "You loved" in text(USER, "notes")
    assert "You loved" not in text(USER, "summary and attributes")
    assert "Looking for" not in text(USER, "summary and attributes")
    assert "not seen" in text(USER, "summary and attributes")
    assert f"({HEAT}: " in text(RECOMMENDER)
    assert f"({HEAT}: " not in text(RECOMMENDER, "facts")


def test_views_of_baselines_have_the_targets(items: pl.DataFrame) -> None:
    one, other = (
        examples([TALK], role, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES)).row(0, named=True)
        for role in (SCRIPTED, USER_TARGET)
    )
    assert f"The recommender suggests: {MATRIX}<" in TOKENIZER.decode(one["tokens"])
    assert of_kind(one, END) == "<"
    assert of_kind(one, TEXT).endswith("\nUser:  sounds good\nRecommender: Enjoy")
    assert f"You hope to hear of: {MATRIX}<" in TOKENIZER.decode(other["tokens"])
    assert of_kind(other, END) == "<<<"
    with pytest.raises(CrsError, match="unknown role 'judge'; known are user, recommender, scripted, user-target"):
        examples([TALK], "judge", TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES))


def test_ablations_have_one_list_of_names() -> None:
    (option,) = [option for option in bench_adapters.params if option.name == "without"]
    names = {part for parts in WITHOUT.values() for part in parts}
    assert names == set(get_args(TrainingParameters.model_fields["without"].annotation)) - {""}
    assert names == set(option.type.choices)
    for role, parts in WITHOUT.items():
        for name in names:
            if name in parts:
                TrainingParameters(role=role, without=name)
            else:
                with pytest.raises(ValidationError, match="leave it out"):
                    TrainingParameters(role=role, without=name)


def test_dialogues_with_negative_notes_are_repeated(items: pl.DataFrame) -> None:
    glad = make((USER, "{3}"), (RECOMMENDER, "{2}"), (USER, "ok"), dialogue_id="8")
    rows = examples([TALK, glad], USER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES), negative_weight=3)
    assert rows["dialogue_id"].to_list() == ["7", "7", "7", "8"]
    assert rows[:1].equals(rows[2:3])


def test_long_examples_end_with_a_whole_utterance(items: pl.DataFrame) -> None:
    (whole,) = examples([TALK], RECOMMENDER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES))["tokens"].to_list()
    (cut,) = examples(
        [TALK], RECOMMENDER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES), max_tokens=len(whole) - 1
    )["tokens"].to_list()
    assert cut == whole[: len(cut)]
    assert TOKENIZER.decode(cut).endswith(f"[[{HILL}]]?<")
    assert examples([TALK], RECOMMENDER, TOKENIZER, TEMPLATE, Knowledge(items, (), MOVIES), max_tokens=50).is_empty()


class Pairs:
    """Tokens are pairs of characters from the start of a text, so that a title's tokens overlap with other words."""

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        return [hash((text[start : start + 2], control)) for start in range(0, len(text), 2)]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("a [[Up]]. b", [TEXT, TITLE, TITLE, TITLE, TEXT, TEXT]),
        ("a[[Up]]b", [TITLE] * 4),
        ("[[Up]]x[[Up]]", [TITLE] * 7),
        ("[[Up]]x", [TITLE, TITLE, TITLE, TEXT]),
        ("ab", [TEXT]),
        ("", []),
    ],
)
def test_a_token_that_is_partly_title_counts_as_title(text: str, kinds: list[int]) -> None:
    own_view = RecommenderView(MOVIES)
    own_view.say(text)
    assert [kind for kind in encode(own_view, Pairs(), TEMPLATE)[1] if kind != CONTEXT] == [*kinds, END]


def test_a_template_that_rewrites_the_past_is_refused() -> None:
    rewriting = ChatTemplate(
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ '' if loop.last else '!' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    dropping = ChatTemplate("{% for m in messages[-2:] %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
    own_view = RecommenderView(MOVIES)
    for text in ("a", "b", "c"):
        own_view.hear(text)
        own_view.say(text)
    encode(own_view, TOKENIZER, TEMPLATE)
    for template, fault in ((rewriting, "rewrites past messages"), (dropping, "loses the text of message 1")):
        with pytest.raises(CrsError, match=f"template {fault}"):
            encode(own_view, TOKENIZER, template)


# ── split ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def frame(pairs: Sequence[tuple[str, str]]) -> pl.DataFrame:
    rows = [(str(number), *pair, [1], [True], [TEXT]) for number, pair in enumerate(pairs)]
    return pl.DataFrame(rows, schema=training.SCHEMA, orient="row")


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("ghijklmn")), max_size=40),
    st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    st.integers(0, 5),
)
def test_no_worker_is_on_both_sides(pairs: list[tuple[str, str]], share: float, seed: int) -> None:
    train, validation = split(frame(pairs), share, seed)
    workers = [set(one["worker"]) | set(one["partner"]) for one in (train, validation)]
    assert not workers[0] & workers[1]
    assert not set(train["dialogue_id"]) & set(validation["dialogue_id"])
    assert len(validation) >= round(share * len(pairs))
    swapped = [(b, a) for a, b in pairs]
    assert split(frame(swapped), share, seed)[1]["dialogue_id"].to_list() == validation["dialogue_id"].to_list()


def test_separate_groups_of_workers_are_not_split() -> None:
    """Of two groups that never meet, the validation side is one, and nothing is left out."""
    pairs = [(f"{group}{a}", f"{group}{b}") for group in "xy" for a, b in pairwise([1, 2, 3, 4, 1, 3])]
    for seed in range(4):
        train, validation = split(frame(pairs), 0.5, seed)
        assert (len(train), len(validation)) == (5, 5)
        assert len({worker[0] for worker in validation["worker"]}) == 1
    doubled = pl.concat([frame(pairs), frame(pairs)])
    assert len(split(doubled, 0.5, 0)[1]) == 10
    with pytest.raises(CrsError, match=r"share = 1 is not in \[0, 1\)"):
        split(frame(pairs), 1, 0)


# ── ReDial, and the tokenizer of a model ──────────────────────────────────────────────────────────────────────────────


def test_no_summary_of_redial_holds_a_target_and_counts_add_up(shared_data: Path) -> None:
    whole = redial.read(shared_data / "redial", "train")
    dialogues, knowledge = whole[::20], Knowledge(redial.items(), whole, MOVIES)
    seekers = knowledge.seekers
    for dialogue in dialogues:
        system = view(dialogue, USER, knowledge).messages[0].text
        for item in targets(dialogue):
            name = dialogue.items[item].name
            assert not name.endswith(")") or name not in system, (dialogue.dialogue_id, name)
    known = [seekers.knowledge(dialogue) for dialogue in dialogues]
    assert sum(bool(one.summary) for one in known) / len(known) == pytest.approx(0.77, abs=0.05)
    assert sum(bool(one.attributes) for one in known) / len(known) == pytest.approx(0.70, abs=0.05)
    rows = examples(dialogues, USER, TOKENIZER, TEMPLATE, knowledge)
    assert rows.equals(examples(dialogues, USER, TOKENIZER, TEMPLATE, knowledge))
    figures = training.count(rows)
    assert figures["examples"] == figures["dialogues"] == len(dialogues)
    assert figures["text"] + figures["title"] + figures["end"] == rows["target"].list.sum().sum()


@pytest.mark.model
def test_kinds_of_tokens_with_the_tokenizer_of_a_model(items: pl.DataFrame) -> None:
    model = Model(model_path("smollm2"))
    template = ChatTemplate(*model.chat_template)
    for role in ROLES:
        tokens, kinds = encode(own_view := view(TALK, role, Knowledge(items, (), MOVIES)), model, template)
        whole = template.encode(own_view.messages, model)
        assert tokens == whole[: len(tokens)]
        ends = [token for token, kind in zip(tokens, kinds, strict=True) if kind == END]
        assert model.decode(ends) == "<|im_end|>" * len(ends)
        titles = model.decode([token for token, kind in zip(tokens, kinds, strict=True) if kind == TITLE])
        own = [message.text for message in own_view.messages if message.role == "assistant"]
        spelt = "".join(f"[[{name}]]" for text in own for name, *_ in training.mentions(text))
        assert titles.replace(" ", "") == spelt.replace(" ", "")
    model.close()
