"""`crs bench`: commands that measure this installation and its models, print the figures and can write them as JSON."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.parameters import read_assignments
from crslib.cli.scale import bench_evaluate, bench_scale, bench_startup
from crslib.cli.terminal import JSON, PARAMETERS, REPORTS_OF_RUNS, RUN, console, counting, fail, write_json
from crslib.config import ROOT, SimulationParameters
from crslib.files import writing
from crslib.store import Run


@click.group()
def bench() -> None:
    """Measures this installation and its models: speed, adapters, recommendations, controllability, usefulness."""


@bench.command("engine")
@click.option("--dialogues", default=128, show_default=True, type=click.IntRange(1), help="Dialogues of the engine.")
@click.option("--plain", default=16, show_default=True, type=click.IntRange(1), help="Dialogues of the plain loop.")
@PARAMETERS
@JSON
def bench_engine(dialogues: int, plain: int, assignments: Sequence[str], file: Path | None) -> None:
    """Dialogues per minute, compared with a plain loop over two `Llama` objects and with llama.cpp alone.

    The plain loop cannot restrict decoding to real titles. So the engine decodes freely too, unless -p grounding=prior
    is given. Takes some twelve minutes on two cores. With few dialogues the idle rows at the end weigh more.
    """
    from crslib.experiments.benchmarks import engine

    parameters = SimulationParameters.parse({"grounding": "off", **read_assignments(assignments)})
    with counting("dialogues") as progress:
        figures = engine.measure(parameters, dialogues, plain, progress)
    console.print("\n".join(engine.lines(figures)), markup=False, soft_wrap=True)
    write_json(figures, file)


@bench.command("bounds")
@click.argument("run", type=RUN)
@PARAMETERS
@JSON
@REPORTS_OF_RUNS
def bench_bounds(run: Path, assignments: Sequence[str], file: Path | None) -> None:
    """What ideas for a faster engine could gain at most, by the words of RUN and by shapes of computation.

    A minute on a quiet machine; a busy one blurs the gains.
    """
    from crslib.experiments.benchmarks import bounds

    with counting("shapes") as progress:
        found = bounds.measure(Run(run.resolve()), SimulationParameters.parse(read_assignments(assignments)), progress)
    console.print("\n".join(bounds.lines(found)), markup=False, soft_wrap=True)
    write_json(found.to_dicts(), file)


@bench.command("scaling")
@click.argument("counts", nargs=-1, type=click.IntRange(1))
@click.option("--models", is_flag=True, help="With the models; -p max_turns=1 shortens it.")
@PARAMETERS
@JSON
def bench_scaling(counts: Sequence[int], models: bool, assignments: Sequence[str], file: Path | None) -> None:
    """Cost per dialogue of everything except the models, for COUNTS dialogues (default: 100 1000 5000)."""
    from crslib.experiments.benchmarks import engine

    parameters = SimulationParameters.parse(read_assignments(assignments))
    with counting("dialogues") as progress:
        costs = engine.scaling(parameters, counts or (100, 1000, 5000), models, progress)
    for row in costs.iter_rows(named=True):
        line = f"{row['dialogues']:6} dialogues  {row['ms_per_dialogue']:6.2f} ms each  {row['peak_rss_mb']:6.0f} MiB"
        console.print(line, soft_wrap=True)
    write_json(costs.to_dicts(), file)


@bench.command("import")
@click.option("--ratings", default=1_000_000, show_default=True, type=click.IntRange(160), help="Ratings made up.")
@click.option("--profiles", is_flag=True, help="Also builds 64 profiles from what was imported.")
@click.option("--text", is_flag=True, help="Ids with a letter before them, which are read as text.")
@JSON
def bench_import(ratings: int, profiles: bool, text: bool, file: Path | None) -> None:
    """Time and memory of an import of made-up ratings, beside a plain GROUP BY and a sorted copy by DuckDB.

    The file lies in the temporary folder (TMPDIR): 32 million ratings need 4 GB there and some minutes.
    """
    from crslib.experiments.benchmarks import imports

    figures = imports.measure(ratings, profiles, "x" if text else "")
    console.print("\n".join(imports.lines(figures)), markup=False, soft_wrap=True)
    write_json(figures, file)


CORPUS = click.option("--corpus", type=click.Choice(["redial"]), default="redial", show_default=True)
PATH = click.option(
    "--path",
    type=click.Path(path_type=Path),
    required=True,
    help="The corpus's official zip, or a folder of its files.",
)
TABLES = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=ROOT / "data",
    show_default="data",
    help="Folder of items.parquet.",
)


@bench.command("recommender")
@CORPUS
@PATH
@click.option("--no-model", is_flag=True, help="Only popularity and item prior: one minute instead of fifteen.")
@click.option("--dialogues", default=0, show_default=True, type=click.IntRange(0), help="Test dialogues; 0 is all.")
@click.option(
    "--fit",
    "labelled",
    type=click.Path(path_type=Path),
    help="IARD's file or folder: instead fits title_model, title_prior, title_base to its dialogues that PATH lacks.",
)
@TABLES
@JSON
def bench_recommender(
    corpus: str, path: Path, no_model: bool, dialogues: int, labelled: Path | None, data: Path, file: Path | None
) -> None:
    """How well the next item that a human recommender names is ranked: popularity, item prior, language model, both.

    Both are joined by the mixture that chooses titles in a simulation (-p title_model, title_prior, title_base).
    """
    from crslib.data.tables import load
    from crslib.engines.loading import open_engines
    from crslib.experiments.benchmarks import mixture, recommender

    if no_model and labelled:
        fail("the mixture cannot be fitted without the model; leave --no-model out")
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(counting("turns"))
        if no_model:
            reader = None
        else:
            _, reader = stack.enter_context(open_engines(SimulationParameters(n_ctx=2048, width=1)))
        if labelled and reader:
            fitted = mixture.measure(path, labelled, *load(data), reader, progress)
            console.print(mixture.formatted(fitted), markup=False, soft_wrap=True)
            write_json(fitted.to_dicts(), file)
        else:
            ranks = recommender.measure(path, reader, dialogues, progress=progress)
            console.print(recommender.formatted(ranks), markup=False, soft_wrap=True)
            write_json(recommender.record(ranks), file)


@bench.command("linking")
@CORPUS
@PATH
@TABLES
@JSON
def bench_linking(corpus: str, path: Path, data: Path, file: Path | None) -> None:
    """How well titles typed without brackets are linked: to the corpus's own items and to those of DATA."""
    from crslib.data.catalog import Catalog
    from crslib.data.corpora import redial
    from crslib.data.tables import domain_of, load
    from crslib.experiments.benchmarks import linking

    test = redial.read(path, "test")
    own = linking.corpus_items(redial.movies(path), redial.read(path, "train"))
    catalogs = {
        "own": Catalog(own, redial.domain()),
        "data": Catalog(load(data)[0], domain_of(data)),
    }
    scores = {name: linking.measure(test, catalog) for name, catalog in catalogs.items()}
    for name, frame in scores.items():
        title = {"own": f"the {own.height} items of {corpus}", "data": f"the items of {data}"}[name]
        console.print(f"{title}\n{linking.formatted(frame)}\n", markup=False, soft_wrap=True)
    write_json({name: frame.to_dicts() for name, frame in scores.items()}, file)


