"""The command line: errors are one sentence and exit status 1, never a traceback."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from crslib.cli.main import COMMANDS, main
from crslib.simulation import opening
from crslib.store import Run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "-p", "temprature=1"], "unknown parameter 'temprature': did you mean 'temperature'?"),
        (["run", "-p", "temperature=hot"], "parameter temperature = 'hot' is not valid"),
        (["run", "-p", "temperature"], "'temperature' is not a parameter; write name=value"),
        (["run", "-p", "user_model=none.gguf"], "cannot read the model"),
        (["run", "--params", "none.yaml"], "cannot read the parameter file none.yaml"),
        (["sweep", "none.yaml"], "cannot read the parameter file none.yaml"),
    ],
)
def test_mistakes_get_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*words, "--reports", str(tmp_path / "r")])
    assert result.exit_code == 1
    assert sentence in result.stderr
    assert result.stderr.startswith("crs: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_unwritable_reports_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    command = ["run", "-p", "n_profiles=2", "-p", "weights=fastest", "--reports", str(tmp_path / "file" / "r")]
    monkeypatch.setattr(opening, "weights_form", lambda *given: pytest.fail("weights were measured first"))
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "choose a writable folder" in result.stderr


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_package_is_the_command(option: str) -> None:
    shown = subprocess.run([sys.executable, "-m", "crslib", option], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("Usage: crs [OPTIONS] COMMAND")
    assert subprocess.run([sys.executable, "-m", "crslib", "bench", "twins", option], check=True, capture_output=True)


def test_help_imports_no_command_and_lists_all() -> None:
    code = """
import sys
from crslib.cli.main import main
main(["--help"], standalone_mode=False)
print({"polars", "pydantic", "rich", "crslib.config"} & sys.modules.keys())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip().endswith("set()")
    assert all(f"\n  {name} " in shown and sentence in shown for name, (_, sentence) in COMMANDS.items())
    assert {main.get_command(click.Context(main), name).name for name in COMMANDS} == COMMANDS.keys()  # type: ignore[union-attr]


def test_runs_of_an_empty_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["runs", "--reports", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, "")


def test_runs_that_cannot_be_read_are_said_and_the_others_listed(tmp_path: Path) -> None:
    """A run by hand or by plain papermill has a `run.json` without id, status and condition."""
    Run(tmp_path / "runs/1").update(run_id="1", status="success", started="2026", parameters={"condition": "c"})
    Run(tmp_path / "by-hand").update(opinion_auc=None)
    (tmp_path / "runs/2").mkdir()
    (tmp_path / "runs/2/run.json").write_text("{ torn")
    result = CliRunner().invoke(main, ["runs", "--reports", str(tmp_path)])
    assert result.exit_code == 0
    _, line = result.stdout.splitlines()
    assert line.split()[:3] == ["1", "2026", "c"]
    by_hand, torn = result.stderr.splitlines()
    assert str(tmp_path / "by-hand/run.json") in by_hand
    assert str(tmp_path / "runs/2/run.json") in torn


def test_brackets_in_paths_are_printed_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crslib.data.exports.write", lambda run, form, folder: folder / "file")
    for name in ("[bold]x", "X[/x]"):
        result = CliRunner().invoke(main, ["export", str(tmp_path), "--to", str(tmp_path / name)])
        assert (result.exit_code, result.output) == (0, f"{tmp_path / name / 'file'}\n")


def test_a_list_of_runs_obeys_no_escape_sequences(tmp_path: Path) -> None:
    nasty = "\x1b[2J\x9b31m\u202ehello [red]"
    Run(tmp_path / "runs/1").update(run_id="1", status="success", started="2026", parameters={"condition": nasty})
    result = CliRunner().invoke(main, ["runs", "--reports", str(tmp_path)])
    assert result.exit_code == 0
    assert "\ufffd[2J\ufffd31m\ufffdhello [red]" in result.output
    assert all(line.isprintable() for line in result.output.splitlines())


