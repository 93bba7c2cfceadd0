"""Commands on runs: compute, sweep, compare, judge, list, export and look."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crslib.cli.parameters import read_assignments, read_conditions, read_grid, read_parameter_file
from crslib.cli.terminal import (
    JSON,
    PARAMETERS,
    REPORTS,
    console,
    counting,
    fail,
    run_progress,
    sweep_progress,
    visible,
    write_json,
)
from crslib.config import ROOT, ExportParameters, RunParameters
from crslib.data import exports
from crslib.data.trl import Written
from crslib.files import read_parquet
from crslib.store import Run, registry

if TYPE_CHECKING:
    from crslib.experiments import pipeline


ON = click.option(
    "--on",
    metavar="CLUSTER",
    help="Compute on Ray: `ray` on this machine, or the address of a cluster, such as ray://HOST:10001. Its nodes need "
    "crslib and all files at the same paths.",
)


def _parameter_list() -> str:
    """Every parameter with its default and meaning, for `crs run --help`."""
    lines = [f"{name}={field.default}  {field.description}" for name, field in RunParameters.model_fields.items()]
    return "\b\nParameters, with defaults:\n" + "\n".join(f"  {line}" for line in lines)


@click.command(epilog=_parameter_list())
@PARAMETERS
@click.option("--params", type=click.Path(path_type=Path), help="YAML or JSON file of parameters; -p overrides it.")
@click.option("--dry-run", is_flag=True, help="Say what the run would ask of servers, and stop.")
@click.option(
    "--shard", help="Simulate one part of the dialogues, such as 3/8; `crs merge` makes the run of all parts."
)
@ON
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes of --on; 0 is as many as there are CPUs.")
@REPORTS
def run(
    assignments: Sequence[str],
    params: Path | None,
    dry_run: bool,
    shard: str | None,
    on: str | None,
    workers: int,
    reports: Path,
) -> None:
    """Computes profiles, simulation, evaluation and report of one condition.

    A run that was interrupted continues, and dialogues that failed are tried again; a run that is complete is not
    computed again.

    Keys of servers come from the environment: CRS_API_KEY for a server on this machine, OPENAI_API_KEY for
    api.openai.com, and for each other host CRS_API_KEY_HOST, such as CRS_API_KEY_API_TOGETHER_XYZ for
    https://api.together.xyz/v1 (a hyphen becomes two underscores). No key is sent over plain http to another machine.
    """
    from crslib.experiments import pipeline

    given = {**(read_parameter_file(params) if params else {}), **read_assignments(assignments)}
    planned = pipeline.plan(given, reports, console.print)
    if dry_run:
        for line in pipeline.costs(planned):
            console.print(line, soft_wrap=True, markup=False)
        return
    if shard is not None:
        _shard(planned, shard, reports)
        return
    _execute(planned, reports, _on_ray(planned, on, workers) if on else None)


def _on_ray(planned: "pipeline.Plan", on: str, workers: int) -> "Callable[[pipeline.Plan], None]":
    from crslib.experiments import cluster, shards

    shards.simulation_of(planned)  # a baseline is refused before anything starts
    return partial(cluster.simulate_on_ray, address=cluster.address_of(on), n_workers=workers)


def _execute(
    planned: "pipeline.Plan", reports: Path, simulate: "Callable[[pipeline.Plan], None] | None" = None
) -> None:
    """Computes a run, shows progress, and prints what a person should know of it and where the report is."""
    from crslib.experiments import pipeline

    if pipeline.is_complete(planned.run):
        console.print(f"run {planned.run_id} has been computed before", soft_wrap=True)
    else:
        with run_progress(planned.run) as report:
            pipeline.execute(planned, report, simulate)
    for line in pipeline.afterwards(planned.run):
        console.print(line, soft_wrap=True, markup=False)
    pipeline.point_latest(reports, planned.run.path)
    console.print(str(planned.run.path / "report.html"), soft_wrap=True)


def _shard(planned: "pipeline.Plan", shard: str, reports: Path) -> None:
    from crslib.experiments import shards

    with counting("dialogues") as progress:
        folder = shards.simulate_shard(planned, shards.Shard.parse(shard), reports, progress)
    console.print(str(folder), soft_wrap=True, markup=False)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@REPORTS
def merge(folders: Sequence[Path], reports: Path) -> None:
    """Makes one run of its shards: FOLDERS are those that `crs run --shard` printed, all of one run.

    The dialogues are byte for byte those of a run in one piece; profiles, evaluation and report are made here.
    """
    from crslib.experiments import shards

    _execute(shards.merged(folders, reports, console.print), reports)


@click.command()
@click.argument("grid", type=click.Path(path_type=Path))
@PARAMETERS
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Conditions computed at a time.")
@ON
@REPORTS
def sweep(grid: Path, assignments: Sequence[str], workers: int, on: str | None, reports: Path) -> None:
    """Computes all combinations of the values in GRID, a YAML file of `name: [value, …]`.

    -p sets a parameter in all conditions. Complete runs are not computed again. With --on as many conditions are
    computed at a time as there are CPUs; the nodes of a cluster must share the folder of --reports.
    """
    fixed = read_assignments(assignments)
    _sweep([{**point, **fixed} for point in read_grid(grid)], workers, reports, on)


def _sweep(grid: Sequence[dict[str, Any]], workers: int, reports: Path, on: str | None = None) -> Path:
    """Computes the conditions and prints how they ended. Returns the folder with their comparison; ends the command
    where a condition failed."""
    from crslib.experiments import cluster
    from crslib.experiments import sweep as sweeps

    compute = partial(cluster.compute_on_ray, cluster.address_of(on)) if on else None
    conditions = sweeps.conditions(grid, reports, 2 if on else workers, console.print)
    with sweep_progress() as show:
        folder = sweeps.execute(conditions, reports, workers, show, compute)
    failed = [condition for condition in conditions if condition.state == "error"]
    for condition in failed:
        text = f"\n{condition.plan.run_id} {dict(condition.given)}\n{condition.error}"
        if condition.traceback:
            text += f"\nThe traceback is in {condition.plan.run.path / 'run.json'}."
        console.print(text, markup=False, soft_wrap=True)
    reused = sum(condition.reused for condition in conditions)
    console.print(f"{len(conditions)} conditions: {reused} computed before, {len(failed)} failed")
    console.print(str(folder.path / "report.html"), soft_wrap=True)
    if failed:
        fail(f"{len(failed)} of {len(conditions)} conditions failed; remove the cause and run the same command again")
    return folder.path


@click.command()
@click.option(
    "--conditions",
    type=click.Path(path_type=Path),
    default=ROOT / "data/conditions.yaml",
    show_default="data/conditions.yaml",
    help="YAML file of name: {parameter: value, …}. The first condition is compared with each of the others.",
)
@PARAMETERS
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Conditions computed at a time.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write condition → metric → figures to FILE.")
@REPORTS
def compare(conditions: Path, assignments: Sequence[str], workers: int, file: Path | None, reports: Path) -> None:
    """Computes named conditions for the same profiles and prints in which metrics the first differs from the others.

    By default: independent simulators against the baselines.
    """
    from crslib.experiments import comparison

    fixed = read_assignments(assignments)
    path = _sweep([{**point, **fixed} for point in read_conditions(conditions)], workers, reports)
    compared = comparison.read(str(path))
    for line in comparison.verdict(compared, comparison.differences(compared)):
        console.print(line, markup=False, soft_wrap=True)
    write_json(comparison.record(compared), file)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--model", default="smollm2", show_default=True, help="GGUF file of the judge; smollm2 is the built-in model."
)
@click.option(
    "--endpoint",
    default="",
    help="Address of an OpenAI-compatible endpoint, instead of --model. Its key is read from CRS_JUDGE_KEY "
    "and is sent to https addresses and to this machine only.",
)
@click.option("--endpoint-model", default="", help="Name of the model at the endpoint.")
@click.option(
    "--pairs", default=40, show_default=True, type=click.IntRange(1), help="Profiles whose dialogues are judged."
)
@click.option(
    "--criterion",
    "criteria",
    multiple=True,
    help="Criterion to judge by; can be repeated. Default: all in --rubrics. The controls always use `overall`.",
)
@click.option(
    "--rubrics",
    type=click.Path(path_type=Path),
    default=ROOT / "data/rubrics.yaml",
    show_default="data/rubrics.yaml",
    help="YAML file of criteria.",
)
@click.option(
    "--votes",
    type=click.Path(path_type=Path),
    help="Parquet file of people's votes on the same runs, for the judge's agreement with them.",
)
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="CPU threads; 0 is all of them.")
@JSON
@REPORTS
def judge(
    runs: Sequence[Path],
    model: str,
    endpoint: str,
    endpoint_model: str,
    pairs: int,
    criteria: Sequence[str],
    rubrics: Path,
    votes: Path | None,
    threads: int,
    file: Path | None,
    reports: Path,
) -> None:
    """A model compares the dialogues of RUNS (folders), the first run with each of the others.

    It sees each pair in both orders and gives marks. Controls show how far it can be relied on: it must prefer
    dialogues to corrupted copies of them. Interrupted, the same command continues.
    """
    from crslib.judging import llm
    from crslib.judging.criteria import read_rubrics
    from crslib.judging.rubrics import judge_runs
    from crslib.reporting import judge as judge_report

    asked = read_rubrics(rubrics, criteria)
    human = read_parquet(votes, "votes") if votes else None
    folders = [Run(path.resolve()) for path in runs]
    with (
        contextlib.closing(llm.open_judge(model, endpoint, endpoint_model, threads)) as opened,
        counting("questions") as progress,
    ):
        judged = judge_runs(opened, folders, asked, pairs, reports / "judged", progress=progress)
    report = judge_report.write(judged, human)
    for line in report.lines:
        console.print(line, markup=False, soft_wrap=True)
    for change in opened.changes:
        console.print(change, markup=False, soft_wrap=True)
    console.print(f"{report.n_answers} answers in {report.seconds:.0f} s", soft_wrap=True)
    console.print(str(report.path), soft_wrap=True)
    identity = {"judge": opened.name, **opened.identity}
    write_json({**identity, "reliability": report.lines, "figures": report.figures.to_dicts()}, file)


@click.command()
@REPORTS
def runs(reports: Path) -> None:
    """Lists the runs, newest last; on stderr, what could not be read."""
    if not reports.is_dir():
        fail(f"there is no folder {reports}; give the folder of runs with --reports")

    def skipped(sentence: str) -> None:
        click.echo(visible(sentence), err=True)

    for row in registry(reports, skipped).iter_rows(named=True):
        line = f"{row['run_id']}  {row['status']:<9} {row['started'] or '-':<25}  {row['condition']:<12} {row['path']}"
        console.print(visible(line), soft_wrap=True, markup=False)


@click.command()
@click.argument("run", required=False, type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice([*exports.FORMS, "trl", "dpo"]),
    default="dataset",
    show_default=True,
    help="trl: messages for SFT; dpo: pairs of `crs prefer` or `crs imitate`, whose folder is RUN; redial: ReDial's "
    "JSON lines; dialoguekit: its JSON; dataset: Parquet with a card.",
)
@click.option(
    "--role",
    type=click.Choice(["user", "recommender"]),
    default="recommender",
    show_default=True,
    help="The role to train; for trl and dpo only.",
)
@click.option(
    "--redial",
    type=click.Path(path_type=Path),
    help="ReDial's zip or folder: its training dialogues instead of RUN's with trl, the people of the pairs with dpo.",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    help="The same of a folder that `crs data import-dialogues` made.",
)
@click.option(
    "--system",
    type=click.Choice(["keep", "fold"]),
    default="keep",
    show_default=True,
    help="fold: the system text begins the first user message, for templates without a system role such as Gemma's.",
)
@click.option("--validation", type=float, default=0.0, show_default=True, help="Share for validation, by person.")
@click.option("--test", type=float, default=0.0, show_default=True, help="Share for testing, by person.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which people; the same in every export.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def export(
    run: Path | None, form: str, role: str, redial: Path | None, corpus: Path | None, folder: Path, **given: Any
) -> None:
    """Writes the dialogues of RUN (a run's folder, such as reports/latest) as training data for other programs."""
    if form in ("trl", "dpo"):
        written = _export_trl(run, form, role, redial, corpus, folder, ExportParameters.parse(given))
        for line in written.lines:
            console.print(line, soft_wrap=True)
        console.print(str(written.path), soft_wrap=True)
    elif run is None or redial or corpus or given != ExportParameters().model_dump():
        fail(f"--as {form} takes a run's folder, and no --redial, --corpus, --system, --validation, --test and --seed")
    else:
        console.print(str(exports.write(Run(run.resolve()), form, folder)), soft_wrap=True)


def _export_trl(
    run: Path | None,
    form: str,
    role: str,
    redial: Path | None,
    corpus: Path | None,
    folder: Path,
    parameters: ExportParameters,
) -> Written:
    from crslib.training.corpus import read_people, write_dialogues, write_pairs

    n_given = sum(path is not None for path in (run, redial, corpus))
    if (redial and corpus) or (run is None if form == "dpo" else n_given != 1):
        fail(
            "--as trl takes a run's folder, --redial PATH or --corpus FOLDER, --as dpo the folder of `crs prefer` or "
            "`crs imitate`"
        )
    if run and form == "trl":
        return exports.write_trl(Run(run.resolve()), role, folder, parameters)
    dialogues, items, origin, domain = read_people(redial, corpus)
    if run:
        return write_pairs(run, role, folder, parameters, origin, domain, dialogues)
    return write_dialogues(dialogues, items, role, folder, parameters, origin, domain)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--replay",
    "n_replayed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Number of dialogues to replay, the first ones; seconds each.",
)
@click.option("--dialogue", "dialogue_ids", multiple=True, metavar="ID", help="Dialogue to replay; can be repeated.")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/look.html",
    show_default="reports/look.html",
    help="The file; any browser opens it, also offline.",
)
def look(runs: Sequence[Path], n_replayed: int, dialogue_ids: Sequence[str], to: Path) -> None:
    """Writes a page that shows the dialogues of RUNS (folders): filtered, ordered, two runs side by side.

    Replayed dialogues are read again by their run's own models. For these the page also shows how likely each word was
    and which other titles the recommender could have named.
    """
    from crslib.web import viewer

    with counting("dialogues") as progress:
        path = viewer.write(to, [Run(path.resolve()) for path in runs], n_replayed, dialogue_ids, progress)
    console.print(str(path), soft_wrap=True)
