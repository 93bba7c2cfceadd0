"""The definition of a metric, and the result of measuring it. Knows no particular metric."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import polars as pl

from crslib import __version__, stats
from crslib.dialogue.utterances import RECOMMENDER, USER

Family = Literal["leakage", "recommendation", "realism", "diversity", "consistency", "satisfaction", "own"]
Needs = Literal["", "prompts", "profiles", "holdouts", "notes", "models"]
Direction = Literal["higher", "lower", "human", "none"]
Claim = Literal[
    "is more diverse", "is closer to human dialogues", "recommends better", "is more consistent", "leaks less"
]
CLAIMS: tuple[Claim, ...] = get_args(Claim)  # the paper's claims about independent simulators
PARTS = {"dialogue_id": pl.String, "metric": pl.String, "part": pl.Float64, "whole": pl.Float64}
WORDS = "Words are runs of letters and digits with inner apostrophes, titles and years included."


@dataclass(frozen=True)
class Metric:
    """The definition of a metric.

    `direction`: higher or lower is better, human (closer to human dialogues is better), or none (a description).
    `unit`: of its value; share, distance and index lie between 0 and 1. `source`: the publication that defines it.
    `settings`: what its value depends on, as `key:value|key:value`. `resampling`: its interval comes from a bootstrap
    over dialogues, from half-samples (see `stats`), or it has none; `max_resamples`: at most so many of them.
    `headline`: its label among the figures at the top of a run's report, with `{label}` for a word of the domain;
    empty: it is not among them. `chart`: it is drawn in comparisons. `claim`: the claim of the paper that it tests.
    `needs`: what a run must hold besides dialogues, items and human references; dialogues that others stored may lack
    it.
    """

    name: str
    family: Family
    title: str
    unit: str
    direction: Direction
    definition: str
    source: str = ""
    settings: str = ""
    resampling: Literal["boot", "half", "none"] = "boot"
    max_resamples: int | None = None
    headline: str = ""
    chart: bool = False
    claim: Claim | None = None
    needs: Needs = ""

    def signature(self, n: int, times: int, seed: int) -> str:
        """What has to be equal for two values to be comparable, in the manner of sacrebleu (Post, A Call for Clarity in
        Reporting BLEU Scores, WMT 2018): version of crslib, `n` (dialogues or, of leaks, prompts), kind and number of
        resamples, seed, settings."""
        resamples = min(times, self.max_resamples or times)
        interval = [] if self.resampling == "none" else [f"{self.resampling}:{resamples}", f"seed:{seed}"]
        return "|".join([f"crslib:{__version__}", f"n:{n}", *interval, *filter(None, [self.settings])])


@dataclass(frozen=True)
class Result:
    """A metric of a run, the same of human dialogues, and the floor of a distance: the 95 % quantile of the distances
    between two samples of human dialogues. None where a metric has no such value."""

    estimate: stats.Estimate
    human: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Results:
    """Results by metric. `parts` (columns `PARTS`): numerators and denominators of those that have a value per
    dialogue. `missing`: why there are no results; empty where there are."""

    by_metric: Mapping[str, Result]
    parts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PARTS))
    missing: str = ""

    def shown(self, metrics: pl.DataFrame) -> pl.DataFrame | str:
        """The rows of these results in table `metrics`, or why there are none."""
        return self.missing or metrics.filter(pl.col("metric").is_in(list(self.by_metric)))


def per_role(*metrics: Metric) -> list[Metric]:
    """The metrics of the user, then those of the recommender: `{role}` in name, title, definition and headline."""
    return [
        replace(metric, **{name: getattr(metric, name).replace("{role}", role) for name in _ROLE_TEXTS})
        for role in (USER, RECOMMENDER)
        for metric in metrics
    ]


_ROLE_TEXTS = ("name", "title", "definition", "headline")


def parts_of(values: pl.DataFrame) -> pl.DataFrame:
    """Sum and number of the values of each dialogue and metric: (dialogue_id, metric, value) → columns `PARTS`."""
    return (
        values.group_by("dialogue_id", "metric")
        .agg(pl.col("value").cast(pl.Float64).sum().alias("part"), pl.len().cast(pl.Float64).alias("whole"))
        .sort("dialogue_id", "metric")
    )
