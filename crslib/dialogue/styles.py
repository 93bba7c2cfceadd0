"""How a person writes, apart from what they say: length, capitals, full stops and exclamation marks of their turns.

People differ more from each other in this than a model differs from them on average. A `Style` is one of few levels in
each respect, so a view that holds one can hold no other text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from random import Random
from typing import Self

import polars as pl

from crslib import schemas, store
from crslib.dialogue.utterances import replace_mentions
from crslib.errors import CrsError

LEVELS: Mapping[str, tuple[str, str, str]] = {
    "length": ("short turns", "medium turns", "long turns"),
    "capitals": ("lower case", "few capitals", "capitals"),
    "stops": ("no full stops", "few full stops", "full stops"),
    "exclamations": ("no exclamation marks", "few exclamation marks", "many exclamation marks"),
}
"""The levels of each respect, lowest first, in the words of a view."""
LIMITS: Mapping[str, tuple[float, float]] = {
    "length": (8, 12),
    "capitals": (0.5, 0.9),
    "stops": (0.35, 0.7),
    "exclamations": (0.1, 0.4),
}
"""Where the second and the third level of each respect begin: mean words of a turn, a title counting as one; shares of
turns that begin with a capital, end with one of `.!?`, and have an exclamation mark. About the quartiles of ReDial's
workers (933 in its training part)."""
MIN_TURNS = 5  # fewer turns say too little of how a person writes


@dataclass(frozen=True)
class Style:
    """A level of each of `LEVELS`. Raises `CrsError` for other words."""

    length: str
    capitals: str
    stops: str
    exclamations: str

    def __post_init__(self) -> None:
        for field in fields(self):
            level = getattr(self, field.name)
            if level not in LEVELS[field.name]:
                raise CrsError(f"{field.name} = {level!r} is not one of {', '.join(LEVELS[field.name])}")

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self | None:
        """The style of the turns `texts`; None for fewer than `MIN_TURNS`."""
        turns = [replace_mentions(text, "Title") for text in texts if text.strip()]
        if len(turns) < MIN_TURNS:
            return None
        values = {
            "length": sum(len(turn.split()) for turn in turns) / len(turns),
            "capitals": sum(not turn.lstrip()[0].islower() for turn in turns) / len(turns),
            "stops": sum(turn.rstrip()[-1] in ".!?" for turn in turns) / len(turns),
            "exclamations": sum("!" in turn for turn in turns) / len(turns),
        }
        return cls(**{name: LEVELS[name][sum(values[name] >= limit for limit in LIMITS[name])] for name in LEVELS})

    @classmethod
    def parse(cls, words: str | None) -> Self | None:
        """The style that `str` gives as `words`; None for none. Raises `CrsError` for anything else."""
        if not words:
            return None
        levels = words.split(", ")
        if len(levels) != len(LEVELS):
            raise CrsError(f"{words!r} is not a style; give one level each of {', '.join(LEVELS)}")
        return cls(*levels)

    def __str__(self) -> str:
        """`short turns, lower case, no full stops, few exclamation marks`."""
        return ", ".join(astuple(self))

    @property
    def line(self) -> str:
        """The line of a view."""
        return f"How you write: {self}"


def count(styles: Sequence[tuple[str, Style]]) -> pl.DataFrame:
    """Table `styles` of pairs of role and style, sorted."""
    schema = dict(schemas.TABLES["styles"])
    rows = [(role, *astuple(style), 1) for role, style in styles]
    columns = ("role", *LEVELS)
    return pl.DataFrame(rows, schema, orient="row").group_by(columns).agg(pl.col("n").sum()).sort(columns)


def read(file: Path | None) -> pl.DataFrame:
    """Table `styles` of a Parquet file; without rows for None. Raises `CrsError` when it cannot be read."""
    if file is None:
        return pl.DataFrame(schema=dict(schemas.TABLES["styles"]))
    return store.read_parquet(file, "styles")


def draw(styles: pl.DataFrame, role: str, seed: int) -> Style | None:
    """A style of `role`, as often as table `styles` has it; None for a table without that role."""
    rows = styles.filter(pl.col("role") == role)
    if rows.is_empty():
        return None
    return Style(*Random(seed).choices(rows.select(*LEVELS).rows(), rows["n"].to_list())[0])
