"""`crs bench`: commands that measure this installation and its models, print what they found and keep it as JSON."""

from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.parameters import read_assignments
from crslib.cli.terminal import JSON, PARAMETERS, console, counting, fail, write_json
from crslib.config import ROOT, SimulationParameters
from crslib.store import writing


@click.group()
def bench() -> None:
    """Measures this installation and its models: speed, adapters, foresight of the recommender."""


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
@click.option(
    "--no-model", is_flag=True, help="Popularity and item prior only: a minute instead of a quarter of an hour."
)
@JSON
def bench_recommender(corpus: str, path: Path, no_model: bool, file: Path | None) -> None:
    """How well the next film a human recommender names is foreseen: popularity, item prior, language model, both."""
    from crslib.engines.loading import open_engines
    from crslib.experiments.benchmarks import recommender

    with counting("turns") as progress:
        if no_model:
            found = recommender.measure(path, progress=progress)
        else:
            with open_engines(SimulationParameters(n_ctx=2048, width=1)) as (_, reader):
                found = recommender.measure(path, reader, progress=progress)
    console.print(recommender.formatted(found), markup=False, soft_wrap=True)
    write_json(recommender.record(found), file)


@bench.command("linking")
@CORPUS
@PATH
@TABLES
@JSON
def bench_linking(corpus: str, path: Path, data: Path, file: Path | None) -> None:
    """How well titles typed without brackets are found: over the corpus's own films and over those of DATA."""
    from crslib.data.catalog import Catalog
    from crslib.data.corpora import redial
    from crslib.data.tables import load
    from crslib.experiments.benchmarks import linking

    test = redial.read(path, "test")
    own = linking.corpus_items(redial.movies(path), redial.read(path, "train"))
    found = {name: linking.measure(test, Catalog(items)) for name, items in (("own", own), ("data", load(data)[0]))}
    for name, frame in found.items():
        title = {"own": f"the {own.height} films of {corpus}", "data": f"the films of {data}"}[name]
        console.print(f"{title}\n{linking.formatted(frame)}\n", markup=False, soft_wrap=True)
    write_json({name: frame.to_dicts() for name, frame in found.items()}, file)


@bench.command("adapters")
@PATH
@click.option(
    "--adapter",
    "adapters",
    nargs=3,
    multiple=True,
    metavar="ROLE NAME FILE",
    help="An adapter (GGUF), in the order of the table; without any those of data/adapters.",
)
@click.option("--dialogues", default=0, show_default=True, type=click.IntRange(0), help="Test dialogues; 0 is all.")
@click.option("--runtimes", default=50, show_default=True, type=click.IntRange(1), help="Of them, in llama.cpp too.")
@click.option(
    "--without",
    default="",
    type=click.Choice(["", "notes", "summary and attributes"]),
    help="The adapters were trained without it (crs train --without): only their rows, in that view.",
)
@JSON
def bench_adapters(
    path: Path,
    adapters: Sequence[tuple[str, str, str]],
    dialogues: int,
    runtimes: int,
    without: str,
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
        found = measuring.measure(path, given, dialogues, runtimes, without=without, progress=progress)
    console.print(measuring.formatted(found), markup=False, soft_wrap=True)
    write_json(found.to_dicts(), file)


@bench.command("training")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@JSON
def bench_training(device: str, file: Path | None) -> None:
    """Training speed in tokens per second, by precision (needs the extra `train`)."""
    from crslib.experiments.benchmarks import training

    with counting("steps") as progress:
        found = training.measure(device, progress)
    for precision, rate in found.iter_rows():
        console.print(f"{precision:9} {rate:8,.0f} tokens/s")
    write_json(found.to_dicts(), file)


@bench.command("notes")
@PATH
@click.option("--moments", default=50, show_default=True, type=click.IntRange(1), help="Of each kind of note.")
@click.option("--draws", default=4, show_default=True, type=click.IntRange(1), help="Answers at most, when resampled.")
@PARAMETERS
@JSON
def bench_notes(path: Path, moments: int, draws: int, assignments: Sequence[str], file: Path | None) -> None:
    """Whether the simulated user answers as its private notes have it (-p user_adapter=FILE for another user)."""
    from crslib.experiments.benchmarks import notes

    parameters = SimulationParameters.parse({"n_ctx": 1024, **read_assignments(assignments)})
    with counting("moments") as progress:
        found = notes.measure(path, parameters, moments, draws, progress)
    console.print(notes.formatted(found), markup=False, soft_wrap=True)
    write_json(found.to_dicts(), file)


@bench.command("twins")
@click.option("--people", default=48, show_default=True, type=click.IntRange(2), help="Who get twins.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=ROOT / "reports/twins",
    show_default="reports/twins",
    help="Folder for the dialogues; a killed call goes on there.",
)
@PARAMETERS
@JSON
def bench_twins(people: int, folder: Path, assignments: Sequence[str], file: Path | None) -> None:
    """Whether a change of one wish or one loved film changes the dialogue in that, and in little else.

    Twins have the same seeds as the people they are made from; what another seed changes stands beside. The recommender
    opens, unless told otherwise (with -p opener=mixed another seed may also mean that the other one opens).
    """
    from crslib.experiments.benchmarks import twins

    parameters = SimulationParameters.parse({"opener": "recommender", **read_assignments(assignments)})
    with counting("dialogues") as progress:
        found = twins.measure(parameters, people, folder, progress)
    console.print(twins.formatted(found), markup=False, soft_wrap=True)
    write_json(found.to_dicts(), file)


@bench.command("usefulness")
@PATH
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(1), default=(50, 100, 200), show_default=True,
    help="Dialogues to learn from; give it several times.",
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
@JSON
def bench_usefulness(
    path: Path, runs: Sequence[Path], sizes: Sequence[int], dialogues: int, films: int, to: Path, threads: int,
    chart: Path | None, file: Path | None,
) -> None:  # fmt: skip
    """What the dialogues of RUNS (folders) teach a recommender, against as many human ones (needs the extra `train`).

    For every source and size a new adapter is trained and tried on ReDial's test dialogues. Killed, it goes on; a point
    that was measured is not measured again. The first run is held against the other sources.
    """
    from crslib.experiments.benchmarks import usefulness
    from crslib.reporting import charts

    with counting("dialogues") as progress:
        points, differed = usefulness.measure(
            path, [run.resolve() for run in runs], sizes, to, n_test=dialogues, n_films=films, threads=threads,
            progress=progress,
        )  # fmt: skip
    console.print(usefulness.formatted(points, differed), markup=False, soft_wrap=True)
    if chart is not None:
        with writing(chart) as temporary:
            temporary.write_text(charts.svg(charts.usefulness(points.filter(metric=usefulness.ALL))), encoding="utf-8")
    write_json({"points": points.to_dicts(), "differences": differed.to_dicts()}, file)
