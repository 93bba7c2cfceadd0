"""`crs run` at its end, and what sweeps print; without models."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from crslib.cli import closing
from crslib.cli import runs as commands
from crslib.cli.closing import elsewhere
from crslib.cli.main import main
from crslib.config import ROOT, RunParameters
from crslib.errors import CrsError
from crslib.experiments import pipeline, shards
from crslib.experiments.mirror import Mirror
from crslib.experiments.runs import point_latest
from crslib.store import Run
from tests.experiments.test_runs import ended


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The run that every plan is of, with nine dialogues; it is complete."""
    run = ended(tmp_path, 9, "abcdef")
    planned = pipeline.Plan(run, run.run_id, {}, RunParameters(), {})
    monkeypatch.setattr(pipeline, "plan", lambda given, reports, report: report("measured") or planned)
    monkeypatch.setattr(pipeline, "is_complete", lambda run: True)
    return run


def crs_run(reports: Path, *words: str) -> str:
    result = CliRunner().invoke(main, ["run", *words, "--reports", str(reports)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_end_says_what_came_out_and_what_to_do_next(complete: Run, tmp_path: Path) -> None:
    lines = crs_run(tmp_path).splitlines()
    assert lines[:3] == ["measured", "run abcdef has been computed before", "abcdef: 9 dialogues"]
    assert "Dialogues with a hit  0.250            0.125" in lines
    assert "Turns per dialogue    7.00             3.50" in lines
    assert sum(" says abcdef" in line for line in lines) == 3
    where = f" --reports {tmp_path}"
    said = f"next: `crs look latest{where}` shows its dialogues, `crs runs{where}` lists all runs; the report is"
    assert lines[-2] == said
    assert lines[-1] == str(complete.path / "report.html")
    assert (tmp_path / "latest").resolve() == complete.path


def test_the_end_says_whose_adapter_is_of_another_domain(complete: Run, tmp_path: Path) -> None:
    said = "untried on books: its adapter was trained on movies"
    complete.update(agents={"user": {"untried": said}, "recommender": {}})
    assert f"user: {said}" in crs_run(tmp_path).splitlines()


def test_a_quiet_run_prints_its_report_only(complete: Run, tmp_path: Path) -> None:
    assert crs_run(tmp_path, "-q") == f"{complete.path / 'report.html'}\n"
    assert (tmp_path / "latest").resolve() == complete.path


def test_a_run_for_machines_is_json(complete: Run, tmp_path: Path) -> None:
    record = json.loads(crs_run(tmp_path, "--json"))
    assert record["metrics"]["hits"]["value"] == 0.25
    assert record["metrics"]["hits"]["human"] == 0.125
    assert record["report"] == str(complete.path / "report.html")
    assert record["n_dialogues"] == 9
    said = crs_run(tmp_path, "--json", str(tmp_path / "run.json"), "-q")
    assert said == f"{complete.path / 'report.html'}\n"
    assert json.loads((tmp_path / "run.json").read_text()) == record


def test_a_trial_says_that_latest_is_another(complete: Run, tmp_path: Path) -> None:
    big = ended(tmp_path, 12, "big")
    point_latest(tmp_path, big)
    for name in ("dialogues", "turns"):
        complete.write(name, complete.read(name).filter(dialogue_id="u000.0"))
    lines = crs_run(tmp_path).splitlines()
    assert (
        "latest is still big with 12 dialogues, because fewer than 8 are a trial; --latest makes it this one" in lines
    )
    assert lines[-2].startswith(f"next: `crs look abcdef --reports {tmp_path}` shows its dialogues")
    assert (tmp_path / "latest").resolve() == big.path
    crs_run(tmp_path, "--latest")
    assert (tmp_path / "latest").resolve() == complete.path


def test_hints_name_the_folder_of_reports_as_a_shell_takes_it(tmp_path: Path) -> None:
    assert elsewhere(ROOT / "reports") == ""
    assert elsewhere(tmp_path / "my runs") == f" --reports '{tmp_path / 'my runs'}'"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shard", "1/2", "-q", "--latest"], "--shard makes a part of a run, without -q, --latest; give them to"),
        (["--shard", "1/2", "--json"], "--shard makes a part of a run, without --json; give"),
        (["--shard", "1/2", "--on", "ray"], "--shard makes a part of a run, without --on; give"),
        (["--dry-run", "--json"], "--dry-run only prints costs; leave out --json"),
        (["--dry-run", "--shard", "1/2"], "--dry-run only prints costs; leave out --shard"),
        (["--dry-run", "--mirror", "m"], "--dry-run only prints costs; leave out --mirror"),
        (["--workers", "2"], "--workers are of --on; name a cluster with it, or set threads with -p threads=N"),
    ],
)
def test_options_that_would_do_nothing_are_refused(words: list[str], sentence: str, complete: Run) -> None:
    result = CliRunner().invoke(main, ["run", *words])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith(f"crs: {sentence}")


