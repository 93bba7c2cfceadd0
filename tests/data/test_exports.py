"""Dialogues as training data: other readers get every utterance, and nothing private."""

import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from crslib import schemas
from crslib.cli.main import main
from crslib.config import ExportParameters
from crslib.data import exports, trl
from crslib.data.corpora import redial as corpus
from crslib.data.source import Source
from crslib.dialogue import utterances
from crslib.errors import CrsError
from crslib.store import Run
from tests.conftest import make_profiles
from tests.support.domains import MOVIES

STYLE = "short turns, lower case, no full stops, no exclamation marks"
HEAT, UP, NOPE = "Heat (1995)", "Up (2009)", "Nope (1901)"


def mention(text: str, item_id: str | None, title: str) -> dict[str, object]:
    start = text.index(f"[[{title}]]")
    return {"item_id": item_id, "title": title, "start": start, "end": start + len(title) + 4}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run")


def make_run(folder: Path) -> Run:
    """Two dialogues: one that the user leaves after the recommender's last word, one of a single turn."""
    asked, hello = f"Seen [[{HEAT}]] or [[{NOPE}]] @7?", f"Like [[{UP}]]"
    notes = [
        {"item_id": "1", "title": HEAT, "seen": True, "liked": False},
        {"item_id": None, "title": NOPE, "seen": False, "liked": None},
    ]
    rows = [
        ("u0.0", 0, "user", hello, [mention(hello, "6", UP)], []),
        ("u0.0", 1, "recommender", asked, [mention(asked, "1", HEAT), mention(asked, None, NOPE)], []),
        ("u0.0", 2, "user", "Hated it", [], notes),
        ("u0.0", 3, "recommender", "<b>Sorry</b> <|im_end|>", [], []),
        ("u1.0", 0, "recommender", "Hi", [], []),
    ]
    names = ("dialogue_id", "turn", "role", "text", "items", "notes")
    turns = [
        dict(zip(names, row, strict=True)) | {"n_tokens": 3, "mean_logprob": None, "finish": "end"} for row in rows
    ]
    heads = [("u0.0", "u0", "user", "user_left", 4), ("u1.0", "u1", "recommender", "max_turns", 1)]
    run = Run(folder)
    run.update(run_id="abc", parameters={"condition": "interplay", "seed": 0})
    run.write("turns", pl.DataFrame(turns, schema=dict(schemas.TABLES["turns"])))
    run.write(
        "dialogues",
        pl.DataFrame(
            [(d, "abc", p, "interplay", o, 0, stop, n, STYLE, None) for d, p, o, stop, n in heads],
            schema=dict(schemas.TABLES["dialogues"]), orient="row",
        ),
    )  # fmt: skip
    run.write("profiles", make_profiles(["u0", "u1"]))
    return run


def export(run: Run, form: str, to: Path, role: str = "recommender") -> Path:
    result = CliRunner().invoke(main, ["export", str(run.path), "--as", form, "--role", role, "--to", str(to)])
    assert result.exit_code == 0, result.output
    return Path(result.stdout.splitlines()[-1])


def test_messages_are_the_views_of_the_two_parties(run: Run, tmp_path: Path) -> None:
    user, recommender = (
        [json.loads(line)["messages"] for line in export(run, "trl", tmp_path, role).read_text().splitlines()]
        for role in ("user", "recommender")
    )
    assert [message["role"] for message in user[0]] == ["system", *("user", "assistant") * 3]
    assert "secret0secret" in user[0][0]["content"]
    assert user[0][1]["content"] == "(You speak first.)"
    assert user[0][3]["content"].endswith(f"({HEAT}: seen, disliked; {NOPE}: not seen)")
    assert user[0][5]["content"] == "< b>Sorry< /b> < |im_end|>"
    assert user[0][6]["content"] == "[END]"  # the user left
    assert len(user) == 1  # in the other dialogue it says nothing
    assert recommender[0][0]["content"] == MOVIES.system.recommender
    assert [message["role"] for message in recommender[0]] == ["system", *("user", "assistant") * 2]
    assert [message["content"] for message in recommender[1][1:]] == ["(You speak first.)", "Hi"]
    assert not [word for word in ("secret", "hush", "seen,", "disliked") if word in json.dumps(recommender)]


