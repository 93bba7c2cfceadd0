"""Commands on runs: compute, sweep, compare, judge, list, export, look, and talk yourself."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from crslib.cli.parameters import read_assignments, read_conditions, read_grid, read_parameter_file
from crslib.cli.terminal import JSON, PARAMETERS, REPORTS, console, counting, fail, keep, live_table, watching
from crslib.config import ROOT, RunParameters
from crslib.data import exports
from crslib.store import Run, registry


def _parameter_list() -> str:
    """Every parameter with its default and meaning, for `crs run --help`."""
    lines = [f"{name}={field.default}  {field.description}" for name, field in RunParameters.model_fields.items()]
    return "\b\nParameters, with defaults:\n" + "\n".join(f"  {line}" for line in lines)


@click.command(epilog=_parameter_list())
@PARAMETERS
@click.option("--params", type=click.Path(path_type=Path), help="YAML or JSON file of parameters; -p wins over it.")
@REPORTS
def run(assignments: Sequence[str], params: Path | None, reports: Path) -> None:
    """Profiles, simulation, evaluation and report of one condition. Run again, it goes on or is found done."""
    from crslib.experiments import pipeline

    given = {**(read_parameter_file(params) if params else {}), **read_assignments(assignments)}
    planned = pipeline.plan(given, reports, console.print)
    if planned.run.info.get("status") == "success":
        console.print(f"run {planned.run_id} has been computed before", soft_wrap=True)
    else:
        with watching(planned.run) as tell:
            pipeline.execute(planned, tell)
    pipeline.point_latest(reports, planned.run.path)
    console.print(str(planned.run.path / "report.html"), soft_wrap=True)


@click.command()
@click.argument("grid", type=click.Path(path_type=Path))
@PARAMETERS
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Conditions at a time.")
@REPORTS
def sweep(grid: Path, assignments: Sequence[str], workers: int, reports: Path) -> None:
    """All combinations of the values in GRID, a YAML file of `name: [value, …]`; -p adds or fixes a parameter."""
    fixed = read_assignments(assignments)
    _swept([{**point, **fixed} for point in read_grid(grid)], workers, reports)


def _swept(points: Sequence[dict[str, Any]], workers: int, reports: Path) -> Path:
    """Runs all conditions and says how each ended; the folder with their comparison. Ends the command if one failed."""
    from crslib.experiments import sweep as sweeping

    if workers > 1:
        points = [{"threads": 1, **point} for point in points]
    planned = sweeping.conditions(points, reports, console.print)
    with live_table() as show:
        folder = sweeping.execute(planned, reports, workers, show)
    failed = [condition for condition in planned if condition.state == "error"]
    for condition in failed:
        info = condition.plan.run.info
        error = info.get("error") or "in use by another process; run the same command again when that has ended"
        console.print(f"\n{condition.plan.run_id} {dict(condition.given)}\n{error}", markup=False, soft_wrap=True)
        console.print(info.get("traceback") or "", markup=False, soft_wrap=True)
    reused = sum(condition.reused for condition in planned)
    console.print(f"{len(planned)} conditions: {reused} found done, {len(failed)} failed")
    console.print(str(folder.path / "report.html"), soft_wrap=True)
    if failed:
        fail(f"{len(failed)} of {len(planned)} conditions failed; mend the cause and run the same command again")
    return folder.path


@click.command()
@click.option(
    "--conditions",
    type=click.Path(path_type=Path),
    default=ROOT / "data/conditions.yaml",
    show_default="data/conditions.yaml",
    help="YAML file of name: {parameter: value, …}; the first is held against the others.",
)
@PARAMETERS
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Conditions at a time.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write condition → metric → figures to FILE.")
@REPORTS
def compare(conditions: Path, assignments: Sequence[str], workers: int, file: Path | None, reports: Path) -> None:
    """Runs named conditions for the same people and says where they differ: independent simulators against the rest."""
    from crslib.experiments import comparison

    points = [{**point, **read_assignments(assignments)} for point in read_conditions(conditions)]
    path = _swept(points, workers, reports)
    found = comparison.read(str(path))
    for line in comparison.verdict(found, comparison.differences(found)):
        console.print(line, markup=False, soft_wrap=True)
    keep(comparison.record(found), file)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", default="smollm2", show_default=True, help="GGUF of the judge; smollm2 is the built-in one.")
@click.option("--endpoint", default="", help="Address of an OpenAI-compatible endpoint instead; key: CRS_JUDGE_KEY.")
@click.option("--endpoint-model", default="", help="Name of the model there.")
@click.option("--pairs", default=40, show_default=True, type=click.IntRange(1), help="People whose dialogues it reads.")
@click.option(
    "--criterion", "criteria", multiple=True, help="Ask by this one (repeat it); none: by all of the rubrics."
)
@click.option(
    "--rubrics",
    type=click.Path(path_type=Path),
    default=ROOT / "data/rubrics.yaml",
    show_default="data/rubrics.yaml",
    help="YAML file of criteria.",
)
@click.option("--votes", type=click.Path(path_type=Path), help="Parquet of people's votes on the same runs.")
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
    """A model judges the dialogues of RUNS (folders), the first against the others; and how far it can be believed.

    It sees each pair in both orders, gives marks, and must tell dialogues from their spoilt copies. Killed, it goes on.
    """
    from crslib.engines import llama
    from crslib.judging import rubrics as judging_rubrics
    from crslib.judging import verdicts
    from crslib.judging.llm import EndpointJudge, LocalJudge
    from crslib.reporting import html
    from crslib.store import read_parquet

    if bool(endpoint) != bool(endpoint_model):
        fail("an endpoint needs both --endpoint URL and --endpoint-model NAME")
    asked = judging_rubrics.read_rubrics(rubrics, criteria)
    people = read_parquet(votes, "votes") if votes else None
    talks = [judging_rubrics.transcripts(Run(run.resolve())) for run in runs]
    here = not endpoint
    judge = LocalJudge(llama.model_path(model), threads) if here else EndpointJudge(endpoint, endpoint_model)
    with contextlib.closing(judge), counting("questions") as progress:
        folder = judging_rubrics.folder(judge, talks, reports / "judged")
        with folder.journal() as journal:
            found = judging_rubrics.judge(judge, talks, asked, pairs, journal, progress=progress)
    for name, table in found.items():
        folder.write(name, table)
    figures = verdicts.figures(**found, people=people)
    lines = verdicts.trust(figures)
    title = f"{judge.name} judges {' and '.join(next(iter(talk.values())).condition for talk in talks)}"
    html.write_judged(folder.path / "report.html", title, lines, figures, verdicts.DEFINITIONS)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    seconds = sum(table["seconds"].sum() for table in found.values())
    console.print(f"{sum(map(len, found.values()))} answers in {seconds:.0f} s", soft_wrap=True)
    console.print(str(folder.path / "report.html"), soft_wrap=True)
    keep({"judge": judge.name, **dict(judge.identity), "worth": lines, "figures": figures.to_dicts()}, file)


@click.command()
@REPORTS
def runs(reports: Path) -> None:
    """Lists the runs, newest last."""
    for row in registry(reports).iter_rows(named=True):
        line = f"{row['run_id']}  {row['status']:<9} {row['started']}  {row['condition']:<12} {row['path']}"
        console.print(line, soft_wrap=True, markup=False)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(exports.FORMS),
    default="dataset",
    show_default=True,
    help="trl: messages for SFT; redial: ReDial's JSON lines; dialoguekit: its JSON; dataset: Parquet with a card.",
)
@click.option("--role", type=click.Choice(["user", "recommender"]), default="recommender", help="Who learns, for trl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def export(run: Path, form: str, role: str, folder: Path) -> None:
    """Writes the dialogues of RUN (a run's folder, such as reports/latest) as training data for others."""
    console.print(str(exports.write(Run(run.resolve()), form, role, folder)), soft_wrap=True)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--inside", default=0, show_default=True, type=click.IntRange(0), help="Dialogues to read again: seconds each."
)
@click.option("--dialogue", "chosen", multiple=True, metavar="ID", help="Read this one again (repeat it).")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/look.html",
    show_default="reports/look.html",
    help="The page: one file that opens by double-click, offline.",
)
def look(runs: Sequence[Path], inside: int, chosen: Sequence[str], to: Path) -> None:
    """Makes a page on which the dialogues of RUNS (folders) are looked at: filtered, ordered, two runs side by side.

    Dialogues that are read again, by their run's own models, also show how likely each word was to who said it, and
    what else the recommender could have named.
    """
    from crslib import store
    from crslib.simulation import replay as reading
    from crslib.web import viewer

    named = store.name_runs([Run(path.resolve()) for path in runs])
    ids = [table["dialogue_id"].sort().to_list() for table in (run.read("dialogues") for run in named.values())]
    if unknown := set(chosen).difference(*ids):
        fail(f"no run has a dialogue {min(unknown)!r}; the first one of {runs[0]} is {ids[0][0]}")
    wanted = [*ids[0][:inside], *chosen]
    with counting("dialogues") as progress:
        seen = [reading.look(run, wanted, progress=progress) for run in named.values()] if wanted else []
    console.print(str(viewer.write(to, list(named.values()), seen)), soft_wrap=True)


