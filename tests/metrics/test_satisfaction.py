"""Labels of satisfaction as scores, and which metrics go with them."""

from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.metrics import satisfaction
from crslib.store import Run


def labels(*rows: tuple[str, int | None, float]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["dialogue_id", "turn", "value"], orient="row")
    named = frame.with_columns(pl.col("turn").cast(pl.Int32), label=pl.lit("satisfaction"))
    return schemas.check(named.select("dialogue_id", "turn", "label", "value"), "labels")


def scores(**metrics: list[float]) -> pl.DataFrame:
    rows = [("r", f"d{i:02d}", name, value) for name, values in metrics.items() for i, value in enumerate(values)]
    return pl.DataFrame(rows, schema=dict(schemas.TABLES["scores"]), orient="row")


def test_a_dialogues_label_comes_before_those_of_its_turns() -> None:
    """a: 5 said of the whole; b: the mean of 2 and 4."""
    given = labels(("a", None, 5.0), ("a", 1, 1.0), ("b", 0, 2.0), ("b", 2, 4.0))
    results = satisfaction.evaluate(given, times=100, seed=0)
    assert results.parts.select("dialogue_id", "part", "whole").rows() == [("a", 5.0, 1.0), ("b", 3.0, 1.0)]
    estimate = results.by_metric["human_satisfaction"].estimate
    assert (estimate.value, estimate.n) == (4.0, 2)


def test_without_labels_there_is_no_score(tmp_path: Path) -> None:
    results = satisfaction.evaluate(satisfaction.read(Run(tmp_path)), times=100, seed=0)
    assert not results.by_metric
    assert "no labels" in results.missing
    assert (
        satisfaction.verdict(scores(turns=[1.0]), satisfaction.correlations(scores(turns=[1.0]), times=9, seed=0)) == ""
    )


def test_metrics_that_go_with_satisfaction_come_first() -> None:
    up = [float(i) for i in range(30)]
    weak = [float(i % 7) for i in range(30)]
    table = scores(human_satisfaction=up, weak=weak, falls=[-v for v in up], same=[1.0] * 30, few=up[:29])
    found = satisfaction.correlations(table, times=200, seed=0)
    assert found["metric"].to_list() == ["falls", "weak"]
    falls = found.row(0, named=True)
    assert (falls["value"], falls["high"], falls["n"]) == (pytest.approx(-1), pytest.approx(-1), 30)
    schemas.check(found, "correlations")
    assert satisfaction.verdict(table, found).startswith(
        "satisfaction: 30 dialogues have a label; of 2 metrics 1 are correlated with it"
    )


def test_fewer_than_thirty_dialogues_are_not_correlated() -> None:
    up = [float(i) for i in range(29)]
    table = scores(human_satisfaction=up, turns=up)
    found = satisfaction.correlations(table, times=200, seed=0)
    assert found.is_empty()
    assert satisfaction.verdict(table, found) == (
        "satisfaction: 29 dialogues have a label, and a correlation with metrics needs 30"
    )