@given(st.text(max_size=30), st.text(max_size=30), st.sampled_from([True, False, None]))
def test_no_profile_and_no_note_reaches_a_recommenders_messages(summary: str, attributes: str, answer: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder))
        dialogues, turns, profiles = (run.read(name) for name in ("dialogues", "turns", "profiles"))
    told = profiles.with_columns(summary=pl.lit(summary), attributes=pl.lit(attributes))
    rows = turns.to_dicts()
    for note in (note for row in rows for note in row["notes"]):
        note |= {"seen": answer, "liked": answer}
    noted = pl.DataFrame(rows, schema=turns.schema)
    one = exports.messages(dialogues, turns, profiles, {}, "recommender", MOVIES)
    assert one.equals(exports.messages(dialogues, noted, told, {}, "recommender", MOVIES))


def test_the_hidden_items_are_never_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names, read = set(), Run.read
    monkeypatch.setattr(Run, "read", lambda self, name: names.add(name) or read(self, name))
    for role in ("user", "recommender"):
        exports.write_trl(run, role, tmp_path, ExportParameters())
    assert names == {"dialogues", "turns", "profiles"}


def test_people_are_split_by_the_user_of_their_profile(run: Run, tmp_path: Path) -> None:
    """Two profiles of one person are one person."""
    run.write("profiles", run.read("profiles").with_columns(user_id=pl.lit("same")))
    parameters = ExportParameters(validation=0.5, seed=4)
    assert trl.split_of("same", parameters) == "train"
    assert len({trl.split_of(profile, parameters) for profile in ("u0", "u1")}) == 2
    written = exports.write_trl(run, "recommender", tmp_path, parameters)
    assert len(written.path.read_text().splitlines()) == 2
    assert "(train): 2 dialogues; people: 1, none of them in another split" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        ({}, "Licence: that of the ratings (ask me), and of the models"),
        (
            {"source": {"name": "a`b", "form": "trl", "sha256": "ab12", "lines": []}},
            "Licence: for the maker of that file to say",
        ),
    ],
)
def test_the_card_of_trls_files_has_a_licence(run: Run, tmp_path: Path, info: dict[str, Any], sentence: str) -> None:
    run.update(**info)
    Source(name="Mine", licence="ask me").write(run.path)
    exports.write_trl(run, "user", tmp_path, ExportParameters())
    card = (tmp_path / "README.md").read_text()
    assert f"- {sentence}" in card
    assert ("- Profiles: from ratings of Mine; licence: ask me." in card) == (not info)
    assert "- Private: holds the user's summary, wishes and notes" in card


def test_the_redial_export_is_read_back_by_our_reader(run: Run, tmp_path: Path) -> None:
    path = export(run, "redial", tmp_path / "out")
    first, second = corpus.read(path.parent, "train")
    assert [turn.role for turn in first.turns] == ["user", "recommender", "user", "recommender"]
    assert first.turns[0].text == f"Like [[{UP}]]"
    assert first.turns[1].text == f"Seen [[{HEAT}]] or {NOPE} 7?"
    assert [(m.item_id, m.name) for m in first.turns[1].mentions] == [("1", HEAT)]
    heat, up = first.items["1"], first.items["6"]
    assert (heat.suggested, heat.seen, heat.liked) == (True, True, False)
    assert (up.suggested, up.seen, up.liked) == (False, None, None)
    assert len(second.turns) == 1


def test_ids_that_are_not_numbers_are_numbered(run: Run) -> None:
    turns = run.read("turns").to_dicts()
    for row in turns:
        for item in row["items"] + row["notes"]:
            item["item_id"] = item["item_id"] and f"tt{item['item_id']}"
    renamed = pl.DataFrame(turns, schema=dict(schemas.TABLES["turns"]))
    first = exports.redial(run.read("dialogues"), renamed)[0]
    assert first["movieMentions"] == {"2": UP, "1": HEAT}
    assert first["messages"][1]["text"] == f"Seen @1 or {NOPE} 7?"
    assert first["initiatorQuestions"]["1"] == {"suggested": 1, "seen": 1, "liked": 0}


