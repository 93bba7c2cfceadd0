"""All metrics of a small run, and the definitions of metrics."""

from typing import get_args

import numpy as np
import polars as pl
import pytest

from crslib import __version__, schemas, stats
from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.metrics import CLAIMS, METRICS, Evaluation, Result, Results, evaluate, extended, reference
from crslib.metrics.base import Family
from tests.support.domains import MOVIES
from tests.support.metrics_frames import table, talk

HUMAN = reference.read(ROOT / "data" / "human")
TALK = [
    "R: Hi! Have you seen [[The Matrix (1999)]]?",
    "U: I loved that movie!",
    "R: Then try [[Heat (1995)]] or [[Ghost Film (1900)]].",
    "U: I'll check them out, I love comedies.",
]


def run(n: int) -> dict[str, pl.DataFrame]:
    ids = [f"p{i:02d}" for i in range(n)]
    dialogues, turns = talk(dict.fromkeys(ids, TALK), notes={(i, 1): [("The Matrix (1999)", True, True)] for i in ids})
    prompts = [
        {"dialogue_id": i, "turn": t, "role": "user" if t % 2 else "recommender", "text": "x", "n_tokens": 1}
        for i in ids
        for t in range(4)
    ]
    return {
        "profiles": table(
            "profiles",
            [
                {"profile_id": i, "k_anonymity": 25, "liked_kinds": ["action"], "disliked_kinds": ["comedy"]}
                for i in ids
            ],
        ),
        "holdouts": table("holdouts", [{"profile_id": i, "item_id": "1", "rating": 5.0, "liked": True} for i in ids]),
        "ratings": table("ratings", [{"user_id": "a", "item_id": "2", "rating": 5.0}]),
        "dialogues": dialogues,
        "turns": turns,
        "prompts": table("prompts", prompts),
    }


def evaluated(items: pl.DataFrame, tables: dict[str, pl.DataFrame], **more: int) -> Evaluation:
    return evaluate(
        "run", items=items, human=HUMAN, domain=MOVIES, **tables, **({"n_bootstrap": 100, "seed": 0} | more)
    )  # type: ignore[arg-type]


def test_a_small_run_by_hand(items: pl.DataFrame) -> None:
    scores, metrics, *_ = evaluated(items, run(6))
    schemas.check(scores, "scores")
    schemas.check(metrics, "metrics")
    value = dict(metrics.select("metric", "value").iter_rows())
    assert value["leaked_titles"] == value["leaked_profiles"] == 0
    assert value["recall_at_1"] == 0
    assert value["recall_at_3"] == 1
    assert value["hits"] == 1
    assert value["first_turn_hits"] == 0
    assert value["recommender_validity"] == pytest.approx(2 / 3)
    assert value["preference_coverage"] == 1
    assert value["reaction_consistency"] == 1
    assert value["contradictions"] == 1
    assert value["turns"] == 4
    assert value["k_anonymity"] == value["k_anonymity_min"] == 25
    assert value["item_entropy"] == 1.0
    assert value["guesswork_saved"] == pytest.approx(value["guesswork_attributes"] - value["guesswork_words"])
    # Six dialogues have too few words for distinct-n and too few utterances for self-BLEU: absent, not 0.
    assert not {"user_distinct_1", "user_self_bleu", "attribute_match", "attribute_coverage"} & value.keys()
    assert scores.filter(metric="recall_at_3")["value"].to_list() == [1.0] * 6
    assert scores["run_id"].unique().to_list() == ["run"]


def test_human_values_and_floors(items: pl.DataFrame) -> None:
    metrics = evaluated(items, run(6)).metrics
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    assert rows["turns"]["human"] == pytest.approx(11.7, abs=0.05)
    assert rows["repeats"]["human"] == pytest.approx(0.038, abs=0.002)
    assert 0 < rows["turns_ks"]["human"] < rows["turns_ks"]["floor"]
    assert 0 < rows["act_bigram_divergence"]["human"] < rows["act_bigram_divergence"]["floor"]
    assert rows["act_bigram_divergence"]["value"] > rows["act_bigram_divergence"]["floor"]
    assert rows["turns"]["floor"] is None
    assert rows["recall_at_1"]["human"] is None
    assert all(row["low"] <= row["value"] <= row["high"] for row in rows.values() if row["low"] is not None)


def test_every_computed_metric_is_defined_and_in_order(items: pl.DataFrame) -> None:
    scores, metrics, *_ = evaluated(items, run(6))
    order = list(METRICS)
    assert metrics["metric"].to_list() == sorted(metrics["metric"], key=order.index)
    assert set(scores["metric"]) <= set(order)


def test_resamples_are_those_behind_the_intervals(items: pl.DataFrame) -> None:
    _, metrics, resamples, _ = evaluated(items, run(40))
    schemas.check(resamples, "resamples")
    values = dict(resamples.iter_rows())
    assert {len(of_metric) for of_metric in values.values()} == {100}
    assert metrics.filter(pl.col("low").is_not_null(), ~pl.col("metric").is_in(list(values))).is_empty()


