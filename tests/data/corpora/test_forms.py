"""Files of dialogues in other programs' forms: our own exports are read back, foreign ones are understood, and what is
neither is refused with its place."""

import json
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crslib import schemas
from crslib.data import exports
from crslib.data.catalog import Catalog, lookup
from crslib.data.corpora import forms, stored
from crslib.dialogue.utterances import mention
from crslib.dialogue.views import Note
from crslib.errors import CrsError
from tests.conftest import make_profiles
from tests.support.domains import MOVIES
from tests.support.fuzz import tries

KNOWN = ["Heat (1995)", "The Matrix (1999)", "King Kong (1933)", "King Kong (2005)", "Up (2009)"]
UNKNOWN = "Nope (1901)"
WORDS = ["hello", "well,", "naïve", "<b>", "<|im_end|>", '"so"', "(ok)", "I'd", "100%", "a/b", "😀", "\\", "{x}"]

_part = st.one_of(st.sampled_from(WORDS), st.sampled_from([mention(name) for name in [*KNOWN, UNKNOWN]]))
_text = st.lists(_part, min_size=1, max_size=5).map(" ".join)
_talks = st.lists(st.tuples(st.booleans(), st.lists(_text, min_size=1, max_size=5)), min_size=1, max_size=3)
_answers = st.sampled_from([True, False, None])


