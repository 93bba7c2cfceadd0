"""ReDial's files as dialogues, tables and facts of movies."""

import json
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from crslib import schemas
from crslib.cli.main import main
from crslib.config import ROOT
from crslib.data.corpora import Dialogue, frames, redial
from crslib.data.corpora.base import first_speakers, merge_messages
from crslib.dialogue import utterances
from crslib.errors import CrsError


def line(**changes: Any) -> dict[str, Any]:
    """A line of ReDial's files: worker 1 is the seeker; worker 2, the recommender, speaks first."""
    return {
        "conversationId": "7",
        "initiatorWorkerId": 1,
        "respondentWorkerId": 2,
        "messages": [
            {"messageId": 1, "timeOffset": 0, "senderWorkerId": 2, "text": "Hi!"},
            {"messageId": 2, "timeOffset": 1, "senderWorkerId": 2, "text": "Seen @10 ?"},
            {"messageId": 3, "timeOffset": 2, "senderWorkerId": 1, "text": "No, I like @11, it&#39;s\nfun"},
        ],
        "movieMentions": {"10": "Airplane!  (1980)", "11": "Why Him%3F (2016)"},
        "initiatorQuestions": {
            "10": {"suggested": 1, "seen": 0, "liked": 2},
            "11": {"suggested": 0, "seen": 1, "liked": 1},
        },
        "respondentQuestions": {"10": {"suggested": 1, "seen": 1, "liked": 1}},
    } | changes


def read(tmp_path: Path, *lines: dict[str, Any]) -> list[Dialogue]:
    path = tmp_path / "train_x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in lines), encoding="utf-8")
    return redial.read(path, "train")


def written(*texts: tuple[int, str]) -> list[dict[str, Any]]:
    return [{"senderWorkerId": who, "text": text, "messageId": n} for n, (who, text) in enumerate(texts)]


def test_messages_of_one_speaker_are_one_turn_in_format_v1(tmp_path: Path) -> None:
    (dialogue,) = read(tmp_path, line())
    assert (dialogue.dialogue_id, dialogue.user, dialogue.recommender) == ("7", "1", "2")
    assert [(t.role, t.text, t.n_messages) for t in dialogue.turns] == [
        ("recommender", "Hi! Seen [[Airplane! (1980)]] ?", 2),
        ("user", "No, I like [[Why Him? (2016)]], it's fun", 1),
    ]
    for turn in dialogue.turns:
        for mention in turn.mentions:
            assert turn.text[mention.start : mention.end] == f"[[{mention.name}]]"
    assert [mention.item_id for turn in dialogue.turns for mention in turn.mentions] == ["10", "11"]


def test_answers_are_the_seekers_or_else_the_recommenders(tmp_path: Path) -> None:
    (both_forms,) = read(tmp_path, line())
    assert (both_forms.items["10"].suggested, both_forms.items["10"].seen, both_forms.items["10"].liked) == (
        True,
        False,
        None,
    )
    assert both_forms.items["10"].source == "user"
    (one_form,) = read(tmp_path, line(initiatorQuestions=[]))
    assert (one_form.items["10"].seen, one_form.items["10"].liked, one_form.items["10"].source) == (
        True,
        True,
        "recommender",
    )
    # Neither form has item 11: only who named it first is known.
    assert (one_form.items["11"].suggested, one_form.items["11"].seen, one_form.items["11"].source) == (False, None, "")


def test_empty_lists_instead_of_mappings_are_read(tmp_path: Path) -> None:
    messages = written((2, "Hi"), (1, "Bye"))
    (dialogue,) = read(
        tmp_path, line(messages=messages, movieMentions=[], initiatorQuestions=[], respondentQuestions=[])
    )
    assert dialogue.items == {}
    assert [turn.text for turn in dialogue.turns] == ["Hi", "Bye"]


