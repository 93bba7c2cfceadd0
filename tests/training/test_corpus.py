"""Human dialogues and pairs as files for TRL, with the barrier kept."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crslib.cli.main import main
from crslib.config import ExportParameters
from crslib.data.corpora import Dialogue, Item, folder
from crslib.data.corpora.base import merge_messages
from crslib.data.source import Source
from crslib.dialogue.utterances import RECOMMENDER, USER, mention
from crslib.errors import CrsError
from crslib.training import corpus
from crslib.training.knowledge import targets
from tests.support import corpora, tiny_redial
from tests.support.domains import MOVIES
from tests.support.fuzz import tries

HEAT, MATRIX, HILL, UP = "Heat (1995)", "The Matrix (1999)", "Notting Hill (1999)", "Up (2009)"
NAMES = {"1": HEAT, "2": MATRIX, "3": HILL, "6": UP}
KEEP = ExportParameters()
SPOKEN = [
    (USER, f"Hi, a comedy? I like {mention(HEAT)}", ["1"]),
    (RECOMMENDER, f"{mention(MATRIX)} or {mention(HILL)} or {mention(UP)}", ["2", "3", "6"]),
    (USER, "ok", []),
    (RECOMMENDER, "Enjoy", []),
]


def talk(
    labels: Sequence[tuple[bool | None, bool | None]] = ((True, True), (False, True), (True, False), (None, None)),
    *,
    dialogue_id: str = "7",
    people: tuple[str, str] = ("a", "b"),
    spoken: Sequence[Any] = SPOKEN,
) -> Dialogue:
    """A dialogue whose seeker answers (seen, liked) on the four films."""
    items = {
        item_id: Item(name, item_id != "1", *label, "user")
        for (item_id, name), label in zip(NAMES.items(), labels, strict=True)
    }
    return Dialogue(dialogue_id, *people, merge_messages(spoken), items)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_dialogue_in_both_views(items: pl.DataFrame, tmp_path: Path) -> None:
    listener = talk(dialogue_id="9", spoken=[(USER, "Anyone?", [])])
    origin = ["Licence: X"]
    recommender = corpus.write_dialogues([talk(), listener], items, RECOMMENDER, tmp_path, KEEP, origin, MOVIES)
    assert recommender.lines == ["1 of 2 dialogues left out: the role says nothing"]
    (row,) = rows(recommender.path)
    assert row == {
        "dialogue_id": "7",
        "messages": [
            {"role": "system", "content": MOVIES.system.recommender},  # neither facts nor a style
            {"role": "user", "content": SPOKEN[0][1]},
            {"role": "assistant", "content": SPOKEN[1][1]},
            {"role": "user", "content": "ok"},
            {"role": "assistant", "content": "Enjoy"},
        ],
    }
    folded = ExportParameters(system="fold")
    (row,) = rows(corpus.write_dialogues([talk()], items, USER, tmp_path, folded, origin, MOVIES).path)
    contents = [(message["role"], message["content"]) for message in row["messages"]]
    about = f"You enjoy crime and action movies. You loved {HEAT}. You did not like {HILL}."
    told = f"You are chatting with a movie recommender.\nAbout you: {about}\nLooking for: comedy movie"
    assert contents[0] == ("user", f"{told}\n\n(You speak first.)")
    assert contents[2][1].endswith(f"\n({MATRIX}: not seen, interested; {HILL}: seen, disliked)")
    assert contents[-1] == ("assistant", "[END]")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## user: messages for SFT of the user" in card
    assert "## recommender: messages for SFT of the recommender" in card
    assert "Licence: X" in card


_label = st.sampled_from([True, False, None])


@given(st.lists(st.tuples(_label, _label), min_size=4, max_size=4))
@settings(max_examples=tries(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_seeker_thinks_is_in_no_recommenders_file_and_no_target_in_what_the_user_is_told(
    items: pl.DataFrame, tmp_path: Path, labels: list[tuple[bool | None, bool | None]]
) -> None:
    """The seeker's answers are all that a profile of a human dialogue comes from."""
    dialogue = talk(labels)
    own = corpus.write_dialogues([dialogue], items, RECOMMENDER, tmp_path, KEEP, [], MOVIES).path.read_bytes()
    nothing = talk([(None, None)] * 4)
    assert own == corpus.write_dialogues([nothing], items, RECOMMENDER, tmp_path, KEEP, [], MOVIES).path.read_bytes()
    (row,) = rows(corpus.write_dialogues([dialogue], items, USER, tmp_path, KEEP, [], MOVIES).path)
    system, *_ = row["messages"]
    assert not [NAMES[item_id] for item_id in targets(dialogue) if NAMES[item_id][:-7] in system["content"]]


