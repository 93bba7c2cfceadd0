"""The `crs` command: reads arguments, calls the library, and turns a `CrsError` into one line and exit status 1."""

import errno
import io
import sys
import warnings
from typing import Any

import click

from crslib import __version__
from crslib.cli import runs
from crslib.cli.bench import bench
from crslib.cli.chat import chat
from crslib.cli.corpora import import_dialogues, of_people
from crslib.cli.curate import curate
from crslib.cli.data import data
from crslib.cli.doctor import doctor
from crslib.cli.domain import domain
from crslib.cli.evaluate import evaluate
from crslib.cli.lab import lab
from crslib.cli.listing import runs as listing
from crslib.cli.look import look
from crslib.cli.people import people
from crslib.cli.terminal import fail, visible
from crslib.cli.train import blend, discriminator, imitate, prefer, train
from crslib.errors import CrsError


class _OneSentence(click.Group):
    """Ends a command that raised `CrsError` with its sentence, and one that the system refused something with that; a
    warning is a sentence too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            if any("\ud800" <= char <= "\udfff" for char in word):
                fail(f"the argument {word!r} is not UTF-8; write it, or name the file, in UTF-8")
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
                fail(str(error))
            except OSError as error:
                if error.errno == errno.EPIPE:  # nobody reads on; click ends quietly
                    raise
                where = f"{str(error.filename)[:200]}: " if error.filename else ""
                fail(f"{where}{error.strerror or error}; give another path, or free what it needs")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"crs: {visible(str(message))}", err=True)


@click.group(cls=_OneSentence, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__)
def main() -> None:
    """Simulates conversational recommendation without a known target, by two independent local models, and evaluates
    the dialogues.

    Begin with `crs run`. The shell completes commands, parameters and runs after
    eval "$(_CRS_COMPLETE=bash_source crs)"; zsh_source and fish_source are for these shells.
    """


for command in (
    *(runs.run, runs.merge, runs.sweep, runs.compare, runs.judge, listing, runs.export, look, lab, curate),
    *(evaluate, chat, people, data, domain, bench, train, prefer, imitate, blend, discriminator, doctor),
):
    main.add_command(command)
for command in (import_dialogues, *of_people):
    data.add_command(command)
