"""Votes in memory: the same as those on disk, whoever writes there."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crslib.errors import CrsError
from crslib.journal import Journal
from crslib.judging.study import Study, open_study
from tests.judging.test_study import cast
from tests.support.fuzz import tries
from tests.support.people_runs import make_runs


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return open_study(make_runs(tmp_path, 6), 3, 0, tmp_path / "people")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The journals that are read, as often as they are."""
    paths: list[Path] = []
    read = Journal._read

    def counted(journal: Journal, valid: object) -> object:
        paths.append(journal._path)
        return read(journal, valid)

    monkeypatch.setattr(Journal, "_read", counted)
    return paths


def test_votes_are_read_once_and_again_after_another_process_wrote(study: Study, reads: list[Path]) -> None:
    for _ in range(5):
        cast(study, "ann", "left")
    assert reads == [study.path / "votes.jsonl"]
    other = Study(study.path)  # as another process has it
    cast(other, "bob", "right")
    assert len(reads) == 2
    assert cast(study, "ann", "tie")["pairs"] == 6
    assert len(reads) == 3
    assert study.votes()["rater"].to_list() == ["ann"] * 6 + ["bob"]
    assert len(reads) == 3


@settings(max_examples=tries(20))
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["ann", "bob"]), st.sampled_from("ltru")), max_size=15))
def test_two_servers_of_one_study_show_what_is_on_disk(
    tmp_path_factory: pytest.TempPathFactory, acts: list[tuple[bool, str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("study")
    one = open_study(make_runs(folder, 6), 3, 0, folder / "people")
    other = Study(one.path)
    for number, (first, rater, act) in enumerate(acts):
        server = one if first else other
        if act == "u":
            server.state(rater)
            shown = server.undo(rater, f"undo {number}")
        else:
            shown = cast(server, rater, {"l": "left", "t": "tie", "r": "right"}[act], f"vote {number}")
        assert Study(one.path).state(rater) == shown
    fresh = Study(one.path).votes()
    assert one.votes().equals(fresh) and other.votes().equals(fresh)


def test_a_file_that_was_edited_or_replaced_is_read_again(study: Study) -> None:
    for _ in range(3):
        cast(study, "ann", "left")
    file = study.path / "votes.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"choice": "left"', b'"choice": "tie"'))
    assert study.votes()["choice"].to_list() == ["tie"] * 3
    (study.path / "other").write_bytes(whole)
    (study.path / "other").replace(file)
    assert study.votes()["choice"].to_list() == ["left"] * 3
    file.unlink()
    assert study.votes().is_empty()
    assert cast(study, "ann", "right")["undo"]


def test_requests_together_wait_for_the_disk_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    monkeypatch.setattr(os, "fsync", syncs.append)
    with study.together():
        for rater in ("ann", "bob"):
            for _ in range(3):
                cast(study, rater, "left")
        assert syncs == []
    assert len(syncs) == 1
    with study.together():
        study.state("ann")  # nothing to store
    assert len(syncs) == 1
    cast(study, "ann", "left")
    assert len(syncs) == 2
    assert Study(study.path).votes().height == 7


def test_what_is_not_on_disk_is_told_to_nobody_and_not_kept(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    cast(study, "ann", "left")
    reached = study.state("ann")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(CrsError, match="No space left"):
        broken.setattr(os, "fsync", full)
        with study.together():
            cast(study, "ann", "right")
            cast(study, "bob", "right")
    assert study.state("ann") == reached
    assert study.votes()["choice"].to_list() == ["left"]
    assert "bob" not in (study.path / "votes.jsonl").read_text()
    cast(study, "ann", "tie")
    assert study.votes()["choice"].to_list() == ["left", "tie"]


def test_another_thread_waits_until_those_together_are_stored(study: Study) -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(study.votes().height))
    with study.together():
        cast(study, "ann", "left")
        thread.start()
        thread.join(timeout=0.2)
        assert seen == []
        cast(study, "ann", "left")
    thread.join()
    assert seen == [2]
