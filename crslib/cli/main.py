"""The `crs` command. It reads words, calls the library, and turns a `CrsError` into one line and exit status 1."""

import contextlib
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from crslib import __version__
from crslib.cli.bench import bench
from crslib.cli.parameters import read_assignments, read_conditions, read_grid, read_parameter_file
from crslib.cli.terminal import JSON, PARAMETERS, REPORTS, console, counting, fail, keep, live_table, watching
from crslib.config import ROOT, Parameters, PreferenceParameters, RunParameters, TrainingParameters
from crslib.data import exports
from crslib.errors import CrsError
from crslib.store import Run, registry


class _OneSentence(click.Group):
    """Ends a command that raised `CrsError` with its sentence."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CrsError as error:
            fail(str(error))


@click.group(cls=_OneSentence)
@click.version_option(__version__)
def main() -> None:
    """Reference-free conversational-recommendation simulation: profiles, two local models, evaluation, report."""


main.add_command(bench)


@main.command()
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


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parameter_list() -> str:
    """Every parameter with its default and meaning, for `crs run --help`."""
    lines = [f"{name}={field.default}  {field.description}" for name, field in RunParameters.model_fields.items()]
    return "\b\nParameters, with defaults:\n" + "\n".join(f"  {line}" for line in lines)


@main.command(epilog=_parameter_list())
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


@main.command()
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


@main.command()
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


@main.command("judge")
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
def judge_(
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
    with contextlib.closing(judge), counting("questions") as advance:
        folder = judging_rubrics.folder(judge, talks, reports / "judged")
        with folder.journal() as journal:
            found = judging_rubrics.judge(judge, talks, asked, pairs, journal, advance=advance)
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


@main.command()
@REPORTS
def runs(reports: Path) -> None:
    """Lists the runs, newest last."""
    for row in registry(reports).iter_rows(named=True):
        line = f"{row['run_id']}  {row['status']:<9} {row['started']}  {row['condition']:<12} {row['path']}"
        console.print(line, soft_wrap=True, markup=False)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(exports.FORMS),
    default="dataset",
    show_default=True,
    help="trl: messages for SFT; redial: ReDial's JSON lines; crslab, dialoguekit: their JSON; dataset: Parquet with a "
    "card.",
)
@click.option("--role", type=click.Choice(["user", "recommender"]), default="recommender", help="Who learns, for trl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def export(run: Path, form: str, role: str, folder: Path) -> None:
    """Writes the dialogues of RUN (a run's folder, such as reports/latest) as training data for others."""
    console.print(str(exports.write(Run(run.resolve()), form, role, folder)), soft_wrap=True)


@main.command()
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
    with counting("dialogues") as advance:
        seen = [reading.look(run, wanted, advance=advance) for run in named.values()] if wanted else []
    console.print(str(viewer.write(to, list(named.values()), seen)), soft_wrap=True)


# ── people ──────────────────────────────────────────────────────────────────────────────────────────────────────


@main.group()
def people() -> None:
    """People judge dialogues, blind and in pairs (needs no more than a browser)."""


@people.command("serve")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--pairs", default=20, show_default=True, type=click.IntRange(1), help="Pairs, attention checks aside.")
@click.option(
    "--redial", type=click.Path(path_type=Path), help="ReDial's zip or folder: a real dialogue in every pair."
)
@click.option("--raters", multiple=True, metavar="NAME", help="Who may take part (repeat it); nobody named: everybody.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Another one lets others in: a token is made.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--token", default="", help="Token in the address, for another host; empty: one is drawn.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Which pairs, sides and orders.")
@REPORTS
def people_serve(
    runs: Sequence[Path],
    pairs: int,
    redial: Path | None,
    raters: Sequence[str],
    host: str,
    port: int,
    token: str,
    seed: int,
    reports: Path,
) -> None:
    """A page on which people compare the dialogues of RUNS: run folders, one sweep's folder, or one study's.

    With --redial each stands beside a dialogue of two people (from ReDial's test set), and one run is enough.

    The same command goes on with the same study. Every answer is on disk before the next question shows.
    """
    from crslib.judging.study import find
    from crslib.web import server

    study = find(runs, pairs, seed, reports / "people", redial)
    console.print(f"votes go to {study.path}", soft_wrap=True, markup=False)
    token = token or ("" if server.is_loopback(host) else secrets.token_urlsafe(16))
    with contextlib.suppress(KeyboardInterrupt):
        server.serve(study, host, port, token, raters, lambda at: console.print(at, soft_wrap=True, markup=False))


STUDY = click.argument("study", type=click.Path(path_type=Path))
FORM = click.option(
    "--as",
    "form",
    type=click.Choice(["csv", "jsonl", "potato", "labelstudio"]),
    default="csv",
    show_default=True,
    help="csv, jsonl: tables; potato, labelstudio: files of these platforms.",
)


@people.command("report")
@STUDY
@click.option("--judge", type=click.Path(path_type=Path), help="Parquet of a judge's votes on the same runs.")
def people_report(study: Path, judge: Path | None) -> None:
    """What the votes of STUDY (its folder) say: who wins, how far raters agree; writes report.html there."""
    from crslib.judging.study import Study
    from crslib.reporting import study as reporting_study
    from crslib.store import read_parquet

    opened = Study(study)
    for line in reporting_study.lines(opened.votes()):
        console.print(line, soft_wrap=True, markup=False)
    path = reporting_study.write(opened, read_parquet(judge, "votes") if judge else None)
    console.print(str(path), soft_wrap=True, markup=False)


@people.command("export")
@STUDY
@FORM
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the files.")
def people_export(study: Path, form: str, folder: Path) -> None:
    """Writes the pairs of STUDY, blind, for raters elsewhere; as csv and jsonl also its votes."""
    from crslib.judging import exchange
    from crslib.judging.study import Study

    for path in exchange.write(Study(study), form, folder):
        console.print(str(path), soft_wrap=True, markup=False)


@people.command("import")
@STUDY
@click.argument("votes", type=click.Path(path_type=Path))
@FORM
def people_import(study: Path, votes: Path, form: str) -> None:
    """Adds VOTES given elsewhere on the pairs of STUDY: a file, or potato's output folder. Each counts once."""
    from crslib.judging import exchange
    from crslib.judging.study import Study

    opened = Study(study)
    new = opened.take(exchange.read(opened, form, votes))
    console.print(f"{new} new votes in {study}", soft_wrap=True, markup=False)


# ── data ────────────────────────────────────────────────────────────────────────────────────────────────────────


@main.group()
def data() -> None:
    """Catalogue, ratings and human statistics."""


@data.command()
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data", show_default="data")
def build(folder: Path) -> None:
    """Builds the built-in catalogue and ratings from the two packages that carry them."""
    from crslib.data import builtin

    builtin.build(folder)
    console.print(str(folder), soft_wrap=True)


@data.command("import")
@click.option(
    "--ratings", type=click.Path(path_type=Path), help="CSV or Parquet: user_id, item_id, rating[, rated_at]."
)
@click.option("--items", type=click.Path(path_type=Path), help="CSV or Parquet: item_id, title[, year, genres, …].")
@click.option("--movielens", type=click.Path(path_type=Path), help="A MovieLens zip or folder, instead of both.")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder for the two tables.")
def import_(ratings: Path | None, items: Path | None, movielens: Path | None, folder: Path) -> None:
    """Brings your own ratings: then `crs run -p data=FOLDER`."""
    from crslib.data import imports
    from crslib.data.movielens import import_movielens

    if (ratings is None) == (movielens is None):
        fail("give either --ratings FILE (and --items FILE) or --movielens PATH")
    imported = import_movielens(movielens, folder) if movielens else imports.import_ratings(ratings, items, folder)
    console.print(f"{folder}: {imported}", soft_wrap=True, markup=False)


@data.command()
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def reference(redial: Path, folder: Path) -> None:
    """Counts the statistics of human dialogues that runs are held against (ReDial's test set; numbers only)."""
    from crslib.data.corpora import redial as corpus
    from crslib.metrics.reference import measure, write

    write(measure(corpus.read(redial, "test")), folder)
    console.print(str(folder), soft_wrap=True)


@data.command("acts")
@click.option("--iard", type=click.Path(path_type=Path), required=True, help="IARD's JSON file or its folder.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/acts", show_default="data/acts")
def acts_(iard: Path, folder: Path) -> None:
    """Learns the tagger of dialogue acts from IARD and says how right it is. Then make `crs data reference` again."""
    from crslib.experiments.benchmarks import acts

    console.print(acts.formatted(acts.build(iard, folder)), soft_wrap=True, markup=False)


@data.command("embeddings")
@click.option("--redial", type=click.Path(path_type=Path), required=True, help="ReDial's zip, folder or test .jsonl.")
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/human", show_default="data/human")
def embeddings(redial: Path, folder: Path) -> None:
    """Reads human dialogues with the built-in model and keeps where they lie (ReDial's test set; numbers only)."""
    from crslib.data.corpora import frames
    from crslib.data.corpora import redial as corpus
    from crslib.metrics import embedding
    from crslib.metrics.reference import anonymous

    _, turns = frames(anonymous(corpus.read(redial, "test")))
    with embedding.reader() as reader, counting("texts") as advance:
        embedded = embedding.embed(turns, reader, advance)
    embedding.write(embedding.measure(embedded, embedding.source()), folder)
    console.print(str(folder), soft_wrap=True)


@data.command()
@click.argument("corpus", type=click.Choice(["redial", "inspired", "ccpe"]))
@click.option(
    "--path", type=click.Path(path_type=Path), help="The official file or folder at hand: checked and copied."
)
@click.option("--to", "folder", type=click.Path(path_type=Path), default=ROOT / "data/raw", show_default="data/raw")
def fetch(corpus: str, path: Path | None, folder: Path) -> None:
    """Downloads human dialogues from their authors, checked. Run again, it goes on where it was cut off."""
    from crslib.data.corpora import download

    with counting("bytes") as advance:
        found = download.fetch(corpus, folder, path, advance)
    known = download.CORPORA[corpus]
    console.print(f"{found}\nlicence: {known.licence}\ncite: {known.cite}", markup=False, soft_wrap=True)


# ── training ────────────────────────────────────────────────────────────────────────────────────────────────────


def _options(parameters: type[Parameters]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for every field of `parameters` but the role."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for name, field in reversed(parameters.model_fields.items()):
            if name != "role":
                flag, kind = f"--{name.replace('_', '-')}", type(field.default)
                command = click.option(
                    flag, name, type=kind, default=field.default, show_default=True, help=field.description
                )(command)
        return command

    return decorate


@main.command()
@click.argument("role", type=click.Choice(["user", "recommender", "scripted", "user-target"]))
@_options(TrainingParameters)
def train(role: str, **given: Any) -> None:
    """Trains the adapter of ROLE on ReDial (needs `pip install 'crslib[train]'`). A killed training goes on.

    `scripted` writes both sides, `user-target` knows the target titles: what the paper argues against. The adapter lies
    in TO/ROLE.gguf, its card and losses beside it.
    """
    from crslib.training import commands

    given["to"] = str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""
    parameters = TrainingParameters.parse({"role": role, **given}).located()
    with counting("tokens") as advance:
        figures = commands.train(parameters, advance)
    for kind, before in figures["before"].items():
        console.print(f"{kind:8} {before:.3f} → {figures['after'][kind]:.3f} nats per token on people not trained on")
    console.print(f"{figures['tokens']:,} tokens, {figures['tokens_per_s']:,.0f} a second", soft_wrap=True)
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)


@main.command()
@click.argument("role", type=click.Choice(["user", "recommender"]))
@_options(PreferenceParameters)
def prefer(role: str, **given: Any) -> None:
    """Teaches the adapter of ROLE to prefer its better words: DPO after SFT (needs `pip install 'crslib[train]'`).

    The adapter continues moments of ReDial's training dialogues a few times; rules, and a judge if there is one, say
    which continuation is better. Killed, it goes on. Adapter, card, candidates and pairs lie in TO.
    """
    from crslib.training import commands, preferences

    given["to"] = str(Path(given["to"]).expanduser().resolve()) if given["to"] else ""
    parameters = PreferenceParameters.parse({"role": role, **given}).located()
    with counting("contexts") as advance:
        pairs = commands.pairs(parameters, advance)
    ((_, n, chosen, rejected, *decided),) = preferences.count(pairs).iter_rows()
    why = ", ".join(f"{rule} {times}" for rule, times in zip(preferences.RULES, decided, strict=True) if times)
    console.print(f"{n} pairs of {chosen:.1f} and {rejected:.1f} tokens; decided by {why}", soft_wrap=True)
    with counting("tokens") as advance:
        figures = commands.prefer(parameters, pairs, advance)
    for name, before in figures["before"].items():
        console.print(f"{name:8} {before:.3f} → {figures['after'][name]:.3f} on pairs of dialogues not trained on")
    console.print(str(parameters.folder / f"{role}.gguf"), soft_wrap=True)
