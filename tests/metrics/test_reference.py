"""The stored statistics of human dialogues: numbers only, and those of ReDial."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from crslib.config import ROOT
from crslib.data.corpora import Dialogue, redial
from crslib.errors import CrsError
from crslib.metrics import consistency, facts, realism, reference
from crslib.metrics.facts import FRAMES
from crslib.training.knowledge import Seekers
from tests.support import corpora
from tests.support.domains import MOVIES

STORED = ROOT / "data" / "human"


def test_stored_statistics_hold_numbers_and_ids_only() -> None:
    for name in (*FRAMES, "acts"):
        frame = pl.read_parquet(STORED / f"{name}.parquet")
        texts = {column for column, dtype in frame.schema.items() if dtype == pl.String}
        assert texts <= {"dialogue_id", "role", "item", "act"}
        for column in texts - {"role", "act"}:
            assert frame[column].str.contains(r"^\d+$").all()
    assert sum(path.stat().st_size for path in STORED.iterdir()) < 1_000_000


def test_the_folder_is_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "human[12]"
    shutil.copytree(STORED, folder)
    assert reference.read(folder).reference == reference.read(STORED).reference


def test_stored_statistics_are_those_of_redials_test_set(shared_data: Path) -> None:
    dialogues, seekers = redial.read(shared_data / "redial" / "test_dev.jsonl", "test"), Seekers(redial.items(), MOVIES)
    measured = reference.measure(dialogues, MOVIES, [seekers.wishes(dialogue) for dialogue in dialogues])
    stored = reference.read(STORED)
    for name in FRAMES:
        assert getattr(measured.facts, name).equals(getattr(stored.facts, name)), name
    assert measured.acts.equals(stored.acts)
    assert measured.reference.keys() == stored.reference.keys()
    for name, estimate in measured.reference.items():
        assert estimate == pytest.approx(stored.reference[name], abs=1e-9), name
    assert measured.reference["messages"]["value"] == pytest.approx(17.836, abs=0.001)


def test_the_hubs_form_of_redial_has_the_same_statistics(tmp_path: Path) -> None:
    files = [corpora.redial(tmp_path / f"test_{form}.jsonl", form == "hub") for form in ("official", "hub")]
    official, hub = (reference.measure(redial.read(file, "test"), MOVIES) for file in files)
    assert hub.facts.mentions.equals(official.facts.mentions)
    assert hub.facts.mentions["item"].to_list() == ["111776", "99583", "84273"] * 2
    assert hub.facts.reactions.equals(official.facts.reactions)
    # Iron Man is not seen, Pineapple Express is; the second dialogue's forms are empty.
    assert hub.facts.reactions["note_seen"].to_list() == [False, True, None, None]
    assert hub.reference == official.reference


def test_human_statistics_are_as_published() -> None:
    human = reference.read(STORED)
    assert len(human.facts.dialogue_ids) == 671
    sums = realism.parts(human.facts).group_by("metric").agg(pl.col("part").sum() / pl.col("whole").sum())
    assert dict(sums.iter_rows())["turns"] == pytest.approx(11.7, abs=0.05)
    agreed = consistency.reaction_parts(human.facts).filter(metric="reaction_consistency")
    assert agreed["part"].sum() / agreed["whole"].sum() > 0.85


def test_reactions_are_read_reliably_on_training_dialogues(shared_data: Path) -> None:
    from crslib.data.corpora import frames

    counted = facts(*frames(redial.read(shared_data / "redial" / "train_raw.jsonl", "train")), MOVIES)
    for question, says, least in (
        ("seen", True, 0.9),
        ("seen", False, 0.88),
        ("liked", True, 0.97),
        ("liked", False, 0.7),
    ):
        answered = counted.reactions.filter(pl.col(f"says_{question}") == says).drop_nulls(f"note_{question}")
        assert (answered[f"note_{question}"] == says).mean() > least, (question, says)


def test_written_statistics_are_read_again(tmp_path: Path) -> None:
    dialogue = Dialogue("x", "u", "r", (), {})
    reference.write(reference.measure([dialogue], MOVIES), tmp_path)
    again = reference.read(tmp_path)
    assert again.facts.turns.is_empty()
    assert again.acts.is_empty()
    assert again.reference["messages"]["value"] == 0


@pytest.mark.parametrize("name", ["turns.parquet", "acts.parquet", "reference.json"])
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    for path in STORED.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(CrsError, match=f"{name} is missing or damaged; make it with `crs data reference"):
        reference.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(CrsError, match=f"{name} is missing or damaged"):
        reference.read(tmp_path)


def test_statistics_of_other_limits_or_columns_are_refused(tmp_path: Path) -> None:
    for path in STORED.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((STORED / "reference.json").read_text(encoding="utf-8"))
    content["limits"]["distinct_words"] = 7
    (tmp_path / "reference.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CrsError, match="was made with other limits"):
        reference.read(tmp_path)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "turns.parquet")
    with pytest.raises(CrsError, match="other columns"):
        reference.read(tmp_path)


def test_statistics_of_another_tagger_are_refused(tmp_path: Path) -> None:
    for path in STORED.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((STORED / "reference.json").read_text(encoding="utf-8"))
    content["limits"]["tagger"] = "0" * 16
    (tmp_path / "reference.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CrsError, match="was made with other limits"):
        reference.read(tmp_path)