@bench.command("adapters")
@PATH
@click.option(
    "--adapter",
    "adapters",
    nargs=3,
    multiple=True,
    metavar="ROLE NAME FILE",
    help="An adapter (GGUF); repeat it, in the order of the table. Default: those of data/adapters.",
)
@click.option("--dialogues", default=0, show_default=True, type=click.IntRange(0), help="Test dialogues; 0 is all.")
@click.option(
    "--runtimes",
    default=50,
    show_default=True,
    type=click.IntRange(1),
    help="How many of these are also read in llama.cpp and transformers.",
)
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["notes", "summary and attributes", "facts", "style"]),
    help="A part that the adapters were trained without (crs train --without); measures them in that view only.",
)
@JSON
def bench_adapters(
    path: Path,
    adapters: Sequence[tuple[str, str, str]],
    dialogues: int,
    runtimes: int,
    without: Sequence[str],
    file: Path | None,
) -> None:
    """Cross-entropy of adapters on ReDial's test dialogues, by torch and by llama.cpp (needs the extra `train`)."""
    from crslib.experiments.benchmarks import adapters as measuring
    from crslib.training.examples import ROLES

    shipped = [(role, "shipped", str(ROOT / f"data/adapters/{role}.gguf")) for role in ROLES]
    given = [(role, name, Path(of)) for role, name, of in adapters or shipped]
    if unknown := [role for role, *_ in given if role not in ROLES]:
        fail(f"unknown role {unknown[0]!r}; choose one of {', '.join(ROLES)}")
    with counting("dialogues") as progress:
        losses = measuring.measure(path, given, dialogues, runtimes, without=without, progress=progress)
    console.print(measuring.formatted(losses), markup=False, soft_wrap=True)
    write_json(losses.to_dicts(), file)


