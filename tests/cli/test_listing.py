"""`crs runs`: the list, what is removed and what is named; and runs by a word in other commands."""

import json
import re
import shutil
from pathlib import Path

import click
import polars as pl
import pytest
from click.testing import CliRunner
from rich.console import Console

from crslib.cli import terminal
from crslib.cli.main import main
from crslib.config import RunParameters
from crslib.runs import find
from crslib.store import Run
from tests.experiments.test_runs import metrics
from tests.support.people_runs import make_runs


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Three runs of nine dialogues, c the newest and the latest."""
    for path, given in zip(
        make_runs(tmp_path / "runs", 9, conditions=("a1", "b2", "c3")),
        ({}, {"temperature": 0.5, "opener": "user"}, {"condition": "paper"}),
        strict=True,
    ):
        started = f"2026-01-0{path.name[1]}T10:00:00+00:00"
        run, parameters = Run(path), RunParameters.parse(given).model_dump()
        run.update(run_id=path.name * 4, status="success", started=started, parameters=parameters)
        run.write("metrics", metrics(hits=int(path.name[1]) / 10, turns=7.0))
    (tmp_path / "latest").symlink_to("runs/c3")
    return tmp_path


def crs(*words: object, code: int = 0, stdin: str = "") -> str:
    """What a command prints; its error where it ends with `code` 1."""
    result = CliRunner().invoke(main, list(map(str, words)), input=stdin)
    assert result.exit_code == code, result.output
    return result.stderr if code else result.stdout


def test_a_piped_list_is_a_line_per_run(reports: Path) -> None:
    Run(reports / "runs/a1").update(status="error")
    crs("runs", "tag", "a1", "first", "--reports", reports)
    head, first, second, third = crs("runs", "--reports", reports).splitlines()
    heads = "run started condition models n hit reacts told dist-2 turns folder"
    assert head.split() == heads.split()
    assert first.split() == [
        *("c3c3c3c3", "2026-01-03T10:00:00+00:00", "paper", "(latest)", "smollm2", "9", "0.300", "7.00"),
        str(reports / "runs/c3"),
    ]
    assert "interplay opener=user temperature=0.5  smollm2" in second
    assert third.split()[:4] == ["first", "2026-01-01T10:00:00+00:00", "interplay", "(error)"]


def test_latest_is_shown_below_a_relative_folder(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reports.parent)
    lines = crs("runs", "--reports", reports.name).splitlines()
    assert ["(latest)" in line for line in lines] == [False, True, False, False]


def test_models_of_both_roles_are_shown(reports: Path) -> None:
    given = {"user_adapter": "/x/mine.gguf", "recommender_model": "agenda"}
    Run(reports / "runs/c3").update(parameters=RunParameters.parse(given).model_dump())
    assert "smollm2 + mine / agenda  9" in crs("runs", "--reports", reports, "-n", 1).splitlines()[1]


def test_metrics_of_ones_own_are_columns(reports: Path) -> None:
    thanks = metrics(thanks=0.125, hit=2.0).with_columns(family=pl.lit("own"))
    run = Run(reports / "runs/b2")
    run.write("metrics", pl.concat([run.read("metrics"), thanks]))
    head, *lines = crs("runs", "--reports", reports).splitlines()
    assert head.split()[-5:] == ["dist-2", "turns", "hit_", "thanks", "folder"]
    assert [line.split()[-3:-1] for line in lines] == [["0.300", "7.00"], ["2.00", "0.125"], ["0.100", "7.00"]]
    best = crs("runs", "--reports", reports, "--sort", "thanks", "-n", 1).splitlines()[1]
    assert best.startswith("b2b2b2b2")
    assert json.loads(crs("runs", "--reports", reports, "-w", "thanks=0.125", "--json"))[0]["thanks"] == 0.125


def test_names_that_are_shown_find_their_runs(tmp_path: Path) -> None:
    ids = ["0123456789abcdef", "01234567ffff0000", "2025-11-27T10-00-00-a", "fedcba9876543210", "abcdefabcdef"]
    for path, run_id in zip(make_runs(tmp_path, 1, conditions=("a", "b", "c", "d", "e")), ids, strict=True):
        Run(path).update(run_id=run_id, status="success", started="2026-01-01", parameters={"condition": "x"})
    tag = "a.tag-of-more-than-sixteen-letters"
    crs("runs", "tag", "fedc", tag, "--reports", tmp_path)
    shutil.copytree(tmp_path / "e", tmp_path / "f")
    names = {line.split()[-1]: line.split()[0] for line in crs("runs", "--reports", tmp_path).splitlines()[1:]}
    twins = {str(tmp_path / name): str(tmp_path / name) for name in "ef"}
    shown = dict(zip("abcd", ["012345678", "01234567f", ids[2], tag], strict=True))
    assert names == {**{str(tmp_path / name): word for name, word in shown.items()}, **twins}
    assert all(find(word, tmp_path).path == Path(folder) for folder, word in names.items())
    chosen = crs("runs", "--reports", tmp_path, "-w", f"run_id={ids[0]}").splitlines()[1]
    assert chosen.startswith("012345678 ")


def test_the_list_is_chosen_sorted_and_cut(reports: Path) -> None:
    def ids(*words: str) -> list[str]:
        return [line[:2] for line in crs("runs", "--reports", reports, *words).splitlines()[1:]]

    assert ids() == ["c3", "b2", "a1"]
    assert ids("-n", "1") == ["c3"]
    assert ids("--sort", "run_id") == ["a1", "b2", "c3"]
    assert ids("--sort", "hits", "-n", "2") == ["c3", "b2"]
    assert ids("-w", "condition=interplay", "-w", "temperature=0.5") == ["b2"]
    assert ids("--filter", "opener=mixed") == ["c3", "a1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-w", "opener"], "'opener' is no filter; write name=value"),
        (["-w", "openr=user"], "runs have no 'openr': did you mean 'opener'?"),
        (["--sort", "turn"], "runs have no 'turn': did you mean 'turns'?"),
    ],
)
def test_a_wrong_filter_is_one_sentence(words: list[str], sentence: str, reports: Path) -> None:
    assert crs("runs", "--reports", reports, *words, code=1) == f"crs: {sentence}\n"


def test_the_list_for_machines(reports: Path) -> None:
    rows = json.loads(crs("runs", "--reports", reports, "--json"))
    assert [row["run_id"] for row in rows] == ["c3c3c3c3", "b2b2b2b2", "a1a1a1a1"]
    assert (rows[1]["differs"], rows[1]["hits"], rows[1]["user_two_sample"]) == (
        "opener=user, temperature=0.5",
        0.2,
        None,
    )
    assert crs("runs", "--reports", reports, "-n", 1, "--json", reports / "rows.json") == ""
    assert json.loads((reports / "rows.json").read_text()) == rows[:1]


@pytest.mark.parametrize("width", [80, 120])
def test_the_drawn_list_fits_the_terminal(width: int, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Console(force_terminal=True, width=width, color_system=None, highlight=False, markup=False)
    monkeypatch.setattr("crslib.cli.listing.console", drawn)
    monkeypatch.setattr(terminal, "console", drawn)
    Run(reports / "runs/a1").update(status="error")
    crs("runs", "tag", "b2", "calm", "--reports", reports)
    lines = crs("runs", "--reports", reports).splitlines()
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert "run started condition models n hit reacts told dist-2 turns" in text
    assert "c3c3c3c3 03 Jan paper" in text
    assert re.search(r"03 Jan paper (\(latest\) )?smollm2 9 0.300 7.00", text)
    assert "(latest)" in text
    assert "calm 02 Jan interplay" in text
    assert re.search("opener=user temperature ?= ?0.5" if width == 80 else "opener=user temperature=0.5", text)
    assert "(error)" in text
    empty = crs("runs", "--reports", reports / "runs/a1", "-w", "status=success")
    assert empty == "no runs; make one with `crs run`\n"


def test_a_run_is_tagged_found_and_its_tag_is_taken(reports: Path) -> None:
    run = reports / "runs/b2"
    assert crs("runs", "tag", "b2b", "calm", "--reports", reports) == f"{run} is called calm\n"
    assert "'calm' already finds the run b2b2b2b2" in crs("runs", "tag", "latest", "calm", "--reports", reports, code=1)
    assert crs("runs", "tag", "calm", "--remove", "--reports", reports) == f"{run} has no tag\n"
    assert "no run below" in crs("runs", "tag", "calm", "x", "--reports", reports, code=1)
    assert "give a name, or --remove" in crs("runs", "tag", "b2", "--reports", reports, code=1)
    assert "is no run; `crs runs` lists them" in crs("runs", "tag", reports / "runs", "x", "--reports", reports, code=1)


def test_runs_are_removed_when_that_is_meant(reports: Path) -> None:
    kept = crs("runs", "--reports", reports, "rm", "b2", stdin="n\n")
    assert "remove the run and its 9 dialogues? [y/N]" in kept
    assert (reports / "runs/b2").is_dir()
    assert "removed" in crs("runs", "rm", "b2", "--reports", reports, stdin="y\n")
    said = crs("runs", "rm", "latest", "c3", "--yes", "--reports", reports)
    assert said == f"removed {reports / 'runs/c3'}\nlatest is now a1a1a1a1 (interplay)\n"
    assert [path.name for path in (reports / "runs").iterdir()] == ["a1"]
    (nested,) = make_runs(reports / "runs/a1", 1, conditions=("yours",))
    said = crs("runs", "rm", "a1", "-y", "--reports", reports, code=1)
    assert said == f"crs: {reports / 'runs/a1'} holds the runs {nested}; remove those first\n"
    crs("runs", "rm", nested, "-y", "--reports", reports)
    with Run(reports / "runs/a1").lock():
        assert "is in use by another process" in crs("runs", "rm", "a1", "-y", "--reports", reports, code=1)
    assert "is no run below" in crs("runs", "rm", reports / "runs", "-y", "--reports", reports, code=1)
    assert (reports / "runs/a1").is_dir()


def test_a_run_of_a_sweep_is_removed_with_a_word_of_it(reports: Path) -> None:
    sweep = {"axes": ["condition"], "conditions": []}
    sweep["conditions"] = [
        {"run_id": "x", "path": f"../../runs/{name}", "state": "success", "values": {"condition": name}}
        for name in ("a1", "b2")
    ]
    (reports / "sweeps/s").mkdir(parents=True)
    (reports / "sweeps/s/sweep.json").write_text(json.dumps(sweep))
    said = crs("runs", "rm", "a1", "--reports", reports, stdin="n\n")
    assert f"It is part of {reports / 'sweeps/s'}." in said
    assert "part of" not in crs("runs", "rm", "c3", "--reports", reports, stdin="n\n")


def test_every_command_that_takes_a_run_takes_a_word_for_it() -> None:
    taking = {"runs", "run", "folders", "folder", "others"}
    found = {}

    def walk(name: str, command: click.Command | None) -> None:
        assert command is not None
        for parameter in command.params:
            if parameter.name in taking and isinstance(parameter.type, click.Path | type(terminal.RUN)):
                found[f"{name} {parameter.name}"] = parameter.type is terminal.RUN
        if isinstance(command, click.Group):
            context = click.Context(command)
            for sub in command.list_commands(context):
                if (other := command.get_command(context, sub)) is not None:
                    walk(f"{name} {sub}".strip(), other)

    walk("", main)
    takers = {name for name, taken in found.items() if taken}
    assert takers >= {
        "judge runs",
        "look runs",
        "bench evaluate run",
        "export run",
        "evaluate others",
        "curate runs",
        "people serve runs",
        "bench usefulness runs",
        "runs rm folders",
        "runs tag folder",
    }
    folders = {"export folder", "people export folder", "curate folder"}
    folders |= {"bench twins folder", "bench prompts folder"}
    others = {name for name, taken in found.items() if not taken and not name.startswith("data ")}
    assert others <= folders


def test_a_word_finds_a_run_for_export(reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crslib.data.exports.write", lambda run, form, folder: run.path)
    for word, name in (("latest", "c3"), ("a1a1", "a1"), (reports / "runs/b2", "b2")):
        assert crs("export", word, "--to", reports / "x", "--reports", reports) == f"{reports / 'runs' / name}\n"
        assert crs("export", "--reports", reports, "--to", reports / "x", word) == f"{reports / 'runs' / name}\n"
    assert "did you mean latest?" in crs("export", "lates", "--to", reports / "x", "--reports", reports, code=1)
    said = crs("curate", "zzz", "--to", reports / "x", "--reports", reports, code=1)
    assert (
        said == f"crs: no run below {reports} is called 'zzz'; `crs runs` lists them, a folder of a run will also do\n"
    )
