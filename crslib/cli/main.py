"""The `crs` command: reads arguments, calls the library, and turns a `CrsError` into one line and exit status 1."""

import errno
import importlib
import io
import os
import sys
import warnings
from typing import Any, NoReturn

import click

from crslib import __version__
from crslib.errors import CrsError

# By name: the module of the command, and what `crs --help` says of it, so that help and errors import none of them.
COMMANDS = {
    "run": ("runs", "One condition: profiles, simulation, evaluation, report."),
    "merge": ("runs", "Makes one run of its shards."),
    "sweep": ("runs", "All combinations of the values in a file."),
    "compare": ("runs", "Named conditions for the same profiles, with tests."),
    "judge": ("runs", "A model compares the dialogues of runs."),
    "runs": ("listing", "Lists, tags and removes runs."),
    "export": ("runs", "Writes a run's dialogues as training data."),
    "look": ("look", "Dialogues of all runs, or of some, in a browser."),
    "lab": ("lab", "The notebooks in JupyterLab, as copies."),
    "curate": ("curate", "Chooses dialogues of runs as training data."),
    "evaluate": ("evaluate", "Evaluates dialogues in a file, whoever made them."),
    "chat": ("chat", "Talk with the recommender or with a simulated user."),
    "people": ("people", "Studies in which people compare dialogues."),
    "data": ("data", "Catalogue, ratings and human dialogues."),
    "domain": ("domain", "What the talk is about: a shipped domain or your own."),
    "bench": ("bench", "Measures this installation and its models."),
    "train": ("train", "Trains the adapter of a role on human dialogues."),
    "prefer": ("train", "Trains the adapter of a role by DPO, after SFT."),
    "imitate": ("train", "Trains an adapter to prefer what people said."),
    "blend": ("train", "Mixes two adapters of one base."),
    "discriminator": ("train", "Fits what tells people's turns from an adapter's."),
    "doctor": ("doctor", "Says what is installed, missing or broken."),
}


class _OneSentence(click.Group):
    """Ends a command that raised `CrsError` with its sentence, and one that the system refused something with that; a
    warning is a sentence too. A command is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"crslib.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            if any("\ud800" <= char <= "\udfff" for char in word):
                _fail(f"the argument {word!r} is not UTF-8; write it, or name the file, in UTF-8")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # its encoding may lack characters of a text
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except CrsError as error:
                _fail(str(error))
            except OSError as error:
                if error.errno == errno.EPIPE:  # nobody reads on; click ends quietly
                    raise
                where = f"{str(error.filename)[:200]}: " if error.filename else ""
                _fail(f"{where}{error.strerror or error}; give another path, or free what it needs")


def _fail(sentence: str) -> NoReturn:
    from crslib.cli.terminal import fail

    fail(sentence)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    from crslib.cli.terminal import visible

    click.echo(f"crs: {visible(str(message))}", err=True)


@click.group(cls=_OneSentence, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """Simulates conversational recommendation without a known target, by two independent local models, and evaluates
    the dialogues.

    Begin with `crs run`. The shell completes commands, parameters and runs after
    eval "$(_CRS_COMPLETE=bash_source crs)"; zsh_source and fish_source are for these shells.
    """


if "_CRS_COMPLETE" in os.environ:
    importlib.import_module("crslib.cli.completion")  # tells click how bash splits name=value
