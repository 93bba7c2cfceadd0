"""All metrics of a run that need neither models nor human texts, next to those of human dialogues.

Knows nothing of files and charts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import polars as pl

from crslib import schemas, stats
from crslib.dialogue.credits import Credits
from crslib.dialogue.domain import Domain
from crslib.errors import CrsError
from crslib.metrics import acts, consistency, diversity, guesswork, leakage, own, realism, recommendation, truth
from crslib.metrics.base import Metric, Result, Results
from crslib.metrics.definitions import METRICS, check_names
from crslib.metrics.facts import Facts, facts
from crslib.metrics.reference import Human
from crslib.store import Run


class Evaluation(NamedTuple):
    """Tables `scores` (one value per dialogue and metric), `metrics` (a row per metric) and `resamples` (the values of
    a metric in the resamples behind its interval). `own`: the definitions of metrics of one's own."""

    scores: pl.DataFrame
    metrics: pl.DataFrame
    resamples: pl.DataFrame
    own: Mapping[str, Metric] = {}

    def write(self, run: Run) -> None:
        """Writes the tables into the folder of `run`, and the metrics' values and the definitions of those of one's own
        into its `run.json`."""
        for name in ("scores", "metrics", "resamples"):
            run.write(name, getattr(self, name))
        values = {row["metric"]: row["value"] for row in self.metrics.iter_rows(named=True)}
        run.update(metrics=values, own_metrics=[asdict(metric) for metric in self.own.values()])


def evaluate(
    run_id: str,
    profiles: pl.DataFrame,
    holdouts: pl.DataFrame,
    items: pl.DataFrame,
    ratings: pl.DataFrame,
    dialogues: pl.DataFrame,
    turns: pl.DataFrame,
    prompts: pl.DataFrame,
    human: Human,
    domain: Domain,
    *,
    n_bootstrap: int,
    seed: int,
    metrics: Sequence[own.Function] = (),
    audit: leakage.Audit | None = None,
) -> Evaluation:
    """The tables of a run's evaluation.

    `human`: statistics of human dialogues; `domain`: what the run's dialogues talk about; `n_bootstrap`: resamples of
    dialogues behind each 95 % interval; `metrics`: functions that are metrics of one's own (`own`); `audit`: of these
    prompts, if they were read before. A share over all turns or items weights long dialogues more, so it need not be
    the mean of the scores. The numbers of leaks have no interval, because every prompt is read and nothing is
    estimated.

    Raises `CrsError` when the dialogues are of other profiles than those given, and as `own.parts`.
    """
    unknown = dialogues.join(profiles, on="profile_id", how="anti").sort("dialogue_id")
    if unknown.height:
        raise CrsError(
            f"dialogue {unknown['dialogue_id'][0]!r} is of profile {unknown['profile_id'][0]!r}, which table profiles "
            "lacks; run 02_simulate again after 01_profiles"
        )
    counted = facts(dialogues, turns, domain)
    targets = (
        dialogues.select("dialogue_id", "profile_id")
        .join(holdouts.filter("liked"), on="profile_id")
        .select("dialogue_id", "item_id")
    )
    parts = pl.concat(
        [
            _common(counted),
            leakage.named_by_user_first(turns, targets, items),
            guesswork.parts(turns, dialogues, profiles, targets, items, ratings, domain),
            recommendation.parts(counted, dialogues, profiles, holdouts, items, domain),
            truth.parts(turns, Credits.of(items, domain)),
            diversity.repetition(turns),
            consistency.profile_parts(turns, dialogues, profiles, items, domain),
            consistency.later_parts(turns, domain),
            own.parts(metrics, own.Frames(dialogues, turns, profiles, holdouts, items, ratings, prompts, domain)),
        ]
    )
    estimates = stats.ratios(parts, dialogues["dialogue_id"], times=n_bootstrap, seed=seed)
    estimates |= leakage.k_anonymity(dialogues, profiles, times=n_bootstrap, seed=seed)
    estimates |= diversity.texts(turns, times=n_bootstrap, seed=seed)
    if (covered := recommendation.coverage(counted, items, times=n_bootstrap, seed=seed)) is not None:
        estimates["coverage"] = covered
    audit = audit or leakage.audit(prompts, profiles, holdouts, items, dialogues, turns, domain)
    leaks = _leaks(audit)
    for name, n_read in (("leaked_titles", audit.n_user_prompts), ("leaked_profiles", audit.n_recommender_prompts)):
        if n_read:
            n_leaks = leaks.filter(pl.col("metric") == name)["part"].sum()
            estimates[name] = stats.Estimate(float(n_leaks), None, None, n_read)
    known = human_estimates(human, times=1, seed=seed)
    results = {
        name: Result(estimate, known[name].value if name in known else None) for name, estimate in estimates.items()
    }
    results |= realism.distances(counted, human.facts, times=n_bootstrap, seed=seed)
    results |= acts.divergences(human.tagger.tag(turns), human.acts, times=n_bootstrap, seed=seed)
    results |= diversity.whole(counted, human.facts, times=n_bootstrap, seed=seed)
    mine = own.definitions(metrics)
    defined = {**METRICS, **mine}
    scores = _scores(run_id, pl.concat([parts, _per_dialogue(leaks, prompts)]), defined)
    return Evaluation(scores, _metrics(results, n_bootstrap, seed, defined), _resamples(results, defined), mine)