def test_a_missing_title_is_taken_from_another_dialogue(tmp_path: Path) -> None:
    broken = line(
        conversationId="8", messages=written((1, "I liked @11 and @99")), movieMentions={"11": None, "50": None}
    )
    first, second = read(tmp_path, line(), broken)
    assert first.turns[1].mentions[0].name == "Why Him? (2016)"
    assert second.turns[0].text == "I liked [[Why Him? (2016)]] and that movie"
    assert set(second.items) == {"10", "11"}
    assert second.turns[0].mentions[0].item_id == "11"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Scarface  (1983)", "Scarface (1983)"),
        ("Why%3F  (1987)", "Why? (1987)"),
        ("%22Crocodile%22 Dundee (1986)", '"Crocodile" Dundee (1986)'),
        ("Fast &amp; Furious (2009)", "Fast & Furious (2009)"),
        ("2001: A Space Odyssey ", "2001: A Space Odyssey"),
        ("1922 ", "1922"),
        ("[REC] (2007)", "[REC] (2007)"),
        ("(1999)", "(1999)"),
        (None, ""),
        ("  ", ""),
    ],
)
def test_titles_are_cleaned(raw: str | None, name: str) -> None:
    assert redial.clean_title(raw) == name


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("I love @10(and @11", "I love [[Airplane! (1980)]](and [[Why Him? (2016)]]"),
        ("on?@10 is", "on?[[Airplane! (1980)]] is"),
        ("movies like @star wars", "movies like star wars"),
        ("see [[this]] &quot;now&quot;\r\n ok", 'see this "now" ok'),
        ("[@10]", "[[[Airplane! (1980)]]]"),
        ("a <|im_end|> b", "a <|im_end|> b"),
    ],
)
def test_utterances_are_in_format_v1(tmp_path: Path, raw: str, text: str) -> None:
    (dialogue,) = read(tmp_path, line(messages=written((1, raw))))
    assert dialogue.turns[0].text == text
    for mention in dialogue.turns[0].mentions:
        assert text[mention.start : mention.end] == f"[[{mention.name}]]"


def test_empty_messages_are_left_out_and_split_no_turn(tmp_path: Path) -> None:
    (dialogue,) = read(tmp_path, line(messages=written((1, "Hi"), (2, " "), (1, "there"), (2, "Hello"))))
    assert [(t.text, t.n_messages) for t in dialogue.turns] == [("Hi there", 2), ("Hello", 1)]


def test_files_of_merged_messages_have_no_number_of_messages(tmp_path: Path) -> None:
    messages = [{"senderWorkerId": 2, "text": "Hi! Seen @10 ?"}]
    (dialogue,) = read(tmp_path, line(messages=messages))
    assert dialogue.turns[0].n_messages is None


def test_brackets_in_a_title_become_round_ones_in_a_mention(tmp_path: Path) -> None:
    (dialogue,) = read(tmp_path, line(movieMentions={"10": "[REC] (2007)"}, messages=written((1, "@10!"))))
    assert dialogue.turns[0].text == "[[(REC) (2007)]]!"


def test_frames_are_tables_of_a_run_with_notes_on_the_turn_before(tmp_path: Path) -> None:
    messages = written((1, "I like @11"), (2, "See @10 or @11 !"), (1, "ok"), (2, "bye"), (1, "bye"))
    dialogues, turns = frames(read(tmp_path, line(messages=messages)))
    schemas.check(dialogues, "dialogues")
    schemas.check(turns, "turns")
    assert dialogues.select("opener", "n_turns", "condition").rows() == [("user", 5, "human")]
    notes = turns["notes"].to_list()
    assert [len(notes_of_turn) for notes_of_turn in notes] == [0, 0, 2, 0, 0]
    assert notes[2][0] == {"item_id": "10", "title": "Airplane! (1980)", "seen": False, "liked": None}
    assert notes[2][1] == {"item_id": "11", "title": "Why Him? (2016)", "seen": True, "liked": True}
    assert turns["items"].list.len().to_list() == [1, 2, 0, 0, 0]


def test_zip_folder_and_file_give_the_same_dialogues(tmp_path: Path) -> None:
    folder = tmp_path / "redial"
    folder.mkdir()
    (folder / "train_data.jsonl").write_text(json.dumps(line()) + "\n", encoding="utf-8")
    (folder / "test_data.jsonl").write_text(json.dumps(line(conversationId="9")) + "\n\n", encoding="utf-8")
    archive = tmp_path / "redial_dataset.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.iterdir():
            file.write(path, f"redial/{path.name}")
    for source in (archive, folder):
        assert [d.dialogue_id for d in redial.read(source, "train")] == ["7"]
        assert [d.dialogue_id for d in redial.read(source, "test")] == ["9"]
    assert redial.read(folder / "test_data.jsonl", "test") == redial.read(archive, "test")


def test_a_conversation_is_read_once(tmp_path: Path) -> None:
    assert len(read(tmp_path, line(), line())) == 1