def test_further_metrics_take_their_place_in_the_tables(items: pl.DataFrame) -> None:
    scores, metrics, *_ = before = evaluated(items, run(6))
    estimate = stats.Estimate(0.5, 0.4, 0.7, 6, np.array([0.5, 0.6]))
    parts = pl.DataFrame({"dialogue_id": ["p00"], "metric": ["user_cross_entropy"], "part": [6.0], "whole": [4.0]})
    results = Results({"user_vendi": Result(estimate, 20.0), "user_cross_entropy": Result(estimate, 3.0)}, parts)
    more, table, resamples, _ = extended(before, results, times=100, seed=0)
    again = extended(Evaluation(more, table, resamples), results, times=100, seed=0)
    assert again.metrics.equals(table)
    assert resamples.filter(metric="user_vendi")["values"].to_list() == [[0.5, 0.6]]
    order = list(METRICS)
    assert table["metric"].to_list() == sorted([*metrics["metric"], *results.by_metric], key=order.index)
    assert table.filter(metric="user_vendi").select("value", "human", "floor").row(0) == (0.5, 20.0, None)
    assert more.filter(metric="user_cross_entropy").rows() == [("run", "p00", "user_cross_entropy", 1.5)]
    assert more.filter(pl.col("metric") != "user_cross_entropy").equals(scores)
    shown = results.shown(table)
    assert isinstance(shown, pl.DataFrame)
    assert shown["metric"].to_list() == ["user_cross_entropy", "user_vendi"]
    assert Results({}, missing="no turns").shown(table) == "no turns"


def test_a_metric_that_is_not_defined_is_an_error_and_not_left_out(items: pl.DataFrame) -> None:
    before = evaluated(items, run(2))
    figure = Result(stats.Estimate(0.5, None, None, 2))
    with pytest.raises(
        CrsError, match=r"^the results of the run: 'user_vendy' is no metric; did you mean 'user_vendi'"
    ):
        extended(before, Results({"user_vendy": figure}), times=100, seed=0)
    parts = pl.DataFrame([("p00", "qqq", 1.0, 1.0)], schema=Results({}).parts.schema, orient="row")
    with pytest.raises(CrsError, match=r"^the scores of the dialogues: 'qqq' is no metric; define it in the METRICS"):
        extended(before, Results({"user_vendi": figure}, parts), times=100, seed=0)


def test_a_signature_states_what_a_value_depends_on(items: pl.DataFrame) -> None:
    metrics = evaluated(items, run(40), n_bootstrap=200, seed=3).metrics
    signature = dict(metrics.select("metric", "signature").iter_rows())
    start = f"crslib:{__version__}|n:40"
    assert signature["hits"] == f"{start}|boot:200|seed:3"
    assert signature["item_entropy"] == f"{start}|half:200|seed:3"
    assert signature["user_self_bleu"].startswith(f"{start}|half:100|seed:3|tok:words|")
    assert signature["turns_ks"] == f"{start}|boot:200|seed:3|splits:200"
    assert signature["leaked_titles"] == f"crslib:{__version__}|n:80"  # of all prompts, nothing is resampled
    assert METRICS["hits"].signature(40, 200, 3) == signature["hits"]


def test_definitions_are_complete() -> None:
    for metric in METRICS.values():
        assert metric.direction in ("higher", "lower", "human", "none")
        assert metric.family in get_args(Family)
        assert metric.definition.endswith(".")
        assert "{" not in metric.name + metric.title + metric.definition + metric.headline.replace("{label}", "")
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)
    assert {metric.claim for metric in METRICS.values()} == {None, *CLAIMS}


def test_metrics_are_grouped_by_family() -> None:
    families = [metric.family for metric in METRICS.values()]
    assert families == sorted(families, key=list(dict.fromkeys(families)).index)


def test_the_order_of_rows_changes_nothing(items: pl.DataFrame) -> None:
    tables = run(8)
    shuffled = {name: frame.sample(fraction=1, shuffle=True, seed=2) for name, frame in tables.items()}
    for ours, theirs in zip(evaluated(items, tables), evaluated(items, shuffled), strict=True):
        assert ours == theirs if isinstance(ours, dict) else ours.equals(theirs)


def test_a_planted_leak_is_counted(items: pl.DataFrame) -> None:
    tables = run(6)
    leak = (pl.col("dialogue_id") == "p03") & (pl.col("turn") == 1)
    tables["prompts"] = tables["prompts"].with_columns(
        text=pl.when(leak).then(pl.lit("You will love Heat (1995).")).otherwise("text")
    )
    scores, metrics, *_ = evaluated(items, tables)
    (row,) = metrics.filter(metric="leaked_titles").rows(named=True)
    assert (row["value"], row["low"], row["n"]) == (1, None, 12)
    assert scores.filter(metric="leaked_titles").filter(pl.col("value") > 0)["dialogue_id"].to_list() == ["p03"]


@pytest.mark.parametrize("n", [0, 1])
def test_none_or_one_dialogue(items: pl.DataFrame, n: int) -> None:
    scores, metrics, *_ = evaluated(items, run(n))
    assert scores["dialogue_id"].n_unique() == n
    assert metrics["low"].null_count() == len(metrics)
    assert (len(metrics) > 0) == bool(n)


def test_no_interval_leaves_the_range_of_its_figure(items: pl.DataFrame) -> None:
    metrics = evaluated(items, run(40)).metrics
    known = metrics.drop_nulls("low").filter(pl.col("unit") != "bits saved")
    assert (known["low"] >= 0).all()
    assert (known.filter(pl.col("unit").is_in(["share", "distance", "index"]))["high"] <= 1).all()


def test_dialogues_of_other_profiles_are_refused(items: pl.DataFrame) -> None:
    """01_profiles was run again without 02_simulate."""
    tables = run(4)
    tables["profiles"] = tables["profiles"].filter(pl.col("profile_id") != "p02")
    with pytest.raises(CrsError, match=r"dialogue 'p02' is of profile 'p02', which .* lacks; run 02_simulate again"):
        evaluated(items, tables)