@bench.command("training")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@JSON
def bench_training(device: str, file: Path | None) -> None:
    """Training speed in tokens per second, by precision (needs the extra `train`)."""
    from crslib.experiments.benchmarks import training

    with counting("steps") as progress:
        speeds = training.measure(device, progress)
    for precision, rate in speeds.iter_rows():
        console.print(f"{precision:9} {rate:8,.0f} tokens/s")
    write_json(speeds.to_dicts(), file)


@bench.command("notes")
@PATH
@click.option("--moments", default=50, show_default=True, type=click.IntRange(1), help="Moments per kind of note.")
@PARAMETERS
@JSON
def bench_notes(path: Path, moments: int, assignments: Sequence[str], file: Path | None) -> None:
    """Whether the simulated user answers in agreement with its private notes (-p user_adapter=FILE: another user).

    -p resample=N: most draws of an answer that contradicts them.
    """
    from crslib.experiments.benchmarks import notes

    parameters = SimulationParameters.parse({"n_ctx": 1024, **read_assignments(assignments)})
    with counting("moments") as progress:
        shares = notes.measure(path, parameters, moments, progress)
    console.print(notes.formatted(shares), markup=False, soft_wrap=True)
    write_json(shares.to_dicts(), file)


@bench.command("twins")
@click.option("--profiles", default=48, show_default=True, type=click.IntRange(2), help="Profiles that get twins.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/twins",
    show_default="reports/twins",
    help="Folder for the dialogues; a call that was killed continues there.",
)
@PARAMETERS
@JSON
def bench_twins(profiles: int, folder: Path, assignments: Sequence[str], file: Path | None) -> None:
    """Whether a changed wish, or another loved item, changes the dialogue in that respect and in little else.

    A twin differs from its profile in one thing and has the same seeds. The placebo, the same profile with another
    seed, shows how much dialogues differ anyway. The recommender opens, so that the seed cannot change who does.
    """
    from crslib.data.tables import domain_of
    from crslib.experiments.benchmarks import twins

    parameters = SimulationParameters.parse({"opener": "recommender", **read_assignments(assignments)})
    with counting("dialogues") as progress:
        effects = twins.measure(parameters, profiles, folder, progress)
    console.print(twins.formatted(effects, domain_of(ROOT / "data")), markup=False, soft_wrap=True)
    write_json(effects.to_dicts(), file)


@bench.command("server")
@click.option("--dialogues", default=64, show_default=True, type=click.IntRange(1), help="Dialogues, twice.")
@click.option("--pause", default=0.1, show_default=True, help="Seconds that the server takes for an answer.")
@PARAMETERS
@JSON
def bench_server(dialogues: int, pause: float, assignments: Sequence[str], file: Path | None) -> None:
    """Dialogues and tokens through a server, with one request at a time and with `max_concurrency`.

    The server is that of -p user_model=openai:MODEL@URL and -p recommender_model=…, else one that only pauses.
    """
    from crslib.experiments.benchmarks import server

    parameters = SimulationParameters.parse({"resample": 1, **read_assignments(assignments)})
    with counting("dialogues") as progress:
        figures = server.measure(parameters, dialogues, pause, progress)
    console.print("\n".join(server.lines(figures, dialogues)), markup=False, soft_wrap=True)
    write_json(figures, file)