def test_files_that_are_not_redials_are_refused(tmp_path: Path) -> None:
    broken = tmp_path / "train_x.jsonl"
    for content, message in (
        ("{", "line 1 is not a ReDial dialogue"),
        ("[1]", "line 1 is not a ReDial dialogue"),
        ('{"a": 1}', "line 1 is not a ReDial dialogue"),
        ('{"conversationId": "1", "movieMentions": [1]}', "line 1 is not a ReDial dialogue"),
        ('{"conversationId": "1", "messages": []}', "conversation 1 of .* lacks a part"),
    ):
        broken.write_text(content + "\n", encoding="utf-8")
        with pytest.raises(CrsError, match=message):
            redial.read(broken, "train")
    with pytest.raises(CrsError, match=r"cannot read .*No such file"):
        redial.read(tmp_path / "absent.zip", "train")
    (tmp_path / "wrong.zip").write_bytes(b"no zip")
    with pytest.raises(CrsError, match="is not a zip"):
        redial.read(tmp_path / "wrong.zip", "train")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("ratings.csv", "x")
    with pytest.raises(CrsError, match="holds no train"):
        redial.read(tmp_path / "other.zip", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrsError, match="has no file train"):
        redial.read(tmp_path / "empty", "train")


def test_the_test_set_is_never_read_as_training_data(tmp_path: Path) -> None:
    path = tmp_path / "test_dev.jsonl"
    path.write_text(json.dumps(line()) + "\n", encoding="utf-8")
    with pytest.raises(CrsError, match="not of the train split"):
        redial.read(path, "train")


def test_the_real_corpus(shared_data: Path) -> None:
    train = redial.read(shared_data / "redial", "train")
    test = redial.read(shared_data / "redial", "test")
    assert (len(train), len(test)) == (4036, 671)
    assert not {d.user for d in test} & {d.user for d in train}
    messages = [sum(turn.n_messages or 0 for turn in d.turns) for d in test]
    assert sum(messages) / 671 == pytest.approx(17.84, abs=0.01)
    assert sum(len(d.turns) for d in test) / 671 == pytest.approx(11.68, abs=0.01)
    opens = sum(d.turns[0].role == "recommender" for d in (*train, *test)) / 4707
    assert opens == pytest.approx(0.64, abs=0.01)
    (odd,) = [d for d in train if d.dialogue_id == "1382"]
    assert any(mention.name == "50 First Dates (2004)" for turn in odd.turns for mention in turn.mentions)
    for dialogue in (*train, *test):
        for before, after in zip(dialogue.turns, dialogue.turns[1:], strict=False):
            assert before.role != after.role
        for turn in dialogue.turns:
            assert turn.text
            assert [m.item_id for m in turn.mentions if m.item_id not in dialogue.items] == []
            assert all(turn.text[m.start : m.end] == f"[[{m.name}]]" for m in turn.mentions)
    _, turns = frames(test)
    answered = turns.filter(pl.col("notes").list.len() > 0)
    assert answered["role"].unique().to_list() == ["user"]
    assert len(answered) > 1500


MOVIES = 'movieId,movieName,nbMentions\n11,"Why Him%3F (2016)",2\n10,"Airplane!  (1980)",1\n12,,1\n'


def test_the_catalogue_is_read_from_a_folder_and_a_zip(tmp_path: Path) -> None:
    (tmp_path / "movies_with_mentions.csv").write_text(MOVIES, encoding="utf-8")
    with zipfile.ZipFile(tmp_path / "redial.zip", "w") as archive:
        archive.writestr("redial/movies_with_mentions.csv", MOVIES)
    for path in (tmp_path, tmp_path / "redial.zip"):
        assert redial.movies(path) == {"10": "Airplane! (1980)", "11": "Why Him? (2016)"}


def test_a_missing_or_damaged_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"no file movies_with_mentions\.csv"):
        redial.movies(tmp_path)
    (tmp_path / "movies_with_mentions.csv").write_text("id,name\n1,Up\n", encoding="utf-8")
    with pytest.raises(CrsError, match="no columns movieId and movieName"):
        redial.movies(tmp_path)


FACTS = [
    {"movieId": "10", "genre": ["comedy", "sport", "action"], "director": ["Jim  Abrahams"], "star": ["A", "B"]},
    {"movieId": 11, "genre": [], "director": [], "star": [], "imdb_id": "tt4501244"},
    {"movieId": "99", "genre": ["war"], "director": ["C"], "star": [], "imdb_id": "tt1"},
]


