"""A sweep's runs side by side."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
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


def make_sweep(folder: Path, states: Sequence[str] = ("success", "success", "error")) -> Path:
    """Two conditions that succeeded and one that failed."""
    conditions = []
    for number, state in enumerate(states):
        run = Run(folder / "runs" / str(number))
        run.update(
            audit=None if state == "error" else {kind.replace(" ", "_"): number for kind in KINDS},
            error="too few people" if state == "error" else None,
            traceback="Traceback" if state == "error" else None,
        )
        if state == "success":
            row = dict.fromkeys(schemas.TABLES["metrics"]) | {"metric": "hits", "value": 0.1 * number, "n": 4}
            run.write("metrics", pl.DataFrame([row], schema=dict(schemas.TABLES["metrics"])))
            scores = [(str(number), f"u{i:02d}.0", "hits", float(i < 39 - 38 * number)) for i in range(40)]
            run.write("resamples", schemas.empty("resamples"))
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


def test_a_sweep_in_which_nothing_succeeded_is_read(tmp_path: Path) -> None:
    sweep = comparison.read(str(make_sweep(tmp_path, ("error", "error"))))
    assert sweep.conditions["error"].to_list() == ["too few people"] * 2
    assert comparison.figures(sweep) == comparison.extremes(sweep) == []
    differences = comparison.differences(sweep)
    assert differences.is_empty()
    assert comparison.verdict(sweep, differences) == []
    assert comparison.table(sweep, differences).is_empty()
    assert comparison.quality(sweep).is_empty()
    assert comparison.record(sweep) == {}


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"no readable sweep\.json"):
        comparison.read(str(tmp_path))


@pytest.mark.parametrize("name", ["metrics", "scores", "resamples"])
def test_a_run_with_a_metric_that_is_not_defined_is_named(name: str, tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    run = Run(tmp_path / "runs/1")
    row = dict.fromkeys(schemas.TABLES[name]) | {"metric": "hit"}
    run.write(name, pl.DataFrame([row], schema=dict(schemas.TABLES[name])))
    with pytest.raises(CrsError, match=rf"runs/1/{name}\.parquet: 'hit' is no metric; did you mean 'hits'\?"):
        comparison.read(str(sweep))


def test_the_first_condition_against_the_others(tmp_path: Path) -> None:
    sweep = comparison.read(str(make_sweep(tmp_path)))
    differences = comparison.differences(sweep)
    (row,) = differences.rows(named=True)
    assert (row["condition"], row["metric"], row["n"]) == ("memory=false, temperature=0.5", "hits", 40)
    assert row["difference"] == pytest.approx(38 / 40)
    assert row["p"] == pytest.approx(1 / 10_001)  # none of 10,000 draws had all 38 signs alike
    assert row["better"] is True
    (line,) = comparison.verdict(sweep, differences)
    assert str(line).startswith(
        "memory=true, temperature=0.5 recommends better than memory=false, temperature=0.5: yes; "
    )
    assert line.evidence.startswith("Dialogues with a hit +0.950 [")
    assert comparison.record(sweep)["memory=false, temperature=0.5"]["hits"] == {
        "mean": 0.1, "low": None, "high": None, "n": 4
    }  # fmt: skip


def whole_runs(n: int, **values: dict[str, float]) -> comparison.Sweep:
    """Conditions with metrics of whole runs of `n` dialogues: condition → metric → value. Resamples of all conditions
    rise and fall together, by 1 on average, and each by .1 for itself."""
    common, own = np.random.default_rng(0), np.random.default_rng(1)
    together = common.normal(size=1000)
    rows, resamples = [], []
    for condition, metrics in values.items():
        for metric, value in metrics.items():
            names = {"condition": condition, "metric": metric, "value": value, "n": n, "human": 9.0}
            rows.append(dict.fromkeys(schemas.TABLES["metrics"]) | names)
            resamples.append((condition, metric, (value + together + 0.1 * own.normal(size=1000)).tolist()))
    metrics_ = pl.DataFrame(rows, schema={"condition": pl.String, **schemas.TABLES["metrics"]})
    scores = pl.DataFrame(schema={"condition": pl.String, **schemas.TABLES["scores"]})
    drawn = pl.DataFrame(resamples, schema={"condition": pl.String, **schemas.TABLES["resamples"]}, orient="row")
    return comparison.Sweep(Path(), pl.DataFrame(), metrics_, scores, drawn)


def test_metrics_of_whole_runs_are_compared_by_paired_resamples() -> None:
    sweep = whole_runs(
        50,
        a={"turns": 10.0, "turns_wasserstein": 2.0, "item_entropy": 7.0, "guesswork_words": 5.0},
        b={"turns": 13.0, "turns_wasserstein": 1.0, "item_entropy": 6.0, "guesswork_words": 1.0},
        c={"turns": 8.0, "item_entropy": 6.9},
    )
    differences = comparison.differences(sweep)
    rows = {(row["condition"], row["metric"]): row for row in differences.iter_rows(named=True)}
    assert {key: row["better"] for key, row in rows.items()} == {
        ("b", "guesswork_words"): None,  # neither more nor less is better
        ("b", "turns"): True,  # 1 from the human 9 against 4
        ("b", "turns_wasserstein"): False,
        ("b", "item_entropy"): True,
        ("c", "turns"): None,  # both 1 from it, on either side
        ("c", "item_entropy"): None,
    }
    entropy = rows["b", "item_entropy"]
    # Unpaired resamples of spread 1 would leave a difference of 1 open; what is common to both cancels.
    assert (entropy["low"], entropy["high"]) == (pytest.approx(0.72, abs=0.05), pytest.approx(1.28, abs=0.05))
    assert 0 < entropy["p"] < 1e-6
    assert rows["c", "item_entropy"]["p"] > 0.3
    assert rows["b", "guesswork_words"]["p"] is None
    words = [line.word for line in comparison.verdict(sweep, differences)]
    assert words == ["yes", "no", "open"]


def test_dialogues_without_a_common_id_are_compared_as_whole_runs() -> None:
    """What others made has ids of its own: no pair, yet a difference of the two values with its interval."""
    sweep = whole_runs(50, theirs={"item_entropy": 7.0, "hits": 0.2}, ours={"item_entropy": 6.0, "hits": 0.5})
    rows = [(c, c, f"{c}{i}", "hits", float(i % 2)) for c in ("theirs", "ours") for i in range(50)]
    scores = pl.DataFrame(rows, schema={"condition": pl.String, **schemas.TABLES["scores"]}, orient="row")
    differences = comparison.differences(replace(sweep, scores=scores))
    row = differences.filter(metric="hits").row(0, named=True)
    assert (row["difference"], row["n"]) == (pytest.approx(-0.3), 50)
    assert row["low"] < -0.3 < row["high"]


def test_a_run_without_prompts_has_no_number_of_leaks(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path)
    audit = {kind.replace(" ", "_"): None for kind in KINDS} | {"hidden_item_in_profile": 0}
    Run(tmp_path / "runs" / "0").update(audit=audit)
    assert comparison.read(str(sweep)).conditions["leaks"].to_list() == [None, len(KINDS), None]


def test_small_numbers_claim_nothing() -> None:
    few = whole_runs(29, a={"item_entropy": 7.0, "turns": 9.0}, b={"item_entropy": 2.0, "turns": 1.0})
    differences = comparison.differences(few)
    assert differences["p"].null_count() == differences["better"].null_count() == 2
    (line,) = comparison.verdict(few, differences)
    assert (line.word, line.sentence[-6:], line.evidence[:28]) == ("open", "than b", "n too small (below 30); Entr")
    without = replace(whole_runs(50, a={"item_entropy": 7.0}, b={"item_entropy": 2.0}), resamples=few.resamples.clear())
    (row,) = comparison.differences(without).rows(named=True)
    assert (row["difference"], row["low"], row["p"], row["better"]) == (5.0, None, None, None)


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
    sweep = comparison.Sweep(Path(), pl.DataFrame(), pl.DataFrame(), scores, pl.DataFrame(), runs)
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
    for file in ("agents.yaml", "conditions.yaml", "pairings.yaml"):
        for point in read_conditions(ROOT / "data" / file):
            assert RunParameters.parse(point).condition == point["condition"]
            assert known.setdefault(point["condition"], point) == point
            assert all((ROOT / path).is_file() for name, path in point.items() if path and name.endswith("_adapter"))
