"""A sweep's runs side by side."""

import json
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.cli.parameters import read_conditions
from crslib.config import ROOT, RunParameters
from crslib.errors import CrsError
from crslib.experiments import comparison
from crslib.metrics.leakage import KINDS
from crslib.reporting import charts
from crslib.store import Run


def make_sweep(folder: Path) -> Path:
    """Two conditions that succeeded and one that failed."""
    conditions = []
    for number, state in enumerate(("success", "success", "error")):
        run = Run(folder / "runs" / str(number))
        run.update(
            audit=None if state == "error" else {kind.replace(" ", "_"): number for kind in KINDS},
            error="too few people" if state == "error" else None,
            traceback="Traceback" if state == "error" else None,
        )
        if state == "success":
            row = dict.fromkeys(schemas.TABLES["metrics"]) | {"metric": "hits", "value": 0.1 * number, "n": 4}
            run.write("metrics", pl.DataFrame([row], schema=dict(schemas.TABLES["metrics"])))
            scores = [(str(number), f"u{i}.0", "hits", float(i < 9 - 8 * number)) for i in range(9)]
            run.write("scores", pl.DataFrame(scores, schema=dict(schemas.TABLES["scores"]), orient="row"))
        values = {"memory": number == 0, "temperature": 0.5}
        conditions.append({"run_id": str(number), "path": f"../../runs/{number}", "state": state, "values": values})
    sweep = folder / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"axes": ["memory", "temperature"], "conditions": conditions}))
    return sweep


def test_conditions_and_metrics_are_read(tmp_path: Path) -> None:
    sweep = comparison.read(str(make_sweep(tmp_path)))
    assert sweep.conditions["condition"].to_list()[0] == "memory=true, temperature=0.5"
    assert sweep.conditions["leaks"].to_list() == [0, len(KINDS), None]
    assert sweep.conditions["error"].to_list() == [None, None, "too few people"]
    assert sweep.metrics.select("condition", "value").rows() == [
        ("memory=true, temperature=0.5", 0.0),
        ("memory=false, temperature=0.5", 0.1),
    ]
    (figure,) = comparison.figures(sweep)
    assert figure.title == "Recommendation"
    assert charts.svg(figure.chart).startswith("<svg")


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"no readable sweep\.json"):
        comparison.read(str(tmp_path))


def test_the_first_condition_against_the_others(tmp_path: Path) -> None:
    sweep = comparison.read(str(make_sweep(tmp_path)))
    differences = comparison.differences(sweep)
    (row,) = differences.rows(named=True)
    assert (row["condition"], row["metric"], row["n"]) == ("memory=false, temperature=0.5", "hits", 9)
    assert row["difference"] == pytest.approx(8 / 9)
    assert row["p"] == pytest.approx(2 / 2**8, abs=0.003)  # all eight signs alike
    assert row["better"] is True
    (line,) = comparison.verdict(sweep, differences)
    assert line.startswith("memory=true, temperature=0.5 recommends better than memory=false, temperature=0.5: yes; ")
    assert "Dialogues with a hit +0.889 [" in line
    assert comparison.record(sweep)["memory=false, temperature=0.5"]["hits"] == {
        "mean": 0.1, "low": None, "high": None, "n": 4
    }  # fmt: skip


def whole(condition: str, metric: str, value: float, half: float) -> dict[str, object]:
    names = {"condition": condition, "metric": metric, "value": value, "low": value - half, "high": value + half}
    return dict.fromkeys(schemas.TABLES["metrics"]) | names


def test_metrics_of_whole_runs_are_compared_by_their_intervals() -> None:
    rows = [
        whole("a", "item_entropy", 7.0, 0.3),
        whole("b", "item_entropy", 6.0, 0.4),
        whole("c", "item_entropy", 6.6, 0.4),
    ]
    rows += [whole("a", "turns_wasserstein", 2.0, 0.1), whole("b", "turns_wasserstein", 1.0, 0.1)]
    rows += [whole("a", "turns", 9.0, 0.1), whole("b", "turns", 5.0, 0.1)]
    metrics = pl.DataFrame(rows, schema={"condition": pl.String, **schemas.TABLES["metrics"]})
    scores = pl.DataFrame(schema={"condition": pl.String, **schemas.TABLES["scores"]})
    sweep = comparison.Sweep(Path(), pl.DataFrame(), metrics, scores)
    differences = comparison.differences(sweep)
    assert differences.select("condition", "metric", "better").rows() == [
        ("b", "turns", None),  # closer to human dialogues is better, which is neither more nor less
        ("b", "turns_wasserstein", False),
        ("b", "item_entropy", True),
        ("c", "item_entropy", None),
    ]
    entropy = differences.row(2, named=True)
    assert (entropy["low"], entropy["high"]) == (pytest.approx(0.5), pytest.approx(1.5))  # 3, 4, 5
    assert entropy["p"] is None
    assert [line.split(":")[1].split(";")[0] for line in comparison.verdict(sweep, differences)] == [
        " yes",
        " no",
        " open",
    ]


