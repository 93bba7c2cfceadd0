"""Whether a simulated user's answers agree with its private notes, with every kind of note equally often.

In ReDial nearly all notes are positive, so a simulation hardly reveals a user that agrees with everything. Here moments
of human test dialogues in which one item was named for the first time get a forced note of each kind, and patterns read
the user's answers (`dialogue.reactions.reaction`).
"""

from pathlib import Path

import polars as pl

from crslib import stats
from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.data.corpora import redial
from crslib.dialogue.utterances import USER
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines.loading import open_engines
from crslib.files import Progress, no_progress
from crslib.reporting import text
from crslib.simulation.dialogues import style_files
from crslib.training import preferences

FIRST, RESAMPLED = "first draw", "resampled"
ANSWERS = ("follows", "open", "contradicts")
SCHEMA = {
    "kind": pl.String,
    "way": pl.String,
    "answer": pl.String,
    "share": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
}


def measure(
    path: Path,
    parameters: SimulationParameters,
    n: int,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """The columns of `SCHEMA`: for each kind of note the share of `n` moments with each kind of answer.

    `follows`: the answer mentions what the note knows and agrees; `open`: it mentions none of it; `contradicts`: it
    disagrees in something. `way`: the first draw, or the first of up to `parameters.resample` that does not contradict,
    as in a simulation. `path`: ReDial, whose test part is used; the user is that of `parameters`. `progress` counts
    moments. Raises `CrsError` for files that cannot be read.
    """
    catalog = Catalog(redial.items(), redial.domain())
    lacking = () if style_files(parameters)[USER] else ("style",)
    contexts = preferences.human_contexts(redial.read(path, "test"), USER, catalog, lacking)
    kinds = list(NOTE_KINDS.values())
    contexts = preferences.sample(preferences.with_forced_notes(contexts, catalog.domain), dict.fromkeys(kinds, n), 0)
    with open_engines(parameters) as (user, _):
        drawn = preferences.candidates(contexts, user, parameters.resample, parameters.seed, progress=progress)
    scored = preferences.with_rule_scores(contexts, drawn, catalog).drop_nulls("agrees_with_note")
    kind = pl.DataFrame([(one.context_id, one.kind) for one in contexts], schema=["context_id", "kind"], orient="row")
    agrees = pl.col("agrees_with_note")
    answer = pl.when(agrees == 0).then(2).when(agrees == 0.5).then(1).otherwise(0)
    first = scored.join(kind, on="context_id").with_columns(answer.alias("answer")).sort("context_id", "draw")
    resampled = first.with_columns((pl.col("answer") == 2).alias("refused")).sort("context_id", "refused", "draw")
    rows = []
    for way, frame in ((FIRST, first), (RESAMPLED, resampled)):
        taken = frame.unique("context_id", keep="first", maintain_order=True)
        for of in kinds:
            answers = taken.filter(kind=of)["answer"]
            for number, name in enumerate(ANSWERS):
                share = stats.ratio(
                    (answers == number).cast(pl.Int64).to_numpy(), answers.is_not_null().cast(pl.Int64).to_numpy(),
                    times=1000, seed=0,
                )  # fmt: skip
                if share is not None:
                    rows.append((of, way, name, share.value, share.low, share.high, share.n))
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def formatted(measured: pl.DataFrame) -> str:
    """The result of `measure` as a Markdown table."""
    cells = []
    for (kind, way, n), part in measured.group_by("kind", "way", "n", maintain_order=True):
        shares = [text.estimate(*row, form=".0%") for row in part.select("share", "low", "high").iter_rows()]
        cells.append((kind, way, *shares, n))
    return text.markdown(("note", "drawn", "follows", "leaves open", "contradicts", "n"), cells)
