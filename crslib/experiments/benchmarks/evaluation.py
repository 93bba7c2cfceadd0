"""What the evaluation of a large run costs: seconds and memory of `03_evaluate` for copies of a run's dialogues."""

import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl

from crslib.config import EvaluationParameters
from crslib.data.source import Source
from crslib.dialogue import domain
from crslib.errors import CrsError
from crslib.experiments.kernels import execute_notebook
from crslib.files import Progress, no_progress
from crslib.store import Run

_OWN_WORDS = 2  # words added to a copy's turns, so that it is not the same text again


def measure(
    run: Run, counts: Sequence[int], parameters: EvaluationParameters, progress: Progress = no_progress
) -> pl.DataFrame:
    """Evaluates as many copies of the dialogues of `run` as `counts` say, and writes their reports.

    Columns `dialogues` (a count, rounded up to whole copies of the run), `seconds`, `ms_per_dialogue`, `peak_rss_mb` of
    the kernel, the largest so far, and `disk_mb`, of the tables that are read. Raises `CrsError` for a run without
    prompts or profiles, and as the notebook does.
    """
    if missing := [name for name in ("profiles", "holdouts", "items", "ratings", "prompts") if not run.has(name)]:
        raise CrsError(f"{run.path} has no table {missing[0]}; give the folder of a run that `crs run` made")
    rows: list[tuple[int, float, float, float, float]] = []
    for done, count in enumerate(counts):
        progress(done, len(counts))
        with tempfile.TemporaryDirectory(prefix="crs-") as folder:
            copies = replicate(run, count, Run(Path(folder)))
            disk = sum(path.stat().st_size for path in Path(folder).iterdir()) / 2**20
            started = perf_counter()
            execute_notebook("03_evaluate", Path(folder), {"run_dir": folder, **parameters.model_dump()})
            seconds = perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        rows.append((copies, seconds, 1000 * seconds / copies, peak, disk))
    progress(len(counts), len(counts))
    columns = ("dialogues", "seconds", "ms_per_dialogue", "peak_rss_mb", "disk_mb")
    return pl.DataFrame(rows, schema=columns, orient="row")


def replicate(run: Run, n: int, to: Run) -> int:
    """Writes a run with `n` dialogues or a few more: copies of those of `run`, of the same people, each turn with two
    more words of the run, so that texts are as different as those of a large run. Returns their number."""
    dialogues, turns, prompts = (run.read(name) for name in ("dialogues", "turns", "prompts"))
    copies = -(-n // len(dialogues))
    vocabulary = turns.select(pl.col("text").str.extract_all(r"[a-z]{3,}").explode()).to_series().unique().sort()
    vocabulary = vocabulary.drop_nulls()
    copy_of = pl.DataFrame({"copy": range(copies)}).select(pl.format(".{}", "copy").alias("copy"))

    def copied(table: pl.DataFrame) -> pl.DataFrame:
        named = table.join(copy_of, how="cross").with_columns(pl.concat_str("dialogue_id", "copy").alias("dialogue_id"))
        return named.drop("copy").sort("dialogue_id", *(name for name in ("turn",) if name in table.columns))

    talked = copied(turns)
    drawn = np.random.default_rng(0).integers(0, len(vocabulary), size=(_OWN_WORDS, len(talked)))
    added = [vocabulary[words].alias(f"word{number}") for number, words in enumerate(drawn)]
    spoken = pl.when(pl.col("text") == "").then("text").otherwise(pl.concat_str("text", *added, separator=" "))
    to.update(**{**run.info, "run_id": f"{copies} copies"})
    for name in ("profiles", "holdouts", "items", "ratings"):
        to.write(name, run.read(name))
    to.write("dialogues", copied(dialogues))
    to.write("turns", talked.with_columns(spoken.alias("text")))
    to.write("prompts", copied(prompts))
    domain.of_run(run).write(to.path)
    Source.read(run.path).write(to.path)
    return copies * len(dialogues)


def lines(costs: pl.DataFrame) -> list[str]:
    """The rows of `measure` as text."""
    return [
        f"{row['dialogues']:6} dialogues  {row['seconds']:6.1f} s  {row['ms_per_dialogue']:6.2f} ms each  "
        f"{row['peak_rss_mb']:6.0f} MiB of memory  {row['disk_mb']:6.1f} MiB of tables"
        for row in costs.iter_rows(named=True)
    ]
