"""Commands on runs: compute, sweep, compare, judge and export."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crslib.cli.closing import LATEST, QUIET, close, is_quiet, speaker
from crslib.cli.parameters import (
    WithParameters,
    in_all,
    read_assignments,
    read_conditions,
    read_grid,
    read_parameter_file,
)
from crslib.cli.terminal import (
    JSON,
    JSON_OR_OUTPUT,
    PARAMETERS,
    REPORTS,
    REPORTS_OF_RUNS,
    RUN,
    console,
    counting,
    fail,
    print_table,
    run_progress,
    sweep_progress,
    visible,
    write_json,
)
from crslib.config import ROOT, ExportParameters
from crslib.data import exports
from crslib.data.trl import Written
from crslib.errors import CrsError
from crslib.runs import condition_names
from crslib.store import Run, read_parquet

if TYPE_CHECKING:
    from crslib.experiments import pipeline


ON = click.option(
    "--on",
    metavar="CLUSTER",
    help="Compute on Ray: `ray` on this machine, or the address of a cluster, such as ray://HOST:10001. Its nodes need "
    "crslib and all files at the same paths.",
)


@click.command(cls=WithParameters)
@PARAMETERS
@click.option("--params", type=click.Path(path_type=Path), help="YAML or JSON file of parameters; -p overrides it.")
@click.option("--dry-run", is_flag=True, help="Say what the run would ask of servers, and stop.")
@click.option(
    "--shard", help="Simulate one part of the dialogues, such as 3/8; `crs merge` makes the run of all parts."
)
@LATEST
@QUIET
@JSON_OR_OUTPUT
@ON
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes of --on; 0 is as many as there are CPUs.")
@click.option(
    "--mirror",
    metavar="URI",
    help="Copy the run's folder there once a minute and at the end (s3://BUCKET/…, gs://…, a folder), after fetching "
    "what another machine has copied of it.",
)
@REPORTS
def run(
    assignments: Sequence[str],
    params: Path | None,
    dry_run: bool,
    shard: str | None,
    latest: bool,
    quiet: bool,
    file: Path | None,
    on: str | None,
    workers: int,
    mirror: str | None,
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

    chosen = [("--on", on), ("--json", file), ("-q", quiet), ("--latest", latest)]
    useless = [name for name, value in chosen if value]
    if shard is not None and useless:
        fail(f"--shard makes a part of a run, without {', '.join(useless)}; give them to `crs merge` or leave them out")
    useless += [name for name, value in (("--shard", shard), ("--mirror", mirror)) if value is not None]
    if dry_run and useless:
        fail(f"--dry-run only prints costs; leave out {', '.join(useless)}")
    if workers and not on:
        fail("--workers are of --on; name a cluster with it, or set threads with -p threads=N")
    given = {**(read_parameter_file(params) if params else {}), **read_assignments(assignments)}
    say = speaker(quiet, file)
    planned = pipeline.plan(given, reports, say)
    if dry_run:
        for line in pipeline.costs(planned):
            console.print(line, soft_wrap=True, markup=False)
        return
    if shard is not None:
        _shard(planned, shard, reports, mirror)
        return
    compute = _on_ray(planned, on, workers) if on else None
    with _mirrored(planned.run, mirror, reports):
        _execute(planned, reports, say, latest, file, compute)


def _mirrored(run: Run, uri: str | None, reports: Path) -> contextlib.AbstractContextManager[None]:
    if uri is None:
        return contextlib.nullcontext()
    from crslib.experiments.mirror import mirrored

    return mirrored(run, uri, reports, lambda sentence: click.echo(f"crs: {visible(sentence)}", err=True))


def _on_ray(planned: "pipeline.Plan", on: str, workers: int) -> "Callable[[pipeline.Plan], None]":
    from crslib.experiments import cluster, shards

    shards.simulation_of(planned)  # a baseline is refused before anything starts
    return partial(cluster.simulate_on_ray, address=cluster.address_of(on), n_workers=workers)


def _execute(
    planned: "pipeline.Plan",
    reports: Path,
    say: Callable[[str], None],
    latest: bool,
    file: Path | None,
    simulate: "Callable[[pipeline.Plan], None] | None" = None,
) -> None:
    """Computes a run, shows progress, and prints what came out, what to do next and where the report is."""
    from crslib.experiments import duration, pipeline

    if pipeline.is_complete(planned.run):
        say(f"run {planned.run_id} has been computed before")
    else:
        given = planned.parameters.model_dump()
        dialogues = given.get("n_profiles", 0) * given.get("dialogues_per_profile", 1)
        expected = duration.expected(planned, reports, dialogues)
        with run_progress(planned.run, expected, given.get("width", 1), is_quiet(say)) as report:
            pipeline.execute(planned, report, simulate)
    for line in pipeline.afterwards(planned.run):
        say(line)
    close(planned.run, reports, latest=latest, say=say, file=file)


def _shard(planned: "pipeline.Plan", shard: str, reports: Path, mirror: str | None) -> None:
    from crslib.experiments import shards

    part = shards.Shard.parse(shard)
    with _mirrored(shards.run_of(planned, part, reports), mirror, reports):
        with counting("dialogues") as progress:
            folder = shards.simulate_shard(planned, part, reports, progress)
        console.print(str(folder), soft_wrap=True, markup=False)


@click.command()
@click.argument("shards_", metavar="FOLDERS...", nargs=-1, required=True)
@LATEST
@QUIET
@JSON_OR_OUTPUT
@REPORTS
def merge(shards_: Sequence[str], latest: bool, quiet: bool, file: Path | None, reports: Path) -> None:
    """Makes one run of its shards: FOLDERS are those that `crs run --shard` printed, all of one run; or the id of the
    run, or its beginning, for all shards of it below REPORTS.

    The dialogues are byte for byte those of a run in one piece; profiles, evaluation and report are made here.
    """
    from crslib.experiments import shards

    folders = [folder for word in shards_ for folder in _shard_folders(word, reports)]
    say = speaker(quiet, file)
    _execute(shards.merged(folders, reports, say), reports, say, latest, file)


def _shard_folders(word: str, reports: Path) -> list[Path]:
    """The folder that a word is, or all shards of the run whose id it begins. Raises `CrsError` where it begins several
    ids, or none."""
    if Path(word).is_dir():
        return [Path(word)]
    below = reports / "shards"
    runs = [path for path in sorted(below.iterdir()) if path.name.startswith(word)] if below.is_dir() else []
    if len(runs) != 1:
        found = f"begins {', '.join(path.name for path in runs)}" if runs else "is no folder, and begins none"
        raise CrsError(f"{word!r} {found} of the runs with shards below {below}; give the id of one run, or folders")
    return sorted(runs[0].iterdir())


@click.command()
@click.argument("grid", type=click.Path(path_type=Path))
@PARAMETERS
@click.option(
    "--workers",
    type=click.IntRange(1),
    show_default="2; with --on as many as there are CPUs",
    help="Conditions computed at a time.",
)
@ON
@REPORTS
def sweep(grid: Path, assignments: Sequence[str], workers: int | None, on: str | None, reports: Path) -> None:
    """Computes all combinations of the values in GRID, a YAML file of `name: [value, …]`.

    -p sets a parameter that GRID does not. Complete runs are not computed again. With --on the nodes of a cluster must
    share the folder of --reports.
    """
    points = in_all(read_grid(grid), read_assignments(assignments), grid)
    _sweep(points, workers or (0 if on else 2), reports, on)


def _sweep(grid: Sequence[dict[str, Any]], workers: int, reports: Path, on: str | None = None) -> Path:
    """Computes the conditions and prints how they ended. Returns the folder with their comparison; ends the command
    where a condition failed. `workers`: 0, on a cluster, is as many as it has room for."""
    from crslib.experiments import cluster
    from crslib.experiments import sweep as sweeps

    compute = partial(cluster.compute_on_ray, cluster.address_of(on), workers=workers) if on else None
    conditions = sweeps.conditions(grid, reports, 2 if on else workers, console.print)
    names = condition_names(sweeps.varied(conditions))
    with sweep_progress(names) as show:
        folder = sweeps.execute(conditions, reports, workers, show, compute)
    _print_sweep(names, conditions)
    failed = [condition for condition in conditions if condition.state == "error"]
    for name, condition in zip(names, conditions, strict=True):
        if condition.state != "error":
            continue
        text = f"\n{name} ({condition.plan.run_id})\n{condition.error}"
        if condition.traceback:
            text += f"\nThe traceback is in {condition.plan.run.path / 'run.json'}."
        console.print(text, markup=False, soft_wrap=True)
    reused = sum(condition.reused for condition in conditions)
    console.print(f"{len(conditions)} conditions: {reused} computed before, {len(failed)} failed")
    console.print(str(folder.path / "report.html"), soft_wrap=True)
    if failed:
        fail(f"{len(failed)} of {len(conditions)} conditions failed; remove the cause and run the same command again")
    return folder.path


def _print_sweep(names: Sequence[str], conditions: Sequence[Any]) -> None:
    """The conditions as a table: name, state, and the figures of those that succeeded."""
    from crslib.experiments.ending import values
    from crslib.experiments.runs import FIGURES

    rows = []
    for name, condition in zip(names, conditions, strict=True):
        state = "computed before" if condition.reused else condition.state
        shown = values(condition.plan.run) if condition.state == "success" else {}
        rows.append([name, state, *(shown.get(metric, "") for metric in FIGURES)])
    print_table(["condition", "state", *FIGURES.values()], rows, list(FIGURES.values()))


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

    By default: independent simulators against the baselines. -p sets a parameter in the conditions that do not set it
    themselves.
    """
    from crslib.experiments import comparison

    points = in_all(read_conditions(conditions), read_assignments(assignments), conditions)
    path = _sweep(points, workers, reports)
    compared = comparison.read(str(path))
    for line in comparison.verdict(compared, comparison.differences(compared)):
        console.print(str(line), markup=False, soft_wrap=True)
    write_json(comparison.record(compared), file)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option(
    "--model",
    default="smollm2",
    show_default=True,
    help="The judge: GGUF file, openai:MODEL@URL (keys as in `crs run`), or smollm2, the built-in model.",
)
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
    help="Parquet file of people's votes on the same runs. Default: those of all studies below --reports.",
)
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="CPU threads; 0 is all of them.")
@JSON
@REPORTS
def judge(
    runs: Sequence[Path],
    model: str,
    pairs: int,
    criteria: Sequence[str],
    rubrics: Path,
    votes: Path | None,
    threads: int,
    file: Path | None,
    reports: Path,
) -> None:
    """A model compares the dialogues of RUNS (ids, tags or folders), the first run with each of the others.

    It sees each pair in both orders and gives marks. Controls show how far it can be relied on: it must prefer
    dialogues to corrupted copies of them. What people have compared in studies of the same runs is judged first, and
    the report says how well the judge agrees with them. Interrupted, the same command continues.
    """
    from crslib.judging import llm
    from crslib.judging.criteria import read_rubrics
    from crslib.judging.rubrics import judge_runs
    from crslib.judging.study import votes_on
    from crslib.reporting import judge as judge_report

    asked = read_rubrics(rubrics, criteria)
    human = read_parquet(votes, "votes") if votes else None
    folders = [Run(path.resolve()) for path in runs]
    known = votes_on([run.run_id for run in folders], reports / "people") if human is None else human
    first = {name for side in ("left", "right") for name in known[f"{side}_dialogue"]}
    with contextlib.closing(llm.open_judge(model, threads)) as opened, counting("questions") as progress:
        judged = judge_runs(opened, folders, asked, pairs, reports / "judged", first=first, progress=progress)
    report = judge_report.write(judged, human, known)
    for line in report.lines:
        console.print(line, markup=False, soft_wrap=True)
    for change in opened.changes:
        console.print(change, markup=False, soft_wrap=True)
    console.print(f"{report.n_answers} answers in {report.seconds:.0f} s", soft_wrap=True)
    console.print(str(report.path), soft_wrap=True)
    identity = {"judge": opened.name, **opened.identity}
    write_json({**identity, "reliability": report.lines, "figures": report.figures.to_dicts()}, file)


@click.command()
@click.argument("run", required=False, type=RUN)
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
@REPORTS_OF_RUNS
def export(
    run: Path | None, form: str, role: str, redial: Path | None, corpus: Path | None, folder: Path, **given: Any
) -> None:
    """Writes the dialogues of RUN (an id, a tag, latest or a folder) as training data for other programs."""
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
    from crslib.data.corpora.opening import open_corpus
    from crslib.training.corpus import write_dialogues, write_pairs

    n_given = sum(path is not None for path in (run, redial, corpus))
    if (redial and corpus) or (run is None if form == "dpo" else n_given != 1):
        fail(
            "--as trl takes a run's folder, --redial PATH or --corpus FOLDER, --as dpo the folder of `crs prefer` or "
            "`crs imitate`"
        )
    if run and form == "trl":
        return exports.write_trl(Run(run.resolve()), role, folder, parameters)
    read = open_corpus(redial, corpus, purpose="export")
    if run:
        return write_pairs(run, role, folder, parameters, read.origin, read.domain, read.dialogues)
    return write_dialogues(read.dialogues, read.items, role, folder, parameters, read.origin, read.domain)
