"""Metrics of simulated dialogues, one module per family; `definitions.METRICS` says what each of them is.

A figure is a share or mean over dialogues (numerator and denominator per dialogue, resampled together) or a figure of
the whole run. Undefined values, with nothing to count, are absent: never 0.
"""

from crslib.metrics.definitions import METRICS, Metric
from crslib.metrics.evaluation import evaluate, extended
from crslib.metrics.facts import Facts, facts

__all__ = ["METRICS", "Facts", "Metric", "evaluate", "extended", "facts"]