def test_no_person_is_in_two_splits_and_what_lies_between_is_counted(items: pl.DataFrame, tmp_path: Path) -> None:
    people = [(f"s{n % 9}", f"r{n % 7}") for n in range(60)]
    dialogues = [talk(dialogue_id=f"{n:02d}", people=two) for n, two in enumerate(people)]
    parameters = ExportParameters(validation=0.2, test=0.2, seed=3)
    written = corpus.write_dialogues(dialogues, items, USER, tmp_path, parameters, [], MOVIES)
    paths = [written.path, tmp_path / "user-validation.jsonl", tmp_path / "user-test.jsonl"]
    ids = [[row["dialogue_id"] for row in rows(path)] for path in paths]
    persons = [{person for one in part for person in people[int(one)]} for part in ids]
    assert all(persons)
    assert not persons[0] & persons[1] and not persons[0] & persons[2] and not persons[1] & persons[2]
    left_out = 60 - sum(map(len, ids))
    assert written.lines == [f"{left_out} of 60 dialogues left out: the two people are in different splits"]


def test_redial_is_exported_by_the_command(tmp_path: Path) -> None:
    path = tiny_redial.write(tmp_path / "train.jsonl", 5)
    words = ["export", "--as", "trl", "--redial", str(path), "--to", str(tmp_path / "to")]
    result = CliRunner().invoke(main, [*words, "--role", "user"])
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'to/user.jsonl'}\n")
    first = rows(tmp_path / "to/user.jsonl")[0]["messages"]
    assert [message["role"] for message in first] == ["system", *("user", "assistant") * 2]
    assert "Quiet Sea 0 (1999)" in first[0]["content"]
    assert "Loud Sea" not in first[0]["content"]  # what was recommended and liked
    card = (tmp_path / "to/README.md").read_text(encoding="utf-8")
    assert "Licence: CC BY 4.0; cite the paper." in card


def test_an_imported_corpus_is_exported_by_the_command(items: pl.DataFrame, tmp_path: Path) -> None:
    """PEARL's kind: who the seeker is stands in words, and one item is to be found; no user's file is told of it."""
    source = Source(name="PEARL", licence="CC BY-NC")
    for part in ("train", "test"):
        about = folder.About(form="pearl", file="f.json", sha256="0", part=part)
        told = replace(talk(), summary="You like crime.", attributes="comedy movie", targets=("2",))
        folder.write(folder.Corpus([told], items, source, about, MOVIES), tmp_path / part)
    words = ["export", "--as", "trl", "--role", "user", "--to", str(tmp_path / "to"), "--corpus"]
    result = CliRunner().invoke(main, [*words, str(tmp_path / "train")])
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'to/user.jsonl'}\n")
    (row,) = rows(tmp_path / "to/user.jsonl")
    told_user = row["messages"][0]["content"]
    assert "About you: You like crime.\nLooking for: comedy movie" in told_user
    assert "Matrix" not in told_user
    card = (tmp_path / "to/README.md").read_text(encoding="utf-8")
    assert "- From: PEARL; licence: CC BY-NC; its train part.\n- Licence: CC BY-NC." in card
    result = CliRunner().invoke(main, [*words, str(tmp_path / "test")])
    assert (result.exit_code, "is the test part of PEARL; export another part" in result.stderr) == (1, True)