def test_a_run_has_a_mirror_and_one_that_is_not_complete_is_an_error_after_the_report(
    complete: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mirror"
    assert crs_run(tmp_path, "-q", "--mirror", target.as_uri()) == f"{complete.path / 'report.html'}\n"
    assert Run(target / "runs" / "abcdef").info == complete.info

    def full(mirror: Mirror, name: str, content: bytes) -> None:
        raise OSError("the bucket is full")

    def close(*given: Any, **more: Any) -> None:
        closing.close(*given, **more)
        monkeypatch.setattr(Mirror, "_write", full)
        complete.update(seconds=1)

    monkeypatch.setattr(commands, "close", close)
    result = CliRunner().invoke(main, ["run", "-q", "--mirror", str(target), "--reports", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, f"{complete.path / 'report.html'}\n")
    assert result.stderr == (
        f"crs: all is computed, but the mirror of {complete.path} lacks what is new (the bucket is full); the same "
        "command copies it\n"
    )


def test_a_merged_trial_becomes_latest_when_that_is_wanted(
    complete: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = pipeline.Plan(complete, complete.run_id, {}, RunParameters(), {})
    monkeypatch.setattr(shards, "merged", lambda folders, reports, report: planned)
    (part := tmp_path / "part").mkdir()
    big = ended(tmp_path, 12, "big")
    point_latest(tmp_path, big)
    for name in ("dialogues", "turns"):
        complete.write(name, complete.read(name).filter(dialogue_id="u000.0"))
    words = ["merge", str(part), "--reports", str(tmp_path)]
    said = CliRunner().invoke(main, words).stdout
    assert "--latest makes it this one" in said
    assert (tmp_path / "latest").resolve() == big.path
    assert CliRunner().invoke(main, [*words, "--latest", "-q"]).stdout == f"{complete.path / 'report.html'}\n"
    assert (tmp_path / "latest").resolve() == complete.path


def test_a_small_file_that_is_evaluated_takes_no_latest_from_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big, run = ended(tmp_path, 12, "big"), ended(tmp_path, 2, "theirs")
    point_latest(tmp_path, big)
    planned = pipeline.Plan(run, run.run_id, {}, RunParameters(), {})
    monkeypatch.setattr("crslib.experiments.evaluate.plan", lambda *given, **more: planned)
    monkeypatch.setattr("crslib.experiments.evaluate.execute", lambda planned, file, report: run)
    monkeypatch.setattr("crslib.reporting.html.remarks", lambda run: ["a remark"])
    monkeypatch.setattr("crslib.reporting.html.satisfied", lambda run: SimpleNamespace(frame=run.read("turns").clear()))
    words = ["evaluate", "their.json", "--as", "trl", "--reports", str(tmp_path)]
    lines = CliRunner().invoke(main, words).stdout.splitlines()
    assert lines[0] == "a remark"
    assert "theirs: 2 dialogues" in lines
    assert "Turns per dialogue    7.00             3.50" in lines
    assert any(line.startswith("latest is still big with 12 dialogues") for line in lines)
    assert lines[-2].startswith(f"next: `crs look theirs --reports {tmp_path}`")
    assert (tmp_path / "latest").resolve() == big.path
    record = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert (record["run_id"], record["metrics"]["turns"]["value"]) == ("theirs", 7.0)
    assert CliRunner().invoke(main, [*words, "-q", "--latest"]).stdout == f"{run.path / 'report.html'}\n"
    assert (tmp_path / "latest").resolve() == run.path


def test_shards_are_found_by_the_id_of_their_run(tmp_path: Path) -> None:
    for name in ("ab12/1-of-2", "ab12/2-of-2", "ab99/1-of-1"):
        (tmp_path / "shards" / name).mkdir(parents=True)
    shards = [tmp_path / "shards/ab12/1-of-2", tmp_path / "shards/ab12/2-of-2"]
    assert commands._shard_folders("ab1", tmp_path) == shards
    assert commands._shard_folders(str(shards[0]), tmp_path) == shards[:1]
    for word, sentence in (("ab", "'ab' begins ab12, ab99 of the runs"), ("zz", "'zz' is no folder, and begins none")):
        with pytest.raises(CrsError, match=sentence):
            commands._shard_folders(word, tmp_path)


def test_a_sweep_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def condition(run: Run, state: str, **more: Any) -> SimpleNamespace:
        return SimpleNamespace(plan=SimpleNamespace(run=run, run_id=run.run_id), state=state, **more)

    conditions = [
        condition(ended(tmp_path, 1, "a"), "success", reused=True),
        condition(Run(tmp_path / "b"), "error", reused=False),
    ]
    commands._print_sweep(["temperature=1.0", "temperature=0.5"], conditions)
    assert capsys.readouterr().out.splitlines() == [
        "condition        state              hit  reacts  told  dist-2  turns",
        "temperature=1.0  computed before  0.250                         7.00",
        "temperature=0.5  error",
    ]


def test_training_without_torch_says_what_works_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("crslib.training.run.find_spec", lambda name: None)
    result = CliRunner().invoke(main, ["train", "user", "--to", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == f"crs: training needs torch and safetensors; run `make -C {ROOT} train`\n"
    assert "\ntrain: " in (ROOT / "Makefile").read_text(encoding="utf-8")