def test_an_error_obeys_no_escape_sequences() -> None:
    result = CliRunner().invoke(main, ["run", "-p", "data=\x1b[2Jnowhere"])
    assert result.exit_code == 1
    assert "\ufffd[2Jnowhere" in result.output
    assert "\x1b" not in result.output


def test_own_data_are_imported_or_refused(tmp_path: Path) -> None:
    items, ratings, to = tmp_path / "i.csv", tmp_path / "r.csv", tmp_path / "to"
    items.write_text("item_id,title\n1,Heat (1995)\n2,Up (2009)\n")
    ratings.write_text("user_id,item_id,rating\na,1,3\na,2,4\n")
    words = ["data", "import", "--ratings", str(ratings), "--items", str(items), "--to", str(to)]
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, "2 items, 2 ratings of 1 users" in result.output) == (0, True)
    assert {path.name for path in to.iterdir()} == {"items.parquet", "ratings.parquet", "source.json"}
    ratings.write_text("user_id,item_id,rating\na,1,good\n")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "row 1: rating 'good' is not a finite number" in result.stderr
    result = CliRunner().invoke(main, ["data", "import", "--to", str(to)])
    assert (result.exit_code, "give either --ratings" in result.stderr) == (1, True)


def test_the_command_and_a_simulation_import_no_heavy_packages_that_they_do_not_need() -> None:
    """Every run and every notebook is a process of its own; each of these packages takes seconds and up to 100 MiB."""
    names = ("cli.main", "data.tables", "experiments.pipeline", "simulation.loop", "users.opinions")
    modules = ", ".join(f"crslib.{name}" for name in names)
    data = "crslib.config.ROOT / 'data'"
    tables = f"*crslib.data.tables.load({data}), crslib.data.tables.domain_of({data})"
    prior = f"crslib.recommender.prior.ItemPrior.fit({tables})"
    heavy = "{'altair', 'pandas', 'sklearn', 'torch', 'transformers'}"
    code = f"import sys, {modules}; {prior}; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_packages_import_their_heavy_modules_only_when_named() -> None:
    """Raters wait neither for models nor for charts."""
    names = ("judging.analysis", "judging.study", "web.widgets", "reporting", "experiments")
    modules = ", ".join(f"crslib.{name}" for name in names)
    heavy = "{'altair', 'llama_cpp', 'openai', 'pandas', 'papermill', 'sklearn'}"
    code = f"import sys, {modules}; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_show_is_a_question_mark(encoding: str, tmp_path: Path) -> None:
    """The name of a condition in another script, and half of a surrogate pair in a name of the file system."""
    Run(tmp_path / "1").update(run_id="1", status="success", started="2026", parameters={"condition": "Кино ☃"})
    words = [sys.executable, "-m", "crslib", "runs", "--reports", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    shown = subprocess.run(words, capture_output=True, check=True, env=environment).stdout.decode(encoding)
    assert shown.splitlines()[1].startswith("1    2026")
    assert ("Кино ☃" in shown) == (encoding == "utf-8")
    assert ("???? ?" in shown) == (encoding != "utf-8")


def test_halves_of_surrogate_pairs_are_printed_and_refused_in_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crslib.data.exports.write", lambda run, form, folder: folder / "fi\udcffle")
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--as", "dataset", "--to", str(tmp_path)])
    assert (result.exit_code, result.output) == (0, f"{tmp_path}/fi?le\n")
    refused = subprocess.run([sys.executable, "-m", "crslib", "runs", "--reports", b"r\xff"], capture_output=True)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert (
        refused.stderr.decode() == "crs: the argument 'r\\udcff' is not UTF-8; write it, or name the file, in UTF-8\n"
    )


def test_a_warning_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(run: object, *_: object) -> Path:
        warnings.warn("a line is \x1b[2Jdamaged", stacklevel=2)
        return tmp_path

    monkeypatch.setattr("crslib.data.exports.write", warn)
    result = CliRunner().invoke(main, ["export", str(tmp_path), "--as", "dataset", "--to", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (0, "crs: a line is \ufffd[2Jdamaged\n")
