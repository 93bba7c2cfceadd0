"""All metrics, in the order of tables and reports; each family module defines its own."""

import difflib
from collections.abc import Iterable, Mapping

from pydantic import TypeAdapter, ValidationError

from crslib import json_files
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
from crslib.store import Run

_OWN = TypeAdapter(list[Metric])

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


def all_metrics(*runs: Run) -> Mapping[str, Metric]:
    """`METRICS`, and after them those of one's own that the runs were evaluated with. Raises `CrsError` where a
    `run.json` holds something else."""
    defined = dict(METRICS)
    for run in runs:
        try:
            own = _OWN.validate_python(run.info.get("own_metrics", []))
        except ValidationError as error:
            where = f"{run.path / 'run.json'}: own_metrics: {json_files.fault(error)}"
            raise CrsError(f"{where}; evaluate the run again") from None
        defined |= {one.name: one for one in own if one.name not in METRICS}
    return defined


def check_names(names: Iterable[str], where: str, defined: Mapping[str, Metric] = METRICS) -> None:
    """Raises `CrsError` for the first name that is not `defined`: its figures would be left out of every table and
    report. `where`: what holds the names, as the beginning of the sentence."""
    for name in names:
        if name not in defined:
            close = difflib.get_close_matches(name, defined, n=1)
            hint = f"did you mean {close[0]!r}? If not, " if close else ""
            rest = "define it in the METRICS of a module of crslib/metrics, or leave it out"
            raise CrsError(f"{where}: {name!r} is no metric; {hint}{rest}")