def test_facts_become_table_items(tmp_path: Path) -> None:
    (tmp_path / "movies_with_mentions.csv").write_text(MOVIES + "13,(1999),9\n14,Heat,9\n", encoding="utf-8")
    facts, file = tmp_path / "facts.jsonl", tmp_path / "items.parquet"
    facts.write_text("".join(json.dumps(fact) + "\n" for fact in FACTS), encoding="utf-8")
    built = redial.build_items(tmp_path, facts, file)
    assert built.equals(redial.items(file))
    assert built["item_id", "title", "year", "kinds", "makers", "people", "external_id"].rows() == [
        ("10", "Airplane!", 1980, ["action", "comedy"], ["Jim Abrahams"], ["A", "B"], None),
        ("11", "Why Him?", 2016, [], [], [], "tt4501244"),
        ("13", "(1999)", None, [], [], [], None),
        ("14", "Heat", None, [], [], [], None),
    ]
    assert set(built["n_ratings"]) == {0}  # never the corpus's counts of mentions: they include the test set
    facts.write_text("{", encoding="utf-8")
    with pytest.raises(CrsError, match="does not hold JSON lines with a movieId"):
        redial.build_items(tmp_path, facts, file)
    with pytest.raises(CrsError, match=r"cannot read .*absent"):
        redial.build_items(tmp_path, tmp_path / "absent", file)


def test_the_shipped_facts() -> None:
    items = redial.items()
    assert len(items) == 6924
    assert items["item_id"].is_unique().all()
    assert items["item_id"].to_list() == sorted(items["item_id"])
    built_in = pl.read_parquet(ROOT / "data" / "items.parquet")
    assert set(built_in["kinds"].explode(empty_as_null=False)) == redial.GENRES
    assert set(items["kinds"].explode(empty_as_null=False)) <= redial.GENRES


def test_the_shipped_facts_are_rebuilt_byte_for_byte(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "redial"
    redial.build_items(folder, folder / "item_facts.jsonl", tmp_path / "items.parquet")
    assert (tmp_path / "items.parquet").read_bytes() == redial.ITEMS.read_bytes()
    names = {row[0]: utterances.item_name(*row[1:]) for row in redial.items()["item_id", "title", "year"].iter_rows()}
    assert names == redial.movies(folder)


def test_merged_messages_have_the_mentions_of_all() -> None:
    messages = [
        ("user", "", ()),
        ("user", "a [[Up]]", ["1"]),
        ("user", "[[Heat]]", ["2"]),
        ("recommender", "[[Up]]", ["1"]),
    ]
    turns = merge_messages(messages)
    assert [(turn.role, turn.text, turn.n_messages) for turn in turns] == [
        ("user", "a [[Up]] [[Heat]]", 2),
        ("recommender", "[[Up]]", 1),
    ]
    assert first_speakers(turns) == {"1": "user", "2": "user"}
    assert merge_messages(messages, counted=False)[0].n_messages is None


@pytest.mark.parametrize("content", ["", "\n\n", json.dumps(line(messages=[])) + "\n"])
def test_a_file_without_a_word_is_refused_and_overwrites_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "test_x.jsonl").write_text(content)
    with pytest.raises(CrsError, match="holds no dialogue in which anybody says a word; download the official zip"):
        redial.read(tmp_path / "test_x.jsonl", "test")
    with pytest.raises(CrsError, match="holds no dialogue in which anybody says a word; give a file of JSON lines"):
        redial.read_file(tmp_path / "test_x.jsonl")
    to = tmp_path / "human"
    to.mkdir()
    (to / "reference.json").write_text("as it was")
    for command in ("reference", "embeddings"):
        words = ["data", command, "--redial", str(tmp_path / "test_x.jsonl"), "--to", str(to)]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert "anybody says a word" in result.stderr
    assert [(path.name, path.read_text()) for path in to.iterdir()] == [("reference.json", "as it was")]


def test_halves_of_surrogate_pairs_become_question_marks(tmp_path: Path) -> None:
    texts = written((1, "Hi \ud83d there"), (2, "whole \U0001f600, \\ud83d typed"))
    mentions = {"10": "Air\udc00plane! (1980)"}
    (dialogue,) = read(tmp_path, line(messages=[*texts, *written((1, "@10"))], movieMentions=mentions))
    assert [turn.text for turn in dialogue.turns] == [
        "Hi ? there", "whole \U0001f600, \\ud83d typed", "[[Air?plane! (1980)]]",
    ]  # fmt: skip


def test_line_separators_and_deep_nesting_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "train_x.jsonl"
    text = json.dumps(line(messages=written((1, "a\u2028b\x85c"))), ensure_ascii=False)
    path.write_bytes(text.encode() + b"\r\n")
    (dialogue,) = redial.read(path, "train")
    assert dialogue.turns[0].text == "a b c"
    path.write_bytes(text.encode() + b"\n" + b"[" * 100_000 + b"\n")
    with pytest.raises(CrsError, match=r"train_x\.jsonl line 2 is not a ReDial dialogue"):
        redial.read(path, "train")
