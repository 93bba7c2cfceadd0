"""`crs curate`: dialogues of runs as one set of training data."""

from collections.abc import Sequence
from pathlib import Path

import click

from crslib.cli.terminal import REPORTS_OF_RUNS, RUN, console
from crslib.config import resolve
from crslib.store import Run

_SHARE = click.FloatRange(0, 1)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=RUN)
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), help="Folder of the set.")
@click.option("--n", default=0, show_default=True, type=click.IntRange(0), help="Dialogues to keep at most; 0 is all.")
@click.option("--titles", default=1.0, show_default=True, type=_SHARE, help="Least share of titles that exist.")
@click.option("--reactions", default=0.8, show_default=True, type=_SHARE, help="Least share that agrees with notes.")
@click.option("--contradictions", default=0.0, show_default=True, type=_SHARE, help="Largest share of statements.")
@click.option(
    "--similarity",
    default=0.8,
    show_default=True,
    type=click.FloatRange(0.1, 1),
    help="Jaccard index of words in a row from which two dialogues are near-duplicates.",
)
@click.option(
    "--held-out",
    default=0.1,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of persons in the test split.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of choice and split.")
@click.option("--human", default="data/human", show_default=True, help="Statistics of human dialogues, for lengths.")
@REPORTS_OF_RUNS
def curate(
    runs: Sequence[Path],
    folder: Path,
    n: int,
    titles: float,
    reactions: float,
    contradictions: float,
    similarity: float,
    held_out: float,
    seed: int,
    human: str,
) -> None:
    """Chooses dialogues of RUNS (ids, tags or folders) as training data: gates, near-duplicates, a balanced choice.

    Prints how many are left after each step. The set is a folder that `crs export` and `crs look` take; its
    manifest.parquet says of every dialogue why it stayed or went.
    """
    from crslib.experiments import curation
    from crslib.metrics import reference

    opened = [Run(path.resolve()) for path in runs]
    pool = curation.pooled(opened)
    shares = {"titles": titles, "reactions": reactions, "contradictions": contradictions}
    wanted = curation.gates(reference.read(resolve(human)).facts, **shares)
    manifest = curation.curate(pool, wanted, n=n, similarity=similarity, held_out=held_out, seed=seed)
    steps = curation.funnel(manifest, wanted)
    settings = {"n": n, **shares, "similarity": similarity, "held_out": held_out, "seed": seed}
    curation.write(pool, manifest, steps, opened, settings, folder)
    for step, left, gone in steps.iter_rows():
        console.print(f"{left:7} left after {step}" + (f" (−{gone})" if gone else ""), markup=False)
    console.print(str(folder), soft_wrap=True, markup=False)
