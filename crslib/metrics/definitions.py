"""All metrics, in the order of tables and reports; each family module defines its own."""

import difflib
from collections.abc import Iterable, Mapping

from crslib.errors import CrsError
from crslib.metrics import (
    acts,
    consistency,
    diversity,
    embedding,
    guesswork,
    leakage,
    ngram,
    realism,
    recommendation,
    satisfaction,
    truth,
    two_sample,
)
from crslib.metrics.base import Metric

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        *leakage.METRICS,
        *guesswork.METRICS,
        *recommendation.METRICS,
        *truth.METRICS,
        *realism.METRICS,
        *acts.METRICS,
        *two_sample.METRICS,
        *embedding.FRECHET,
        *ngram.METRICS,
        *diversity.TEXT_METRICS,
        *embedding.VENDI,
        *diversity.ITEM_METRICS,
        *consistency.METRICS,
        *satisfaction.METRICS,
    )
}


def check_names(names: Iterable[str], where: str) -> None:
    """Raises `CrsError` for the first name that is none of `METRICS`: its figures would be left out of every table and
    report. `where`: what holds the names, as the beginning of the sentence."""
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=1)
            hint = f"did you mean {close[0]!r}? If not, " if close else ""
            rest = "define it in the METRICS of a module of crslib/metrics, or leave it out"
            raise CrsError(f"{where}: {name!r} is no metric; {hint}{rest}")