@click.command()
@click.option(
    "--as", "role", type=click.Choice(["user", "recommender"]), default="user", show_default=True, help="You."
)
@click.option("--profile", default="", help="Who the simulated user is; a profile_id. Else the seed chooses.")
@PARAMETERS
@REPORTS
def chat(role: str, profile: str, assignments: Sequence[str], reports: Path) -> None:
    """Talk with a simulator: as the user with the recommender, or as the recommender with a simulated user.

    An empty line or Ctrl-C ends it. Titles are linked as you type them; the dialogue is kept below REPORTS/chats.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  lines can be edited, and Ctrl-C is heard while `input` waits

    from crslib.dialogue.utterances import plain
    from crslib.simulation import conversation

    other = "recommender" if role == "user" else "user"
    parameters = RunParameters.parse(read_assignments(assignments)).located()
    run = conversation.new_run(reports.resolve())

    def ask() -> str | None:
        busy.stop()
        try:
            return input("you: ").strip() or None
        except (EOFError, KeyboardInterrupt):
            console.print()
            return None
        finally:
            busy.start()

    def tell(who: str, text: str) -> None:
        if who == other:
            said = plain(text) or ("(leaves)" if who == "user" else "(says nothing)")
            console.print(f"{who}: {said}", markup=False, soft_wrap=True)

    def begin() -> None:
        console.print(f"You are the {role}. An empty line ends the talk.", soft_wrap=True)
        busy.update(f"the {other} is thinking …")

    with console.status("people are read and models opened …") as busy:
        ending = conversation.converse(role, parameters, run, ask, tell, profile, begin)
    console.print(ending.why, soft_wrap=True)
    if other == "user":
        held = {"summary": ending.summary, "attributes": ending.attributes, "notes": " ".join(ending.notes)}
        for name, text in held.items():
            if text:
                console.print(f"its {name}: {text}", markup=False, soft_wrap=True)
    console.print(str(run.path), soft_wrap=True)