@pytest.mark.parametrize(
    ("form", "name"),
    [("pearl", "a.json"), ("opendialkg", "a.csv"), ("inspired", "a.tsv"), ("ccpe", "a.json"), ("cikm", "a.jsonl")],
)
def test_every_kind_of_corpus_becomes_files_that_templates_take(tmp_path: Path, form: str, name: str) -> None:
    file = getattr(corpora, form)(tmp_path / name)
    words = ["data", "import-dialogues", str(file), "--as", form, "--to", str(tmp_path / "corpus")]
    assert CliRunner().invoke(main, words).exit_code == 0
    texts = {}
    for role in (USER, RECOMMENDER):
        words = ["export", "--as", "trl", "--corpus", str(tmp_path / "corpus"), "--role", role]
        assert CliRunner().invoke(main, [*words, "--to", str(tmp_path / "to")]).exit_code == 0
        written = [row["messages"] for row in rows(tmp_path / f"to/{role}.jsonl")]
        for messages in written:
            roles = [message["role"] for message in messages]
            assert roles == ["system", *[("user", "assistant")[n % 2] for n in range(len(roles) - 1)]]
            assert all(message["content"] for message in messages)
        texts[role] = [messages[0]["content"] for messages in written]
    assert {*texts[RECOMMENDER]} == {MOVIES.system.recommender}
    assert any("About you: " in text for text in texts[USER]) == (form == "pearl")


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def made(to: Path, system: str = MOVIES.system.recommender) -> Path:
    """A folder, `to`, as `crs prefer` leaves it, of two moments; the first file of an older version."""
    prompts = [
        [{"role": "system", "content": system}],
        [{"role": "system", "content": system}, {"role": "user", "content": "hi"}],
    ]
    sides = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    lines = [{"context_id": f"{n}:00", "prompt": prompt, **sides} for n, prompt in enumerate(prompts)]
    to.mkdir(exist_ok=True)
    (to / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return to


def test_pairs_are_exported_by_the_command(tmp_path: Path) -> None:
    words = ["export", str(made(tmp_path / "made")), "--as", "dpo", "--to", str(tmp_path / "to")]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, result.output) == (0, f"{tmp_path / 'to/recommender-dpo.jsonl'}\n")
    first, second = rows(tmp_path / "to/recommender-dpo.jsonl")
    assert first == {
        "context_id": "0:00",
        "prompt": [
            {"role": "system", "content": MOVIES.system.recommender},
            {"role": "user", "content": "(You speak first.)"},
        ],
        "chosen": [{"role": "assistant", "content": "chosen"}],
        "rejected": [{"role": "assistant", "content": "rejected"}],
    }
    assert [message["content"] for message in second["prompt"]] == [MOVIES.system.recommender, "hi"]
    assert "- Licence: CC BY 4.0; cite the paper." in (tmp_path / "to/README.md").read_text(encoding="utf-8")
    result = CliRunner().invoke(main, [*words, "--validation", "0.1"])
    assert (result.exit_code, "does not say whose dialogues" in result.stderr) == (1, True)


def test_pairs_are_split_by_the_people_of_their_dialogues(tmp_path: Path) -> None:
    dialogues = [talk(dialogue_id=str(n), people=(f"s{n}", f"r{n}")) for n in range(2)]
    parameters = ExportParameters(validation=0.5, seed=1)
    corpus.write_pairs(made(tmp_path / "made"), RECOMMENDER, tmp_path, parameters, [], MOVIES, dialogues)
    parts = [rows(tmp_path / f"recommender-dpo{end}.jsonl") for end in ("", "-validation")]
    assert sorted(row["context_id"] for part in parts for row in part) == ["0:00", "1:00"]
    assert [len(part) for part in parts] == [1, 1]
    with pytest.raises(CrsError, match="dialogue '1' is not in the corpus given"):
        corpus.write_pairs(made(tmp_path / "made"), RECOMMENDER, tmp_path, parameters, [], MOVIES, dialogues[:1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "pairs.jsonl is not there or not readable, and a run holds no pairs; make pairs with `crs prefer ROLE`"),
        ("{}", "line 1 is not a pair"),
        ('\n{"context_id": "1", "prompt": [{"role": "system"}]', "line 2 is not a pair"),
        ('{"context_id": "1", "prompt": [{"role": "user", "content": 3}], "chosen": [], "rejected": []}', "line 1"),
        ("", "nothing is left for training in recommender-dpo.jsonl"),
    ],
)
def test_what_holds_no_pairs_is_refused(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "pairs.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(CrsError) as raised:
        corpus.write_pairs(tmp_path, RECOMMENDER, tmp_path / "to", KEEP, [], MOVIES)
    assert sentence in str(raised.value)


def test_a_users_pairs_become_no_recommenders(tmp_path: Path) -> None:
    system = "You are chatting with a movie recommender.\nAbout you: You like films."
    with pytest.raises(CrsError, match="line 1 is a pair of the user; give --role user"):
        corpus.write_pairs(made(tmp_path, system), RECOMMENDER, tmp_path / "to", KEEP, [], MOVIES)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--as", "trl"], "--as trl takes a run's folder, --redial PATH or --corpus FOLDER"),
        (["run", "--as", "trl", "--redial", "path"], "--as trl takes a run's folder, --redial PATH or --corpus FOLDER"),
        (["--as", "dpo"], "--as dpo the folder of `crs prefer` or `crs imitate`"),
        (["--as", "redial"], "--as redial takes a run's folder, and no --redial"),
        (["run", "--system", "fold"], "--as dataset takes a run's folder, and no --redial, --corpus, --system"),
        (["run", "--as", "trl", "--test", "1.5"], "parameter test = 1.5 is not valid"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    given = [str(tmp_path) if word == "run" else word for word in words]
    result = CliRunner().invoke(main, ["export", *given, "--to", str(tmp_path / "to")])
    assert (result.exit_code, sentence in result.stderr) == (1, True)
    assert not (tmp_path / "to").exists()
