"""`crs evaluate`: dialogues that others made, judged like our own."""

from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.closing import LATEST, QUIET, close, is_quiet, speaker
from crslib.cli.parameters import WithParameters, read_assignments
from crslib.cli.terminal import JSON_OR_OUTPUT, PARAMETERS, REPORTS, RUN, STDOUT, console, run_progress
from crslib.config import EvaluationParameters
from crslib.data.corpora import forms
from crslib.store import Run


class _Command(WithParameters):
    parameters, hidden_parameters = EvaluationParameters, ("judged_by",)  # there is no other profile here


@click.command(cls=_Command)
@click.argument("dialogues", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(list(forms.FORMS)),
    required=True,
    help="dialoguekit: JSON of DialogueKit and UserSimCRS; redial: ReDial's JSON lines; crslab: CRSLab's JSON of "
    "ReDial; trl: JSON lines of messages; dataset: Parquet of `crs export`.",
)
@click.option("--condition", default="", help="Name of the dialogues in tables and charts. Default: that of FILE.")
@click.option("--data", default="data", show_default=True, help="Folder with items.parquet, the catalogue.")
@click.option("--domain", default="auto", show_default=True, help="What they are about; auto: as the data folder says.")
@click.option(
    "--titles",
    type=click.Choice(["auto", "marked", "all"]),
    default="auto",
    show_default=True,
    help="Which items count: those that FILE marks, or all that are named; auto: the marked ones if there are any.",
)
@click.option(
    "--beside",
    "others",
    multiple=True,
    type=RUN,
    help="A run to compare the dialogues with (id, tag or folder); can be repeated.",
)
@LATEST
@QUIET
@JSON_OR_OUTPUT
@PARAMETERS
@REPORTS
def evaluate(
    dialogues: Path,
    form: str,
    condition: str,
    data: str,
    domain: str,
    titles: str,
    others: Sequence[Path],
    latest: bool,
    quiet: bool,
    file: Path | None,
    assignments: Sequence[str],
    reports: Path,
) -> None:
    """Evaluates the dialogues in FILE, whoever made them, as a run: beside people, and beside other runs.

    Items are linked to the catalogue. Metrics that need profiles, hidden items or prompts are left out. Labels of
    satisfaction in FILE become scores and are correlated with the metrics.
    """
    from crslib.experiments import evaluate as evaluation
    from crslib.experiments import pipeline
    from crslib.reporting import html, text

    given = read_assignments(assignments)
    about = {"condition": condition, "data": data, "titles": titles, "domain": domain}
    planned = evaluation.plan(dialogues, form, given, reports, **about)
    say = speaker(quiet, file)
    if pipeline.is_complete(planned.run):
        say(f"run {planned.run_id} has been computed before")
    with run_progress(planned.run, quiet=is_quiet(say)) as report:
        run = evaluation.execute(planned, dialogues, report)
    for line in html.remarks(run):
        say(line)
    table = html.satisfied(run).frame
    if table.height:
        say(text.markdown(table.columns, table.iter_rows()))
    more = {}
    if others:
        compared = evaluation.compare(run, [Run(path.resolve()) for path in others], reports)
        more["comparison"] = str(compared.path / "report.html")
    close(run, reports, latest=latest, say=say, file=file, more=more)
    if others and file != STDOUT:
        console.print(more["comparison"], soft_wrap=True)
