"""Metrics of simulated dialogues, next to those of human dialogues.

Each module of metrics (`leakage`, `guesswork`, `recommendation`, `truth`, `realism`, `acts`, `two_sample`, `embedding`,
`ngram`, `diversity`, `consistency`) defines its own; `METRICS` holds all definitions. `evaluate` computes what needs
neither models nor human texts, `extended` adds the other results to the tables; `own` are
metrics of one's own, functions that `metric` may describe. `facts` counts what happens in
dialogues, `reference` holds the statistics of human dialogues, `control` evaluates dialogues against another profile.

A metric is a share or mean over dialogues (numerator and denominator per dialogue, resampled together) or a value of
the whole run. A metric with nothing to count is undefined and absent from the tables, never 0.
"""

from crslib.metrics.base import CLAIMS, Metric, Result, Results
from crslib.metrics.definitions import METRICS, all_metrics, check_names
from crslib.metrics.evaluation import Evaluation, evaluate, extended
from crslib.metrics.facts import Facts, facts
from crslib.metrics.own import Frames, metric

__all__ = [
    "CLAIMS",
    "METRICS",
    "Evaluation",
    "Facts",
    "Frames",
    "Metric",
    "Result",
    "Results",
    "all_metrics",
    "check_names",
    "evaluate",
    "extended",
    "facts",
    "metric",
]
