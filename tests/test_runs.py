"""Runs among others: listed, found by a word, told apart by what differs."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from crslib.config import ROOT, RunParameters
from crslib.errors import CrsError
from crslib.runs import differences, find, find_runs, folders, give_tag, labels, scan, short, tag
from crslib.store import Run
from tests.support.people_runs import make_runs


def make(folder: Path, run_id: str, started: str = "2026-01-01", status: str = "success", **given: Any) -> Run:
    """A run folder with the record that `crs run` writes."""
    run = Run(folder / "runs" / run_id)
    parameters = RunParameters.parse(given).model_dump()
    run.update(run_id=run_id, status=status, started=started, parameters=parameters)
    return run


def test_runs_are_scanned_newest_first(tmp_path: Path) -> None:
    assert scan(tmp_path) == []
    make(tmp_path, "b", "2026-01-02")
    make(tmp_path, "a", "2026-01-03", condition="paper")
    (tmp_path / "latest").symlink_to("runs/a")
    first, second = scan(tmp_path)
    assert (first.run_id, first.condition, first.started, first.status) == ("a", "paper", "2026-01-03", "success")
    assert (second.run_id, second.condition, second.run.path) == ("b", "interplay", tmp_path / "runs/b")


def test_paths_are_no_patterns(tmp_path: Path) -> None:
    for name in ("set1", "set[12]", "a*b?"):
        Run(tmp_path / name).update(run_id=name, status="success", started="2026", parameters={"condition": name})
    assert [found.run_id for found in scan(tmp_path / "set[12]")] == ["set[12]"]
    assert [found.run_id for found in scan(tmp_path / "a*b?")] == ["a*b?"]
    assert len(scan(tmp_path)) == 3


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[]", b"{ torn", b"\xff{", b"[" * 100_000, b'{"parameters": {}}', b'{"stages": ["01_profiles"]}'],
)
def test_a_broken_run_json_is_named_and_its_neighbours_are_listed(content: bytes, tmp_path: Path) -> None:
    make(tmp_path, "a")
    (tmp_path / "runs/b").mkdir()
    (tmp_path / "runs/b/run.json").write_bytes(content)
    said: list[str] = []
    assert [found.run_id for found in scan(tmp_path, said.append)] == ["a"]
    assert len(said) == 1
    assert str(tmp_path / "runs/b/run.json") in said[0]


def test_a_run_made_from_python_is_listed_and_other_journals_are_not(tmp_path: Path) -> None:
    record = json.dumps({"key": "k", "dialogue": {"dialogue_id": "u1.0"}, "turns": [], "prompts": []})
    for name, line in (("example", record), ("judged", '{"key": "k", "answer": "A"}'), ("empty", ""), ("torn", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "journal.jsonl").write_text(line + "\n")
    os.utime(tmp_path / "example/journal.jsonl", (0, 0))
    (found,) = scan(tmp_path, pytest.fail)
    assert (found.run_id, found.status, found.condition) == ("example", "by hand", "by hand")
    assert found.started == "1970-01-01T00:00:00+00:00"
    assert find("example", tmp_path).path == tmp_path / "example"


def test_shards_are_no_runs(tmp_path: Path) -> None:
    make(tmp_path / "shards/r", "r").update(shard=[1, 2])
    assert scan(tmp_path, pytest.fail) == []


def test_a_started_run_is_running_or_was_interrupted(tmp_path: Path) -> None:
    run = make(tmp_path, "a", status="started")
    with run.lock():
        assert [found.status for found in scan(tmp_path)] == ["running"]
    assert [found.status for found in scan(tmp_path)] == ["interrupted"]


# ── a run by a word ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_is_found_by_id_prefix_tag_latest_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, other = make(tmp_path, "a1b2c3"), make(tmp_path, "a1ffff")
    (tmp_path / "latest").symlink_to("runs/a1ffff")
    give_tag(run, "calm", tmp_path)
    for word in ("a1b2c3", "a1b", "calm", str(run.path)):
        assert find(word, tmp_path).path == run.path, word
    assert find("latest", tmp_path).path == other.path
    monkeypatch.chdir(tmp_path / "runs")
    assert find("./a1b2c3", tmp_path).path == run.path
    assert find("a1b2c3", tmp_path / "elsewhere").path == run.path  # a folder here
    (tmp_path / "runs/calm").mkdir()
    assert find("calm", tmp_path).path == run.path  # the tag comes first
    assert find("./calm", tmp_path).path == tmp_path / "runs/calm"


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("a1", "'a1' begins the ids of 2 runs: a1ffff (interplay, temperature=0.9); a1b2c3 (calm, interplay); give"),
        ("clam", "is called 'clam'; did you mean calm? `crs runs` lists them"),
        ("latest", "there is no latest run below"),
        ("lattest", "did you mean latest?"),
        ("interplay", "'interplay' is the condition of 2 runs: a1ffff"),
        ("", "is called ''; `crs runs` lists them"),
        ("no/where", "there is no folder 'no/where'"),
        ("\0", "is called '\\x00'"),
        ("x" * 5000, "`crs runs` lists them"),
    ],
)
def test_a_word_that_finds_no_single_run_gets_one_sentence(word: str, sentence: str, tmp_path: Path) -> None:
    give_tag(make(tmp_path, "a1b2c3"), "calm", tmp_path)
    make(tmp_path, "a1ffff", "2026-01-02", temperature=0.9)
    with pytest.raises(CrsError, match=re.escape(sentence)) as caught:
        find(word, tmp_path)
    assert "\n" not in str(caught.value)


def test_tags_are_plain_words_and_unique(tmp_path: Path) -> None:
    run, other = make(tmp_path, "a1b2c3"), make(tmp_path, "f00d")
    give_tag(run, "calm", tmp_path)
    give_tag(run, "calm", tmp_path)
    assert (tag(run), tag(other)) == ("calm", "")
    for name, sentence in [
        ("calm", "'calm' already finds the run a1b2c3"),
        ("a1", "'a1' already finds the run a1b2c3"),
        ("latest", "cannot be a tag"),
        ("two words", "cannot be a tag"),
        ("../up", "cannot be a tag"),
        ("-x", "cannot be a tag"),
        ("x" * 41, "cannot be a tag"),
    ]:
        with pytest.raises(CrsError, match=re.escape(sentence)):
            give_tag(other, name, tmp_path)
    give_tag(run, "", tmp_path)
    give_tag(other, "calm", tmp_path)
    assert (tag(run), tag(other)) == ("", "calm")
    (other.path / "tag.json").write_text("[1]")
    said: list[str] = []
    assert [found.run_id for found in scan(tmp_path, said.append)] == ["a1b2c3"]
    assert len(said) == 1 and "tag.json" in said[0]


# ── what differs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_differences_from_the_defaults() -> None:
    assert differences({"parameters": RunParameters().model_dump()}) == ""
    given = {"temperature": 0.9, "opener": "user", "memory": False, "threads": 1, "data": "/elsewhere/books"}
    parameters = RunParameters.parse({**given, "user_adapter": ""}).model_dump()
    assert (
        differences({"parameters": parameters})
        == "user_adapter=none, opener=user, memory=false, temperature=0.9, data=books"
    )
    elsewhere = {**parameters, "human": "/another/checkout/data/human"}
    assert differences({"parameters": elsewhere, "parameters_given": {"memory": False}}) == "memory=false"
    assert differences({"parameters": {"condition": "x"}}) == ""


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("smollm2", "smollm2"),
        ("/models/Qwen3-0.6B.gguf", "Qwen3-0.6B"),
        ("openai:llama3:8b@http://localhost:8080/v1", "llama3:8b"),
        ("http://localhost:9000/agent", "localhost:9000"),
        ("python:/home/me/my_crs.py:reply", "my_crs:reply"),
        ("dialoguekit:my.module:Agent", "my:Agent"),
        ("agenda", "agenda"),
    ],
)
def test_models_are_short(value: str, word: str) -> None:
    assert short(value) == word


def with_dialogues(folder: Path, given: dict[str, dict[str, Any]]) -> list[Run]:
    """A run with dialogues of each name, with its parameters."""
    runs = []
    for path in make_runs(folder, 2, conditions=tuple(given)):
        run = Run(path)
        run.update(parameters=RunParameters.parse(given[path.name]).model_dump())
        runs.append(run)
    return runs


def test_labels_say_what_differs(tmp_path: Path) -> None:
    warm, cold = {"temperature": 1.0}, {"temperature": 0.5}
    runs = with_dialogues(tmp_path / "1", {"a": warm, "b": cold})
    assert labels(runs) == {"temperature 1.0": runs[0], "temperature 0.5": runs[1]}
    runs = with_dialogues(tmp_path / "2", {"a": {**warm, "opener": "user"}, "b": {**cold, "seed": 3, "threads": 2}})
    assert list(labels(runs)) == ["seed 0, opener user, temperature 1.0", "seed 3, opener mixed, temperature 0.5"]


def test_conditions_are_labels_where_each_run_has_its_own(tmp_path: Path) -> None:
    runs = with_dialogues(tmp_path, {"a": {"condition": "one"}, "b": {"condition": "two", "temperature": 0.5}})
    assert list(labels(runs)) == ["one", "two"]
    assert list(labels(runs[:1])) == ["one"]


def test_labels_of_runs_of_which_some_share_a_condition(tmp_path: Path) -> None:
    given = {"a": {}, "b": {"temperature": 0.5}, "c": {"baseline": "scripted"}}
    assert list(labels(with_dialogues(tmp_path, given))) == [
        "interplay, temperature 1.0",
        "interplay, temperature 0.5",
        "scripted-grounded",
    ]


def test_equal_runs_are_told_apart_by_id_or_number(tmp_path: Path) -> None:
    runs = with_dialogues(tmp_path, {"a": {}, "b": {}, "c": {}})
    runs[0].update(run_id="abcdef99")
    runs[1].update(run_id="fedcba99")
    runs[2].update(run_id="fedcba11")
    assert list(labels(runs)) == ["interplay abcdef", "interplay fedcba", "interplay fedcba (2)"]


def test_labels_refuse_a_folder_without_dialogues_and_one_given_twice(tmp_path: Path) -> None:
    run, _ = with_dialogues(tmp_path, {"a": {}, "b": {}})
    with pytest.raises(CrsError, match="the same run is given twice"):
        labels([run, Run(tmp_path / "b/../a")])
    with pytest.raises(CrsError, match="holds no dialogues"):
        labels([run, Run(tmp_path / "c")])


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_ROW = {"run_id": "1", "path": "../1", "state": "success", "values": {"n": 1}, "error": None}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "it is not JSON"),
        ("[]", "its content is not valid: input should be an object"),
        ('{"axes": []}', "conditions is not valid: field required"),
        (json.dumps({"axes": ["n"], "conditions": [{**_ROW, "path": 1}]}), "conditions.0.path is not valid"),
        (json.dumps({"axes": ["n"], "conditions": [_ROW, _ROW]}), "do not differ in its axes"),
        (json.dumps({"axes": [], "conditions": [_ROW]}), "do not differ in its axes"),
    ],
)
def test_a_damaged_sweep_json_is_one_sentence(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(CrsError, match=re.escape(reason)) as caught:
        find_runs([tmp_path])
    assert str(tmp_path / "sweep.json") in str(caught.value)


def test_words_and_relative_folders_name_the_runs_of_a_notebook(tmp_path: Path) -> None:
    (path,) = make_runs(tmp_path / "runs", 1, conditions=("a",))
    Run(path).update(run_id="abc123", status="success", started="2026")
    assert folders(["abc", str(path), "data/prompts"], tmp_path) == [path, path, ROOT / "data/prompts"]
    with pytest.raises(CrsError, match="is called 'zzz'"):
        folders(["zzz"], tmp_path)


def test_what_was_made_is_what_is_done_after_the_first_report(tmp_path: Path) -> None:
    run = Run(tmp_path / "yours")
    assert (run.made, run.run_id) == (0, "by-hand")
    run.path.mkdir()
    with run.progress("dialogues") as progress:
        for done in (5, 6, 8):
            progress(done, 10)
    assert (run.reached, run.made) == ((8, 10, "dialogues"), 3)
