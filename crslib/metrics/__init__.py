"""Metrics of simulated dialogues, one module per family; `METRICS` holds the definitions of all of them.

A metric is a share or mean over dialogues (numerator and denominator per dialogue, resampled together) or a value of
the whole run. A metric with nothing to count is undefined and absent from the tables, never 0.
"""

from crslib.metrics.base import CLAIMS, Metric, Result, Results
from crslib.metrics.definitions import METRICS
from crslib.metrics.evaluation import evaluate, extended
from crslib.metrics.facts import Facts, facts

__all__ = ["CLAIMS", "METRICS", "Facts", "Metric", "Result", "Results", "evaluate", "extended", "facts"]
