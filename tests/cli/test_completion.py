"""What the shell offers, and the help of commands."""

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from crslib.cli.completion import _Bash
from crslib.cli.main import main
from crslib.config import RunParameters
from tests.cli.test_listing import reports  # noqa: F401  a fixture


def offered(*words: str, incomplete: str) -> list[str]:
    return [
        item.value for item in ShellComplete(main, {}, "crs", "_CRS_COMPLETE").get_completions([*words], incomplete)
    ]


def test_names_of_parameters_are_offered_once() -> None:
    assert offered("run", "-p", incomplete="temp") == ["temperature="]
    assert offered("run", "-p", incomplete="user_") == ["user_model=", "user_adapter=", "user_prompt="]
    assert {f"{name}=" for name in RunParameters.model_fields} == set(offered("run", "-p", incomplete=""))
    assert offered("run", "-p", "temperature=0.5", "-p", incomplete="temp") == []


@pytest.mark.parametrize(
    ("incomplete", "values"),
    [
        ("opener=", ["opener=mixed", "opener=user", "opener=recommender"]),
        ("opener=u", ["opener=user"]),
        ("facts=", ["facts=auto", "facts=always", "facts=never"]),
        ("baseline=", ["baseline=user-target", "baseline=scripted"]),
        ("domain=", ["domain=auto", "domain=books", "domain=movies"]),
        ("user_prompt=data/prompts/u", ["user_prompt=data/prompts/user.md"]),
        ("user_model=a", ["user_model=agenda"]),
        (
            "user_adapter=data/adapters/u",
            ["user_adapter=data/adapters/user-target.gguf", "user_adapter=data/adapters/user.gguf"],
        ),
        ("temperature=", ["temperature=1.0"]),
        ("nothing=", []),
    ],
)
def test_values_of_parameters_are_offered(incomplete: str, values: list[str]) -> None:
    assert offered("run", "-p", incomplete=incomplete) == values


def test_runs_are_offered(reports: Path) -> None:  # noqa: F811
    assert offered("judge", "--reports", str(reports), incomplete="") == ["latest", "c3c3c3c3", "b2b2b2b2", "a1a1a1a1"]
    assert offered("judge", "--reports", str(reports), incomplete="b") == ["b2b2b2b2"]


@pytest.mark.parametrize(
    ("words", "cword", "lines"),
    [
        ("crs run -p ope", 3, ["plain,opener="]),
        ("crs run -p opener =", 4, ["plain,mixed", "plain,user", "plain,recommender"]),
        ("crs run -p opener = re", 5, ["plain,recommender"]),
        ("crs doc", 1, ["plain,doctor"]),
    ],
)
def test_bash_splits_words_at_the_sign_of_equality(
    words: str, cword: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(cword))
    assert _Bash(main, {}, "crs", "_CRS_COMPLETE").complete().split("\n") == lines


@pytest.mark.parametrize(
    ("words", "cword", "said"), [("crs run -p opener =", "4", "mixed"), ("crs doc", "1", "doctor")]
)
def test_bash_completes_in_the_installed_command(words: str, cword: str, said: str) -> None:
    environment = {**os.environ, "_CRS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": cword}
    command = [sys.executable, "-m", "crslib"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert shown.splitlines()[0] == f"plain,{said}"
    script = subprocess.run(
        command, capture_output=True, text=True, env={**environment, "_CRS_COMPLETE": "bash_source"}
    )
    assert "compopt -o nospace" in script.stdout


def test_the_script_for_bash_is_bash() -> None:
    script = _Bash(main, {}, "crs", "_CRS_COMPLETE").source_template % {
        **{"complete_func": "_crs", "complete_var": "_CRS_COMPLETE", "prog_name": "crs"}
    }
    assert "compopt -o nospace" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, env={**os.environ})


def commands(command: click.Command, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [words]
    context = click.Context(command)
    below = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [words, *(one for name, sub in below if sub is not None for one in commands(sub, (*words, name)))]


@pytest.mark.parametrize("words", commands(main), ids=" ".join)
def test_every_command_has_a_short_help(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "-h"])
    assert (result.exit_code, result.output.startswith("Usage: main")) == (0, True)


def test_the_help_of_a_run_lists_parameters_by_stage_with_their_choices() -> None:
    text = CliRunner().invoke(main, ["run", "-h"], terminal_width=200).output
    names = ("all stages", "the profiles", "the simulation", "the evaluation", "baselines")
    places = [text.index(f"Parameters of {name}:") for name in names]
    assert places == sorted(places)
    assert places[1] < text.index("n_profiles=64") < places[2] < text.index("temperature=1.0") < places[3]
    assert (
        " ".join(text.split()).count(
            "who speaks first; mixed: the recommender in 65 %, as people do [mixed, user, recommender]"
        )
        == 1
    )
    assert all(text.count(f"  {name}=") == 1 for name in RunParameters.model_fields)
    assert "judged_by" not in CliRunner().invoke(main, ["evaluate", "-h"]).output