def test_the_table_holds_all_metrics_and_those_of_human_dialogues(tmp_path: Path) -> None:
    """`hits` has no human value; `turns` has one, with the interval over ReDial's dialogues."""
    sweep = comparison.read(str(make_sweep(tmp_path)))
    turns = {"metric": "turns", "value": 13.0, "low": 12.0, "high": 14.0, "human": 11.7, "condition": "memory=false"}
    rows = [dict.fromkeys(sweep.metrics.columns) | turns | {"condition": name} for name in sweep.runs]
    sweep = replace(sweep, metrics=pl.concat([sweep.metrics, pl.DataFrame(rows, schema=sweep.metrics.schema)]))
    table = comparison.table(sweep, comparison.differences(sweep))
    assert table["metric"].to_list() == ["Dialogues with a hit", "Turns per dialogue"]
    first, second = sweep.runs
    assert table[first].to_list() == ["0", "13.0 [12.0, 14.0]"]
    assert table[second].to_list() == ["0.100 ▲", "13.0 [12.0, 14.0]"]  # the first is significantly better in hits
    assert table["human"][0] == ""
    assert re.fullmatch(r"11\.7 \[11\.\d, 1[12]\.\d\]", table["human"][1])
    assert comparison.record(sweep)["human"].keys() == {"turns"}


def test_the_best_and_the_worst_dialogue_of_each_condition() -> None:
    """Ranks of recall .0, .5 and 1 among three: 1/6, 3/6 and 5/6; of repeats, where less is better, the same."""
    rows = [("a", "u1.0", "recall_at_5", 1.0), ("a", "u2.0", "recall_at_5", 0.0), ("b", "u1.0", "recall_at_5", 0.5)]
    rows += [("a", "u1.0", "repeats", 0.2), ("a", "u2.0", "repeats", 0.9), ("b", "u1.0", "repeats", 0.1)]
    rows += [("b", "u2.0", "turns", 5.0)]  # has no direction
    scores = pl.DataFrame(rows, schema=["condition", "dialogue_id", "metric", "value"], orient="row")
    runs = {"a": Run(Path("a")), "b": Run(Path("b"))}
    sweep = comparison.Sweep(Path(), pl.DataFrame(), pl.DataFrame(), scores, runs)
    ranked = comparison.quality(sweep)
    assert ranked["dialogue_id"].to_list() == ["u1.0", "u2.0", "u1.0"]
    assert ranked["quality"].to_list() == pytest.approx([4 / 6, 1 / 6, 4 / 6])
    (best, pages), (worst, _) = comparison.extremes(sweep)
    assert (best, worst) == ("a: its best dialogue (u1.0)", "a: its worst dialogue (u2.0)")
    assert [page.condition for page in pages] == ["a", "b"]


def test_conditions_are_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("mine: {memory: false}\nother: {grounding: off}\n")
    assert read_conditions(tmp_path / "c.yaml") == [
        {"memory": False, "condition": "mine"},
        {"grounding": "off", "condition": "other"},
    ]
    (tmp_path / "d.yaml").write_text("mine: {}\n")
    with pytest.raises(CrsError, match="two or more lines"):
        read_conditions(tmp_path / "d.yaml")


def test_shipped_conditions_are_valid_and_those_of_one_name_one_run() -> None:
    known: dict[str, dict[str, object]] = {}
    for file in ("conditions.yaml", "pairings.yaml"):
        for point in read_conditions(ROOT / "data" / file):
            assert RunParameters.parse(point).condition == point["condition"]
            assert known.setdefault(point["condition"], point) == point
            assert all((ROOT / path).is_file() for name, path in point.items() if path and name.endswith("_adapter"))
