"""IARD's file as labelled turns."""

import json
from pathlib import Path

import polars as pl
import pytest

from crslib.data.corpora import iard
from crslib.errors import CrsError


def utterance(place: int, role: str, text: str, *acts: str) -> dict:
    return {
        "utterance_pos": place,
        "worker_id": 7,
        "role": role,
        "utterance_text": text,
        "top-level intent/action": [],
        "sub-intent/action": list(acts),
    }


def write(path: Path, **utterances: dict) -> Path:
    content = {"474": {"accepted_recommendation": [], "dialogue_info": utterances}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_turns_are_in_format_v1_and_in_order(tmp_path: Path) -> None:
    path = write(
        tmp_path / iard.FILE,
        R2=utterance(2, "recommender", "Seen @81792 <Zootopia>  <Zootopia> ?...It&#39;s <b>fun</b>", "REC-E", "EXP-I"),
        S1=utterance(1, "seeker", "Hi...I liked @90766 <This Is the End  (2013)> ", "OTH", "IQU", "OTH"),
    )
    for given in (path, tmp_path):
        assert iard.read(given).rows() == [
            ("474", 0, "user", "Hi I liked [[This Is the End (2013)]]", ["IQU", "OTH"], "train"),
            ("474", 1, "recommender", "Seen [[Zootopia]] ? It's <b>fun</b>", ["EXP-I", "REC-E"], "train"),
        ]


def test_the_number_of_a_dialogue_gives_its_split(tmp_path: Path) -> None:
    path = write(tmp_path / iard.FILE, S1=utterance(1, "seeker", "Hi", "OTH"))
    path.write_text(path.read_text(encoding="utf-8").replace('"474"', '"20001"'), encoding="utf-8")
    assert iard.read(path)["split"].to_list() == ["test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not IARD's"),
        ("{", "is not IARD's"),
        ('{"1": {"dialogue_info": {"S1": {}}}}', "is not IARD's"),
        ('{"x": {"dialogue_info": {"S1": {"role": "seeker"}}}}', "is not IARD's"),
    ],
)
def test_files_that_are_not_iards_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / iard.FILE).write_text(content, encoding="utf-8")
    with pytest.raises(CrsError, match=message):
        iard.read(tmp_path)


def test_a_missing_file_and_a_turn_without_acts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="cannot read"):
        iard.read(tmp_path / "nothing.json")
    with pytest.raises(CrsError, match="is not IARD's"):
        iard.read(write(tmp_path / iard.FILE, S1=utterance(1, "seeker", "Hi")))


def test_the_real_corpus(shared_data: Path) -> None:
    turns = iard.read(shared_data / "iard")
    assert turns.height == 4583
    assert turns["dialogue_id"].n_unique() == 336
    assert turns.filter(role="user").explode("acts")["acts"].n_unique() == 16
    assert turns.filter(role="recommender").explode("acts")["acts"].n_unique() == 10
    before = turns.with_columns(before=pl.col("role").shift().over("dialogue_id"))
    assert not (before["role"] == before["before"]).any()  # an utterance of IARD is a turn