def extended(evaluation: Evaluation, results: Results, *, times: int, seed: int) -> Evaluation:
    """The tables of a run's evaluation with further results, which replace those of the same metrics.

    `times`, `seed`: those with which `results` were measured. Raises `CrsError` for a metric that is not defined.
    """
    parts, (scores, metrics, resamples, mine) = results.parts, evaluation
    defined = {**METRICS, **mine}
    run_id = next(iter(scores["run_id"]), "")
    scores = scores.filter(~pl.col("metric").is_in(parts["metric"].unique().to_list()))
    scores = pl.concat([scores, _scores(run_id, parts, defined)]).sort("dialogue_id", "metric")
    order = list(defined)
    place = pl.col("metric").replace_strict(order, range(len(order)), return_dtype=pl.Int32)
    others = ~pl.col("metric").is_in(list(results.by_metric))
    metrics = pl.concat([metrics.filter(others), _metrics(results.by_metric, times, seed, defined)]).sort(place)
    resamples = pl.concat([resamples.filter(others), _resamples(results.by_metric, defined)]).sort(place)
    return Evaluation(scores, metrics, resamples, mine)


def _common(counted: Facts) -> pl.DataFrame:
    """Parts of the metrics that are measured on human dialogues in the same way."""
    return pl.concat(
        [
            realism.parts(counted),
            recommendation.behaviour(counted),
            diversity.parts(counted),
            consistency.reaction_parts(counted),
        ]
    )


def human_estimates(human: Human, *, times: int, seed: int) -> dict[str, stats.Estimate]:
    """The metrics of human dialogues: those counted from their facts, with intervals from `times` resamples, and those
    stored as values, because they need the texts."""
    counted = stats.ratios(_common(human.facts), human.facts.dialogue_ids, times=times, seed=seed)
    stored = {name: stats.Estimate(**estimate) for name, estimate in human.reference.items()}
    return counted | stored


def _leaks(audit: leakage.Audit) -> pl.DataFrame:
    """(dialogue_id, metric, part): the number of prompts with a leak."""
    prompts = audit.findings.filter(pl.col("turn") >= 0).unique(["dialogue_id", "turn", "role"])
    leaked = (
        pl.when(pl.col("kind") == "hidden title").then(pl.lit("leaked_titles")).otherwise(pl.lit("leaked_profiles"))
    )
    return (
        prompts.group_by("dialogue_id", leaked.alias("metric"))
        .agg(pl.len().cast(pl.Float64).alias("part"))
        .sort("dialogue_id", "metric")
    )


def _per_dialogue(leaks: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """(dialogue_id, metric, part, whole): leaks of every dialogue with prompts, 0 where there is none."""
    role = pl.when(pl.col("role") == "user").then(pl.lit("leaked_titles")).otherwise(pl.lit("leaked_profiles"))
    read = prompts.select("dialogue_id", role.alias("metric")).unique().sort("dialogue_id", "metric")
    return read.join(leaks, on=["dialogue_id", "metric"], how="left", maintain_order="left").select(
        "dialogue_id", "metric", pl.col("part").fill_null(0.0), pl.lit(1.0).alias("whole")
    )


def _scores(run_id: str, parts: pl.DataFrame, defined: Mapping[str, Metric]) -> pl.DataFrame:
    check_names(parts["metric"].unique().sort(), "the scores of the dialogues", defined)
    scores = (
        parts.filter(pl.col("whole") > 0)
        .select(
            pl.lit(run_id).alias("run_id"),
            "dialogue_id",
            "metric",
            (pl.col("part") / pl.col("whole")).alias("value"),
        )
        .sort("dialogue_id", "metric")
    )
    return schemas.check(scores, "scores")


def _metrics(results: Mapping[str, Result], times: int, seed: int, defined: Mapping[str, Metric]) -> pl.DataFrame:
    check_names(results, "the results of the run", defined)
    rows = [
        {
            "metric": name,
            "family": metric.family,
            "value": (estimate := results[name].estimate).value,
            "low": _within(estimate.low, metric.unit),
            "high": _within(estimate.high, metric.unit),
            "n": estimate.n,
            "human": results[name].human,
            "floor": results[name].floor,
            "unit": metric.unit,
            "direction": metric.direction,
            "signature": metric.signature(estimate.n, times, seed),
        }
        for name, metric in defined.items()
        if name in results
    ]
    return schemas.check(pl.DataFrame(rows, schema=dict(schemas.TABLES["metrics"])), "metrics")


def _resamples(results: Mapping[str, Result], defined: Mapping[str, Metric]) -> pl.DataFrame:
    rows = [
        (name, results[name].estimate.replicates)
        for name in defined
        if name in results and results[name].estimate.replicates is not None
    ]
    return schemas.check(pl.DataFrame(rows, schema=dict(schemas.TABLES["resamples"]), orient="row"), "resamples")


def _within(bound: float | None, unit: str) -> float | None:
    """A bound of an interval, cut to the range of its unit, which a shifted interval may leave."""
    least = -math.inf if unit == "bits saved" else 0.0
    most = 1.0 if unit in ("share", "distance", "index") else math.inf
    return None if bound is None else min(max(bound, least), most)
