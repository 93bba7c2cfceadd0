"""The `crs` command: reads arguments, calls the library, and turns a `CrsError` into one line and exit status 1."""

from typing import Any

import click

from crslib import __version__
from crslib.cli import runs
from crslib.cli.bench import bench
from crslib.cli.chat import chat
from crslib.cli.data import data
from crslib.cli.evaluate import evaluate
from crslib.cli.people import people
from crslib.cli.terminal import fail
from crslib.cli.train import blend, discriminator, imitate, prefer, train
from crslib.errors import CrsError


class _OneSentence(click.Group):
    """Ends a command that raised `CrsError` with its sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CrsError as error:
            fail(str(error))


@click.group(cls=_OneSentence, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Simulates conversational recommendation without a known target, by two independent local models, and evaluates
    the dialogues."""


for command in (
    *(runs.run, runs.sweep, runs.compare, runs.judge, runs.runs, runs.export, runs.look),
    *(evaluate, chat, people, data, bench, train, prefer, imitate, blend, discriminator),
):
    main.add_command(command)
