"""Runs and people before a classifier: how well their turns are told from those of human test dialogues."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from crslib.data.corpora import frames, redial
from crslib.dialogue.utterances import RECOMMENDER, USER
from crslib.identity import derive_seed
from crslib.metrics.two_sample import SCHEMA, two_sample
from crslib.store import Run

PEOPLE = "people"


def measure(path: Path, runs: Sequence[Path]) -> pl.DataFrame:
    """Columns run, role and those of `two_sample`: a half of ReDial's test dialogues (`path`), as many as the largest
    run has at most, against the other half; then every run (folder) against all of them, for either role.

    `run` is the condition's name. Raises `CrsError` for a run without dialogues and a corpus that cannot be read.
    """
    dialogues = sorted(redial.read(path, "test"), key=lambda one: derive_seed(0, "halves", one.dialogue_id))
    half = len(dialogues) // 2
    sides = [(run.read("dialogues"), run.read("turns")) for run in map(Run, runs)]
    most = max(len(made) for made, _ in sides)
    few, other, human = (frames(part)[1] for part in (dialogues[:half][:most], dialogues[half:], dialogues))
    tables = []
    for role in (USER, RECOMMENDER):
        named = [(PEOPLE, few, other), *((made["condition"][0], turns, human) for made, turns in sides)]
        tables += [
            two_sample(turns, people, role).select(pl.lit(name).alias("run"), pl.lit(role).alias("role"), pl.all())
            for name, turns, people in named
        ]
    return pl.concat(tables).match_to_schema({"run": pl.String, "role": pl.String, **SCHEMA})


def formatted(found: pl.DataFrame) -> str:
    """`measure`'s figures as a Markdown table."""
    lines = ["| run | role | told by words | told by length alone | dialogues |", "|---" * 5 + "|"]
    for (run, role), part in found.group_by("run", "role", maintain_order=True):
        shares = [f"{v:.2f} [{lo:.2f}, {hi:.2f}]" for v, lo, hi in part.select("accuracy", "low", "high").iter_rows()]
        lines.append(f"| {run} | {role} | {' | '.join(shares)} | {part['n_dialogues'][0]} |")
    return "\n".join(lines)
