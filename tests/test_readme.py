"""What README and FINDINGS name exists, and the README's example runs."""

import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest

from crslib.cli import terminal
from crslib.cli.main import main
from crslib.cli.parameters import read_assignments
from crslib.config import NOTEBOOKS, ROOT, RunParameters, SimulationParameters
from crslib.engines import preparation
from crslib.simulation import Dialogues
from crslib.store import Run
from tests.test_architecture import ROWS

FILES = ("README.md", "reports/FINDINGS.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}
README = TEXTS["README.md"]
IGNORED = ("reports/latest", "reports/example", "reports/runs", "data/raw", ".venv", ".cache")  # made by commands


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every code block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def inline(text: str) -> list[str]:
    """Everything in single backticks, code blocks left out; lines are joined first, because code may break there."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def block_lines(text: str) -> list[str]:
    """Lines of code blocks without language, comments left out."""
    return [line.split(" #")[0].strip() for language, code in blocks(text) if not language for line in code.split("\n")]


def in_files(find) -> list:
    return [pytest.param(name, what, id=f"{name}: {what}") for name in FILES for what in find(TEXTS[name])]


def commands(text: str) -> list[str]:
    return sorted({code for code in [*inline(text), *block_lines(text)] if code.startswith("crs ")})


def resolve_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that `words` (after `crs`) name, and its arguments."""
    command: click.Command = main
    while words and isinstance(command, click.Group):
        if words[0].startswith("-"):
            break  # options of the group itself
        below = command.get_command(click.Context(command), words[0])
        assert below, f"{command.name} has no command {words[0]!r}"
        command, words = below, words[1:]
    return command, words


def leaves(command: click.Command) -> list[click.Command]:
    """All commands below a group."""
    if not isinstance(command, click.Group):
        return [command]
    context = click.Context(command)
    below = [command.get_command(context, name) for name in command.list_commands(context)]
    return [leaf for each in below if each for leaf in leaves(each)]


@pytest.mark.parametrize(("name", "line"), in_files(commands))
def test_commands_exist_with_their_options_and_parameters(name: str, line: str) -> None:
    words = shlex.split(line)[1:]
    command, arguments = resolve_command(words)
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in arguments:
        assert not word.startswith("-") or word in {*options, "-h", "--help"}, f"{line}: no option {word}"
    parameters = SimulationParameters if words[0] == "bench" else RunParameters
    parameters.parse(read_assignments(re.findall(r"-p (\S+=\S*)", line)))


@pytest.mark.parametrize("name", FILES)
def test_parameters_and_options_named_alone_exist(name: str) -> None:
    for parameter in re.findall(r"-p (\w+)=", TEXTS[name]):
        assert parameter in RunParameters.model_fields
    known = {option for command in leaves(main) for parameter in command.params for option in parameter.opts}
    for code in inline(TEXTS[name]):
        assert not code.startswith("--") or set(re.findall(r"--[\w-]+", code)) <= known, code


@pytest.mark.parametrize(
    ("name", "line"), in_files(lambda text: [c for c in block_lines(text) if c.startswith("crs ")])
)
def test_commands_in_code_blocks_are_complete(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "find", lambda word, reports: Run(Path(word)))  # the runs are examples
    command, arguments = resolve_command(shlex.split(line)[1:])
    parent = click.Context(main, **main.context_settings)  # click keeps a command's first help option for ever
    command.make_context("crs", arguments, parent)  # raises for a missing argument or a value of the wrong kind


def paths(text: str) -> list[str]:
    """What looks like a path of this repository: links, and code with a slash or the ending of a file."""
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    words = [word for code in inline(text) for word in code.split()]
    codes = [word for word in words if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?|[\w-]+\.(?:md|py)", word)]
    return sorted({path for path in [*links, *codes] if path and not path.startswith(("http", *IGNORED))})


@pytest.mark.parametrize(("name", "path"), in_files(paths))
def test_paths_exist(name: str, path: str) -> None:
    assert (ROOT / path).exists() or ((ROOT / name).parent / path).exists()


@pytest.mark.parametrize("name", FILES)
def test_links_to_sections_lead_to_headings(name: str) -> None:
    headings = re.findall(r"^#+ (.+)$", TEXTS[name], re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXTS[name]):
        assert anchor in anchors


@pytest.mark.parametrize("name", FILES)
def test_modules_and_make_targets_exist(name: str) -> None:
    codes = [*inline(TEXTS[name]), *block_lines(TEXTS[name])]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for code in codes:
        for module in re.findall(r"python -m ([\w.]+)", code):
            assert importlib.util.find_spec(module), module
        for target in re.findall(r"^make (\w+)", code):
            assert target in targets


@pytest.mark.parametrize("name", FILES)
def test_lines_are_short_outside_tables(name: str) -> None:
    long = [line for line in TEXTS[name].split("\n") if len(line) > 160 and not line.startswith("|")]
    assert not long


def test_the_readme_is_read_in_ten_minutes() -> None:
    assert len(README.splitlines()) <= 180


def test_the_readme_names_every_part_in_the_order_of_imports_and_every_notebook() -> None:
    (tree,) = (code for _, code in blocks(README) if code.startswith("crslib/"))
    rows = [line.replace("crslib/", "").strip() for line in tree.splitlines()]
    parts = [re.split(r"\s{3,}", row)[0].split() for row in rows]
    assert [sorted(row) for row in parts[: len(ROWS) - 1]] == [sorted(row) for row in ROWS if row != ["__main__"]]
    for notebook in ("00_quickstart", *NOTEBOOKS, "04_compare", "05_people", "06_train"):
        assert f"`{notebook}`" in README


def test_the_table_of_the_readme_is_that_of_the_findings() -> None:
    def tables(text: str) -> dict[str, list[str]]:
        lines = [line.strip("|") for line in text.split("\n") if line[:1] == "|" and line[:2] != "|-"]
        rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        return {cells[0]: [re.sub(" [▲▼]$", "", cell) for cell in cells[1:]] for cells in rows}

    section = TEXTS["reports/FINDINGS.md"].split("\n## 1 ")[1].split("\n## ")[0]
    measured, shown = tables(section), tables(README.split("## What we found")[1].split("##")[0])
    assert len(shown) == 8  # with the head
    for metric, cells in shown.items():
        assert cells == measured[metric], metric


@pytest.mark.model
def test_the_python_example_runs(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (example,) = (code for language, code in blocks(README) if language == "python")
    example = example.replace('resolve("reports/example")', f'resolve("{tmp_path}")')
    assert "max_turns=6)" in example  # and titles by the item prior alone: reading all of them takes minutes
    example = example.replace("max_turns=6)", "max_turns=6, title_model=0, title_base=0)")
    monkeypatch.setattr(preparation, "best", lambda *given: "Q8_0")  # instead of measuring for a minute
    namespace: dict[str, object] = {}
    exec(example, namespace)
    simulated = namespace["simulated"]
    assert isinstance(simulated, Dialogues)
    assert simulated.turns["dialogue_id"].n_unique() == 2
    assert "recommender" in capsys.readouterr().out