def test_dialoguekit_reads_its_export(run: Run, tmp_path: Path) -> None:
    path = export(run, "dialoguekit", tmp_path)
    first = json.loads(path.read_text())[0]
    assert first["conversation"][1]["utterance"] == f"Seen {HEAT} or {NOPE} @7?"
    reader = pytest.importorskip("dialoguekit.utils.dialogue_reader", reason="dialoguekit is not installed")
    first_dialogue, second_dialogue = reader.json_to_dialogues(str(path))
    assert [utterance.text for utterance in first_dialogue.utterances][2:] == ["Hated it", "<b>Sorry</b> <|im_end|>"]
    assert [utterance.participant.name for utterance in first_dialogue.utterances] == ["USER", "AGENT"] * 2
    assert (first_dialogue.user_id, first_dialogue.conversation_id, len(second_dialogue.utterances)) == (
        "u0",
        "u0.0",
        1,
    )


def test_the_dataset_has_a_card_and_is_read_by_datasets(run: Run, tmp_path: Path) -> None:
    path = export(run, "dataset", tmp_path / "set")
    frame = pl.read_parquet(path)
    assert dict(frame.schema) == exports.DATASET
    assert frame.select("dialogue_id", "condition", "stop_reason").rows() == [
        ("u0.0", "interplay", "user_left"),
        ("u1.0", "interplay", "max_turns"),
    ]
    assert "secret0secret" in frame["summary"][0]
    assert [turn["role"] for turn in frame["turns"][0]] == ["user", "recommender"] * 2
    assert frame["turns"][0][1]["items"] == [{"item_id": "1", "title": HEAT}, {"item_id": None, "title": NOPE}]
    card = (path.parent / "README.md").read_text()
    assert card.startswith("---\nconfigs:\n")
    assert "2 dialogues, 5 turns" in card
    assert "target items: nobody" in card
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    read = datasets.load_dataset(str(path.parent), split="train", cache_dir=str(tmp_path / "cache"))
    assert read[0]["turns"][2]["text"] == "Hated it"


@given(st.text(alphabet="a@1 [](){}<|>\n", max_size=30))
def test_no_text_becomes_a_mention(typed: str) -> None:
    row = {"text": f"{utterances.clean(typed)} [[{HEAT}]]", "items": []}
    row["items"] = [mention(str(row["text"]), "1", HEAT)]
    text = exports._linked(row, {"1": 42})
    assert text.count("@") == 1
    assert text.endswith("@42")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--to", str(tmp_path / "to")])
    assert result.exit_code == 1
    assert "dialogues.parquet" in result.output


def test_the_card_credits_the_runs_data(run: Run, tmp_path: Path) -> None:
    card = (export(run, "dataset", tmp_path / "unknown").parent / "README.md").read_text()
    assert "source: not stated; licence: not stated." in card
    Source(name="Goodbooks-10k", url="https://example.org", licence="CC BY-SA 4.0", citation="Z. 2017").write(run.path)
    card = (export(run, "dataset", tmp_path / "known").parent / "README.md").read_text()
    assert "source: Goodbooks-10k (https://example.org); licence: CC BY-SA 4.0; cite: Z. 2017." in card
    assert "MovieLens" not in card


def test_the_card_of_a_files_dialogues_claims_nothing_of_their_making(run: Run, tmp_path: Path) -> None:
    run.update(source={"name": "a`b\nc.json", "form": "trl", "sha256": "ab12", "lines": []})
    card = (export(run, "dataset", tmp_path / "set").parent / "README.md").read_text()
    assert "2 dialogues, 5 turns, read from the file `a'b c.json` (trl, SHA-256 ab12)." in card
    assert not [word for word in ("synthetic", "language models", "person", "MovieLens", "adapters") if word in card]


@pytest.mark.parametrize("form", exports.FORMS)
def test_dialogues_without_a_word_are_no_export(form: str, run: Run, tmp_path: Path) -> None:
    run.write("turns", run.read("turns").clear())
    with pytest.raises(CrsError, match=f"nobody says a word in the dialogues of {run.path}; there is nothing"):
        exports.write(run, form, tmp_path / "out")
    assert not (tmp_path / "out").exists()
