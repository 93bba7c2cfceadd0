"""What commands share on a terminal: progress of a run, tables."""

import time
from pathlib import Path

import pytest

from crslib.cli import terminal
from crslib.cli.terminal import print_table, run_progress
from crslib.store import Run


def report(run: Run, done: int, total: int, what: str) -> None:
    with run.progress(what) as progress:
        progress(done, total)


def test_progress_says_the_time_left_from_the_start(tmp_path: Path) -> None:
    run = Run(tmp_path)
    report(run, 60, 60, "dialogues")  # of an earlier call
    shown = run_progress(run, {"01_profiles": 10.0, "02_simulate": 120.0, "03_evaluate": 30.0}, width=12)
    shown._begin("01_profiles")
    assert shown.state("01_profiles", 4) == (0, 0, "0:04  some 2:36 left")
    shown._begin("02_simulate")
    assert shown.state("02_simulate", 0) == (0, 0, "0:00  some 2:30 left")
    report(run, 0, 60, "dialogues")
    assert shown.state("02_simulate", 20) == (0, 60, "0/60  0:20  some 2:10 left")
    report(run, 20, 60, "dialogues")
    assert shown.state("02_simulate", 60) == (20, 60, "20/60  20 a minute  1:00  some 2:30 left")
    shown._begin("03_evaluate")
    assert shown.state("03_evaluate", 40) == (0, 0, "0:40")


def test_dialogues_of_an_earlier_call_do_not_count_for_the_rate(tmp_path: Path) -> None:
    run = Run(tmp_path)
    shown = run_progress(run)
    shown._begin("02_simulate")
    report(run, 40, 60, "dialogues")
    assert shown.state("02_simulate", 5) == (40, 60, "40/60  0:05")
    report(run, 50, 60, "dialogues")
    assert shown.state("02_simulate", 3600) == (50, 60, "50/60  0 a minute  1:00:00  some 1:00:00 left")


def test_a_notebook_that_ended_is_a_line_and_none_when_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", iter((0.0, 12.0)).__next__)
    with run_progress(Run(tmp_path)) as begin:
        begin("01_profiles")
    assert capsys.readouterr().out == "01_profiles  12 s\n"
    monkeypatch.setattr(time, "monotonic", iter((0.0, 12.0)).__next__)
    with run_progress(Run(tmp_path), quiet=True) as begin:
        begin("01_profiles")
    assert capsys.readouterr().out == ""


def test_a_piped_table_is_aligned_lines_that_obey_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "n"], [["a\x1b[2J\nb [red]", "7"], ["c" * 200, "12"]], ["n"])
    assert capsys.readouterr().out.splitlines() == [
        f"{'name':<200}   n",
        "a\ufffd[2J b [red]".ljust(200) + "   7",
        f"{'c' * 200}  12",
    ]


def test_seconds_as_a_clock() -> None:
    assert [terminal._clock(seconds) for seconds in (0, 59.6, 125, 3725)] == ["0:00", "1:00", "2:05", "1:02:05"]