def tables(
    talks: Sequence[tuple[bool, list[str]]], catalog: Catalog, answers: Any
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `dialogues` and `turns` of talks (whether the user opens, texts in turn). A user has a note on each item
    of the turn before; the user left after every recommender's last word."""
    dialogues, turns = [], []
    for number, (opens, texts) in enumerate(talks):
        dialogue_id = f"u{number}.0"
        before: list[dict[str, Any]] = []
        for turn, text in enumerate(texts):
            role = "user" if (turn % 2 == 0) == opens else "recommender"
            items = catalog.link(text)
            noted = {item["title"]: item["item_id"] for item in before} if role == "user" else {}
            notes = [
                {"item_id": item_id, "title": title, "seen": answers(), "liked": answers()}
                for title, item_id in noted.items()
            ]
            notes = [note for note in notes if note["seen"] is not None or note["liked"] is not None]
            said = {"text": text, "items": items, "notes": notes, "n_tokens": None, "mean_logprob": None}
            turns.append({"dialogue_id": dialogue_id, "turn": turn, "role": role, **said, "finish": "end"})
            before = items
        head = {"dialogue_id": dialogue_id, "run_id": "r", "profile_id": f"u{number}", "condition": "c", "seed": 0}
        end = {"stop_reason": "user_left", "n_turns": len(texts), "user_style": None, "recommender_style": None}
        dialogues.append({**head, **end, "opener": "user" if opens else "recommender"})
    return (
        pl.DataFrame(dialogues, schema=dict(schemas.TABLES["dialogues"])),
        pl.DataFrame(turns, schema=dict(schemas.TABLES["turns"])),
    )


def read(form: str, content: bytes, catalog: Catalog, name: str = "file.json") -> stored.Tables:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return stored.tables(forms.read(path, form, MOVIES), catalog, "r", "c", "marked")


def rows(turns: pl.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return turns.sort("dialogue_id", "turn").select("turn", "role", *columns).rows()


@given(_talks, st.data())
@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_our_exports_are_read_back(items: pl.DataFrame, talks: list[tuple[bool, list[str]]], data: Any) -> None:
    catalog = Catalog(items, MOVIES)
    dialogues, turns = tables(talks, catalog, lambda: data.draw(_answers))
    profiles = make_profiles(dialogues["profile_id"].to_list())

    kit = read("dialoguekit", json.dumps(exports.dialoguekit(dialogues, turns)).encode(), catalog)
    assert rows(kit.turns, "text", "items") == rows(turns, "text", "items")
    assert kit.dialogues.equals(dialogues)

    for role, fold in product(("user", "recommender"), (False, True)):
        frame = exports.messages(dialogues, turns, profiles, lookup(items), role, MOVIES, fold)
        trl = read("trl", exports.lines(frame.to_dicts()).encode(), catalog)
        assert rows(trl.turns, "text", "items") == rows(turns, "text", "items")
        if role == "user":
            assert rows(trl.turns, "notes") == rows(turns, "notes")
            assert trl.profiles["summary"].to_list() == profiles["summary"].to_list()
        else:
            assert not any(trl.profiles["summary"].to_list())

    with tempfile.TemporaryDirectory() as folder:
        exports.write_parquet(exports.dataset(dialogues, turns, profiles), Path(folder) / "dialogues.parquet")
        ours = stored.tables(forms.read(Path(folder), "dataset", MOVIES), catalog, "r", "c", "marked")
    assert rows(ours.turns, "text", "items") == rows(turns, "text", "items")
    assert ours.dialogues["stop_reason"].to_list() == dialogues["stop_reason"].to_list()

    redial = read("redial", exports.lines(exports.redial(dialogues, turns)).encode(), catalog)
    known = [[item["item_id"] for item in row if item["item_id"]] for row in turns["items"]]
    assert [[item["item_id"] for item in row] for row in redial.turns["items"]] == known
    plain = [text.replace(mention(UNKNOWN), UNKNOWN) for text in turns["text"]]  # ReDial has no titles without an id
    assert redial.turns["text"].to_list() == plain


# ── foreign files ───────────────────────────────────────────────────────────────────────────────────────────────────


def written(tmp_path: Path, content: Any, name: str = "file.json") -> Path:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def utterances(one: stored.Stored) -> list[tuple[str, str]]:
    return [(said.role, said.text) for said in one.said]


def test_usersimcrs_annotated_dialogues(tmp_path: Path) -> None:
    """Slots in three spellings, labels of a turn, of a dialogue and of several raters."""
    first = [
        {"participant": "AGENT", "utterance": "Seen heat?\n", "slot_values": [["TITLE", "Heat"], ["GENRE", "seen"]]},
        {"participant": "USER", "utterance": "no", "intent": "NOTE.NO", "satisfaction": "3"},
    ]
    act = {"intent": "REVEAL", "annotations": [{"slot": "movie", "value": "Up (2009)"}]}
    second = [
        {"participant": "user", "utterance": "hi", "metadata": {"satisfaction": [2, 3]}},
        {"participant": "Agent", "utterance": "Up, up", "dialogue_acts": [act]},
    ]
    dialogues = [
        {"conversation_id": '"39G"', "conversation": first, "user": {"id": "User"}, "metadata": {"satisfaction": 4}},
        {"conversation ID": 7, "conversation": second},
    ]
    one, two = forms.read(written(tmp_path, {"agent": {}, "dialogues": dialogues}), "dialoguekit", MOVIES)
    assert utterances(one) == [("recommender", "Seen [[Heat]]?\n"), ("user", "no")]
    assert (one.dialogue_id, one.user, one.satisfaction, one.said[1].satisfaction) == ('"39G"', "User", 4.0, 3.0)
    assert utterances(two) == [("user", "hi"), ("recommender", "[[Up (2009)]], up")]
    assert (two.dialogue_id, two.user, two.satisfaction, two.said[0].satisfaction) == ("7", "", None, 2.5)


def test_crslab_redial(tmp_path: Path) -> None:
    """Texts as tokens, movies by ReDial's number (111776 is Super Troopers) and by DBpedia's address."""
    dialog = [
        {"role": "Initiator", "text": ["I", "liked", "@111776"], "movies": ["111776"], "entity": [], "word": []},
        {"role": "Respondent", "text": "try Heat now", "movies": ["<http://dbpedia.org/resource/Heat_(1995_film)>"]},
    ]
    (one,) = forms.read(written(tmp_path, [{"conv_id": 3, "dialog": dialog}]), "crslab", MOVIES)
    assert one.dialogue_id == "3"
    assert utterances(one) == [
        ("user", "I liked [[Super Troopers (2001)]]"),
        ("recommender", "try [[Heat (1995)]] now"),
    ]


def test_the_hubs_form_of_redial(tmp_path: Path) -> None:
    """Mentions and forms as lists of records: every title was lost."""
    answers = [{"movieId": "9", "suggested": 1, "seen": 0, "liked": 1}]
    record = {
        "conversationId": 1, "initiatorWorkerId": 1, "respondentWorkerId": 2,
        "messages": [
            {"senderWorkerId": 2, "text": "Try @9", "messageId": 1},
            {"senderWorkerId": 1, "text": "ok", "messageId": 2},
        ],
        "movieMentions": [{"movieId": "9", "movieName": "Heat (1995)"}],
        "initiatorQuestions": answers, "respondentQuestions": [],
    }  # fmt: skip
    (one,) = forms.read(written(tmp_path, record, "test-00000.jsonl"), "redial", MOVIES)
    assert utterances(one) == [("recommender", "Try [[Heat (1995)]]"), ("user", "ok")]
    assert one.said[1].notes == (Note("Heat (1995)", False, True),)
    stranger = {**record, "messages": [{"senderWorkerId": 3, "text": "Hi", "messageId": 1}]}
    with pytest.raises(CrsError, match=r"conversation 1 of .* lacks a part of ReDial's schema"):
        forms.read(written(tmp_path, stranger), "redial", MOVIES)


def test_messages_of_other_makers(tmp_path: Path) -> None:
    """`assistant` is the recommender where the system message is not ours; contents may be parts, and prompt and
    completion two lists."""
    chat = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": [{"type": "text", "text": "Hi\n(Heat (1995): seen)"}]},
        {"role": "assistant", "content": "Hello"},
    ]
    lines = [{"messages": chat}, {"prompt": chat[1:2], "completion": chat[2:]}]
    one, two = forms.read(written(tmp_path, exports.lines(lines)), "trl", MOVIES)
    assert utterances(one) == utterances(two) == [("user", "Hi\n(Heat (1995): seen)"), ("recommender", "Hello")]
    assert [one.dialogue_id, two.dialogue_id] == ["0001", "0002"]


@pytest.mark.parametrize(
    ("last", "said"),
    [("", []), ("[END]", []), ("ok bye [END]", [("user", "ok bye")])],
    ids=["an empty message, as in older files", "the mark", "the mark after words"],
)
def test_the_users_file_says_that_the_user_left(tmp_path: Path, last: str, said: list[tuple[str, str]]) -> None:
    system = "You are chatting with a movie recommender.\nAbout you: You like films.\nLooking for: comedy"
    chat = [
        {"role": "system", "content": system},
        {"role": "user", "content": "Try [[Heat (1995)]]\n(Heat (1995): not seen)"},
        {"role": "assistant", "content": last},
    ]
    (one,) = forms.read(written(tmp_path, {"messages": chat}), "trl", MOVIES)
    assert utterances(one) == [("recommender", "Try [[Heat (1995)]]"), *said]
    assert (one.stop_reason, one.summary, one.attributes) == ("user_left", "You like films.", "comedy")


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0bd"
    row = {"messages": [{"role": "user", "content": text}]}
    content = "\ufeff" + json.dumps(row, ensure_ascii=False) + "\r\n\n" + json.dumps({**row, "dialogue_id": "x"})
    one, two = forms.read(written(tmp_path, content), "trl", MOVIES)
    assert utterances(one) == utterances(two) == [("user", text)]


@pytest.mark.parametrize(
    ("text", "titles", "marked"),
    [
        ("Up or up or Up (2009)", ["Up (2009)"], "Up or up or [[Up (2009)]]"),
        ("Heat and Heat", ["Heat", "Heat"], "[[Heat]] and [[Heat]]"),
        ("b then a", ["a", "b"], "[[b]] then [[a]]"),
        ("Heater [[Heat]]", ["Heat"], "Heater [[Heat]]"),
        ("heat", ["Heat (1995)", "", "Nope"], "[[Heat (1995)]]"),
        ("a.c abc", ["a.c"], "[[a.c]] abc"),
    ],
)
def test_titles_are_marked_where_they_stand(text: str, titles: list[str], marked: str) -> None:
    assert forms.mark(text, titles) == marked


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("form", "content", "sentence"),
    [
        ("dialoguekit", "[]", "holds no dialogues"),
        ("trl", "", "holds no dialogues"),
        ("dialoguekit", [{"conversation": []}], "holds no dialogues"),
        ("dialoguekit", [{"turns": []}], "dialogue 1 lacks 'conversation'; --as dialoguekit reads a list"),
        ("dialoguekit", [3], "dialogue 1 has another shape"),
        (
            "dialoguekit",
            [{"conversation": [{"participant": "DJ", "utterance": "a"}]}],
            "dialogue 1: role 'DJ' is unknown",
        ),
        (
            "dialoguekit",
            [{"conversation": [{"participant": "USER", "utterance": None}]}],
            "dialogue 1 has another shape",
        ),
        (
            "dialoguekit",
            [{"conversation": [{"participant": "USER", "utterance": "a", "satisfaction": "good"}]}],
            "dialogue 1: satisfaction 'good' is not a number",
        ),
        (
            "dialoguekit",
            [{"conversation_id": "a", "conversation": [{"participant": "USER", "utterance": "a"}]}] * 2,
            "dialogues 1 and 2 have the same id 'a'",
        ),
        ("crslab", [{"dialog": [{"role": "Seeker", "movies": []}]}], "dialogue 1 lacks 'text'"),
        ("redial", '{"conversationId": "1"}', "lacks a part of ReDial's schema; give a file of JSON lines"),
        ("redial", '{"conversationId": "1", "movieMentions": 3}', "line 1 is not a ReDial dialogue"),
        ("trl", '{"messages": []}\n{"a"', "line 2 is not JSON"),
        ("trl", {"messages": [{"role": "tool", "content": "x"}]}, "dialogue 1: role 'tool' is unknown"),
        ("trl", {"prompt": "Hi"}, "dialogue 1 lacks 'completion'"),
        ("trl", {"prompt": "Hi", "completion": "Yes"}, "dialogue 1 has another shape"),
        ("dataset", "not Parquet", "is not a readable Parquet file"),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, form: str, content: Any, sentence: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(CrsError) as raised:
        forms.read(path, form, MOVIES)
    assert str(path) in str(raised.value)
    assert sentence in str(raised.value)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot read .*none\.json: No such file"):
        forms.read(tmp_path / "none.json", "dialoguekit", MOVIES)
    with pytest.raises(CrsError, match="is a folder; give one file"):
        forms.read(tmp_path, "trl", MOVIES)
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"messages": "\xe9"}')
    with pytest.raises(CrsError, match="is not UTF-8 at byte 14"):
        forms.read(path, "trl", MOVIES)
    parquet = tmp_path / "other.parquet"
    pl.DataFrame({"dialogue_id": ["a"]}).write_parquet(parquet)
    with pytest.raises(CrsError, match="dialogue 1 lacks 'turns'; --as dataset reads a table"):
        forms.read(parquet, "dataset", MOVIES)


def test_halves_of_surrogate_pairs_can_be_stored(tmp_path: Path, items: pl.DataFrame) -> None:
    chat = '{"messages": [{"role": "user", "content": "a \\ud83d b"}]}'
    tables_ = stored.tables(forms.read(written(tmp_path, chat), "trl", MOVIES), Catalog(items, MOVIES), "r", "c")
    tables_.turns.write_parquet(tmp_path / "turns.parquet")
    assert tables_.turns["text"].to_list() == ["a ? b"]