@bench.command("rating")
@click.option("--votes", default=3300, show_default=True, type=click.IntRange(0), help="Votes that the study has.")
@click.option("--clients", default=200, show_default=True, type=click.IntRange(1), help="Raters at the same time.")
@click.option("--requests", default=4000, show_default=True, type=click.IntRange(1), help="Requests of all of them.")
@click.option("--pause", default=0.0, show_default=True, type=click.FloatRange(0), help="Seconds before an answer.")
@JSON
def bench_rating(votes: int, clients: int, requests: int, pause: float, file: Path | None) -> None:
    """How long the rating page takes to answer when many people vote at the same time."""
    from crslib.experiments.benchmarks import rating

    with counting("votes and requests") as progress:
        figures = rating.measure(votes, clients, requests, progress, pause=pause)
    console.print("\n".join(rating.lines(figures)), soft_wrap=True)
    write_json(figures, file)


@bench.command("prompts")
@click.option("--profiles", default=16, show_default=True, type=click.IntRange(1), help="Profiles that talk.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/prompts",
    show_default="reports/prompts",
    help="Folder for the dialogues; a call that was killed continues there.",
)
@PARAMETERS
@JSON
def bench_prompts(profiles: int, folder: Path, assignments: Sequence[str], file: Path | None) -> None:
    """What instruction files change in models without adapters: turns in role, titles, words, endings.

    The same profiles talk twice: models told what to do, and told nothing but the messages of the trained format.
    """
    from crslib.experiments.benchmarks import prompts

    parameters = SimulationParameters.parse({"n_ctx": 2048, "max_turns": 12, **read_assignments(assignments)})
    with counting("dialogues") as progress:
        figures, failed = prompts.measure(parameters, profiles, folder, progress)
    console.print(prompts.formatted(figures), markup=False, soft_wrap=True)
    if failed:
        console.print(f"{failed} dialogues failed and are left out; the reasons are in failures.parquet.")
    write_json(figures.to_dicts(), file)


@bench.command("usefulness")
@PATH
@click.argument("runs", nargs=-1, type=RUN)
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(1), default=(50, 100, 200), show_default=True,
    help="Training dialogues; can be repeated.",
)  # fmt: skip
@click.option("--dialogues", default=100, show_default=True, type=click.IntRange(0), help="Test dialogues; 0 is all.")
@click.option("--films", default=500, show_default=True, type=click.IntRange(0), help="Films to rank; 0 is all.")
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/usefulness",
    show_default="reports/usefulness",
    help="Folder for adapters and the journal.",
)
@click.option("--threads", default=0, show_default=True, type=click.IntRange(0), help="CPU threads; 0 is all.")
@click.option("--chart", type=click.Path(path_type=Path), help="Draw the learning curves into FILE (SVG).")
@REPORTS_OF_RUNS
@JSON
def bench_usefulness(
    path: Path, runs: Sequence[Path], sizes: Sequence[int], dialogues: int, films: int, to: Path, threads: int,
    chart: Path | None, file: Path | None,
) -> None:  # fmt: skip
    """What a recommender learns from dialogues of RUNS (ids, tags, folders, curated sets), and of as many human ones.

    For every source and size a new adapter is trained and tested on ReDial's test dialogues. A call that was killed
    continues. The first run is compared with each other source. Needs the extra `train`.
    """
    from crslib.experiments.benchmarks import usefulness
    from crslib.reporting import charts

    with counting("dialogues") as progress:
        points, differences = usefulness.measure(
            path, [run.resolve() for run in runs], sizes, to, n_test=dialogues, n_films=films, threads=threads,
            progress=progress,
        )  # fmt: skip
    console.print(usefulness.formatted(points, differences), markup=False, soft_wrap=True)
    if chart is not None:
        with writing(chart) as temporary:
            temporary.write_text(charts.svg(charts.usefulness(points.filter(metric=usefulness.ALL))), encoding="utf-8")
    write_json({"points": points.to_dicts(), "differences": differences.to_dicts()}, file)


for command in (bench_scale, bench_evaluate, bench_startup):
    bench.add_command(command)
