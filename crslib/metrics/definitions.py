"""All metrics, in the order of tables and reports; each family module defines its own."""

from collections.abc import Mapping

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
