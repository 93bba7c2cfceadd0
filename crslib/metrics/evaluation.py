"""All metrics of a run beside those of people. The only module that sees profiles, hidden items and dialogues at once.

Knows nothing of files and charts.
"""

import math
from collections.abc import Mapping

import polars as pl

from crslib import schemas, stats
from crslib.errors import CrsError
from crslib.metrics import acts, consistency, diversity, guesswork, leakage, realism, recommendation
from crslib.metrics.definitions import METRICS
from crslib.metrics.facts import Facts, facts
from crslib.metrics.reference import Human


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
    *,
    n_bootstrap: int,
    seed: int,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `scores` (one value per dialogue and metric) and `metrics` (one row per metric) of a run.

    A pooled share weighs dialogues by what they hold, so it need not be the mean of the scores. The numbers of leaks
    come without interval: every prompt is read, nothing is estimated. Raises `CrsError` when the dialogues are of
    other profiles than those given.
    """
    strange = dialogues.join(profiles, on="profile_id", how="anti").sort("dialogue_id")
    if strange.height:
        raise CrsError(
            f"dialogue {strange['dialogue_id'][0]!r} is of profile {strange['profile_id'][0]!r}, which table profiles "
            "lacks; run 02_simulate again after 01_profiles"
        )
    counted = facts(dialogues, turns)
    audit = leakage.audit(prompts, profiles, holdouts, items, dialogues, turns)
    targets = (
        dialogues.select("dialogue_id", "profile_id")
        .join(holdouts.filter("liked"), on="profile_id")
        .select("dialogue_id", "item_id")
    )
    parts = pl.concat(
        [
            _common(counted),
            leakage.named_by_user_first(turns, targets, items),
            guesswork.parts(turns, dialogues, profiles, targets, items, ratings),
            recommendation.parts(counted, dialogues, profiles, holdouts, items),
            consistency.profile_parts(turns, dialogues, profiles, items),
        ]
    )
    estimates = stats.ratios(parts, dialogues["dialogue_id"], times=n_bootstrap, seed=seed)
    estimates |= leakage.k_anonymity(dialogues, profiles, times=n_bootstrap, seed=seed)
    estimates |= diversity.texts(turns, times=n_bootstrap, seed=seed)
    if (covered := recommendation.coverage(counted, items, times=n_bootstrap, seed=seed)) is not None:
        estimates["coverage"] = covered
    human_values, floors = {name: estimate.value for name, estimate in people(human, times=1, seed=seed).items()}, {}
    distances = realism.distances(counted, human.facts, times=n_bootstrap, seed=seed)
    distances |= acts.divergences(human.tagger.tag(turns), human.acts, times=n_bootstrap, seed=seed)
    for name, (estimate, mean, quantile) in distances.items():
        estimates[name], human_values[name], floors[name] = estimate, mean, quantile
    for name, (estimate, value) in diversity.whole(counted, human.facts, times=n_bootstrap, seed=seed).items():
        estimates[name], human_values[name] = estimate, value
    leaks = _leaks(audit)
    for name, read in (("leaked_titles", audit.n_user_prompts), ("leaked_profiles", audit.n_recommender_prompts)):
        if read:
            found = leaks.filter(pl.col("metric") == name)["part"].sum()
            estimates[name] = stats.Estimate(float(found), None, None, read)
    return _scores(run_id, pl.concat([parts, _per_dialogue(leaks, prompts)])), _metrics(estimates, human_values, floors)


def extended(
    scores: pl.DataFrame,
    metrics: pl.DataFrame,
    found: Mapping[str, tuple[stats.Estimate, float | None, float | None]],
    run_id: str = "",
    parts: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables `scores` and `metrics` of `evaluate` with further metrics, in place of those of the same name.

    `found`: metric → the run's figure, people's, the floor. `parts` (dialogue_id, metric, part, whole): what stands
    behind those that have a value per dialogue.
    """
    estimates, people, floors = ({name: row[i] for name, row in found.items()} for i in range(3))
    more = _metrics(estimates, people, floors)
    if parts is not None:
        scores = scores.filter(~pl.col("metric").is_in(parts["metric"].unique().to_list()))
        scores = pl.concat([scores, _scores(run_id, parts)]).sort("dialogue_id", "metric")
    both = pl.concat([metrics.filter(~pl.col("metric").is_in(list(found))), more])
    order = list(METRICS)
    return scores, both.sort(pl.col("metric").replace_strict(order, range(len(order)), return_dtype=pl.Int32))


def _common(counted: Facts) -> pl.DataFrame:
    """Parts of what is measured on people in the same way."""
    return pl.concat(
        [
            realism.parts(counted),
            recommendation.behaviour(counted),
            diversity.parts(counted),
            consistency.reaction_parts(counted),
        ]
    )


def people(human: Human, *, times: int, seed: int) -> dict[str, stats.Estimate]:
    """What is counted in human dialogues as in simulated ones, with intervals from `times` resamples of dialogues, and
    the stored figures of what needs their words."""
    counted = stats.ratios(_common(human.facts), human.facts.dialogue_ids, times=times, seed=seed)
    stored = {name: stats.Estimate(**estimate) for name, estimate in human.reference.items()}
    return counted | stored


def _leaks(audit: leakage.Audit) -> pl.DataFrame:
    """(dialogue_id, metric, part): the number of prompts with a finding."""
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
    role = pl.when(pl.col("role") == "user").then(pl.lit("leaked_titles")).otherwise(pl.lit("leaked_profiles"))
    read = prompts.select("dialogue_id", role.alias("metric")).unique().sort("dialogue_id", "metric")
    return read.join(leaks, on=["dialogue_id", "metric"], how="left", maintain_order="left").select(
        "dialogue_id", "metric", pl.col("part").fill_null(0.0), pl.lit(1.0).alias("whole")
    )


def _scores(run_id: str, parts: pl.DataFrame) -> pl.DataFrame:
    scores = (
        parts.filter(pl.col("whole") > 0)
        .select(
            pl.lit(run_id).alias("run_id"), "dialogue_id", "metric", (pl.col("part") / pl.col("whole")).alias("value")
        )
        .sort("dialogue_id", "metric")
    )
    return schemas.check(scores, "scores")


def _metrics(estimates: dict[str, stats.Estimate], people: dict[str, float], floors: dict[str, float]) -> pl.DataFrame:
    rows = [
        {
            "metric": name,
            "family": metric.family,
            "value": estimates[name].value,
            "low": _within(estimates[name].low, metric.unit),
            "high": _within(estimates[name].high, metric.unit),
            "n": estimates[name].n,
            "human": people.get(name),
            "floor": floors.get(name),
            "unit": metric.unit,
            "direction": metric.direction,
        }
        for name, metric in METRICS.items()
        if name in estimates
    ]
    return schemas.check(pl.DataFrame(rows, schema=dict(schemas.TABLES["metrics"])), "metrics")


def _within(bound: float | None, unit: str) -> float | None:
    """No figure but a saving is negative and no share above 1: a shifted interval could say so."""
    least = -math.inf if unit == "bits saved" else 0.0
    most = 1.0 if unit in ("share", "distance", "index") else math.inf
    return None if bound is None else min(max(bound, least), most)
