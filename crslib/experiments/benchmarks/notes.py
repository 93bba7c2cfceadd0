"""Whether a simulated user answers as its private notes have it, when they are forced on it: each kind alike often.

People's notes are nearly all positive, so a simulation alone hardly shows a user that agrees with everything. Moments
of human test dialogues in which one film was named for the first time are given a note of each kind, and the user's
answers are read by patterns (`training.rules.reaction`).
"""

from pathlib import Path

import polars as pl

from crslib import stats
from crslib.config import SimulationParameters
from crslib.data.catalog import Catalog
from crslib.data.corpora import redial
from crslib.dialogue.views import NOTE_KINDS
from crslib.engines.loading import open_engines
from crslib.reporting import text
from crslib.store import Progress, no_progress
from crslib.training import preferences

FIRST, FITTING = "first draw", "resampled"
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
    draws: int,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """The columns of `SCHEMA`: of each kind of note, how many of `n` moments are answered in which way.

    `follows`: all that the note knows and the answer speaks of agrees, and it speaks of some; `open`: it speaks of
    nothing; `contradicts`: some of it is said to the contrary. `way`: the first draw, or the first of up to `draws`
    that does not contradict, which is what `resample` does in a simulation. `path`: ReDial, whose test part is used;
    the user is that of `parameters`. Raises `CrsError` for files that cannot be read.
    """
    catalog = Catalog(redial.items())
    contexts = preferences.of_people(redial.read(path, "test"), "user", catalog)
    kinds = list(NOTE_KINDS.values())
    contexts = preferences.draw(preferences.forced(contexts), dict.fromkeys(kinds, n), 0)
    with open_engines(parameters) as (user, _):
        made = preferences.candidates(contexts, user, draws, parameters.seed, progress=progress)
    judged = preferences.judge(contexts, made, catalog).drop_nulls("reaction")
    kind = pl.DataFrame([(one.context_id, one.kind) for one in contexts], schema=["context_id", "kind"], orient="row")
    reaction = pl.col("reaction")
    answer = pl.when(reaction == 0).then(2).when(reaction == 0.5).then(1).otherwise(0)
    judged = judged.join(kind, on="context_id").with_columns(answer.alias("answer")).sort("context_id", "draw")
    fitting = judged.with_columns((pl.col("answer") == 2).alias("refused")).sort("context_id", "refused", "draw")
    rows = []
    for way, frame in ((FIRST, judged), (FITTING, fitting)):
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


def formatted(found: pl.DataFrame) -> str:
    """`measure`'s figures as a Markdown table."""
    cells = []
    for (kind, way, n), part in found.group_by("kind", "way", "n", maintain_order=True):
        shares = [text.estimate(*row, ".0%") for row in part.select("share", "low", "high").iter_rows()]
        cells.append((kind, way, *shares, n))
    return text.markdown(("note", "drawn", "follows", "leaves open", "contradicts", "n"), cells)
