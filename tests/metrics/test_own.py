"""Metrics of one's own: what a function may be and return, and where its scores are found."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.experiments import comparison, sweep
from crslib.experiments import own as beside
from crslib.metrics import METRICS, Evaluation, Frames, all_metrics, evaluate, metric, own, reference
from crslib.reporting import html
from crslib.store import Run
from crslib.web import viewer
from tests.support.domains import MOVIES
from tests.support.metrics_frames import table, talk

HUMAN = reference.read(ROOT / "data" / "human")
EXAMPLE = "python:data/protocol/own_metrics.py:thanks,early"
TALKS = {
    "a": ["U: Hi, an action movie?", "R: Try [[Heat (1995)]].", "U: Thanks!", "R: Bye."],
    "b": ["R: Hello.", "U: Hello.", "R: Hm.", "U: thank you"],
    "c": ["R: [[The Matrix (1999)]]?", "U: No."],
}


def tables() -> dict[str, pl.DataFrame]:
    dialogues, turns = talk(TALKS)
    profiles = [{"profile_id": name, "k_anonymity": 25, "summary": "You like films."} for name in TALKS]
    prompts = [{"dialogue_id": "a", "turn": 0, "role": "user", "text": "x", "n_tokens": 1}]
    return {
        "dialogues": dialogues,
        "turns": turns,
        "profiles": table("profiles", profiles),
        "holdouts": table("holdouts", [{"profile_id": "a", "item_id": "1", "rating": 5.0, "liked": True}]),
        "ratings": table("ratings", [{"user_id": "a", "item_id": "2", "rating": 5.0}]),
        "prompts": table("prompts", prompts),
    }


def measured(items: pl.DataFrame, *functions: own.Function) -> Evaluation:
    more = {"items": items, "human": HUMAN, "domain": MOVIES, "n_bootstrap": 100, "seed": 0}
    return evaluate("run", **tables(), **more, metrics=functions)  # type: ignore[arg-type]


def test_the_example_by_hand(items: pl.DataFrame) -> None:
    """Of five user turns two thank (1 of 2, 1 of 2, 0 of 1). Titles come first in turn 1 of a, in turn 0 of c."""
    evaluation = measured(items, *own.load(EXAMPLE))
    rows = {row["metric"]: row for row in evaluation.metrics.filter(family="own").iter_rows(named=True)}
    assert list(rows) == ["thanks", "early"]
    assert (rows["thanks"]["value"], rows["early"]["value"]) == (2 / 5, 0.5)
    assert (rows["early"]["unit"], rows["early"]["direction"]) == ("turns", "lower")
    assert (rows["thanks"]["unit"], rows["thanks"]["direction"], rows["thanks"]["human"]) == ("", "none", None)
    scores = {
        name: dict(evaluation.scores.filter(metric=name).select("dialogue_id", "value").iter_rows()) for name in rows
    }
    assert scores == {"thanks": {"a": 0.5, "b": 0.5, "c": 0.0}, "early": {"a": 1.0, "c": 0.0}}
    assert rows["thanks"]["low"] < 0.4 < rows["thanks"]["high"]
    assert set(evaluation.resamples["metric"]) >= {"thanks", "early"}
    definition = evaluation.own["thanks"]
    assert (definition.title, definition.definition) == ("Thanks", "Share of the user's turns that thank.")
    assert definition.settings in rows["thanks"]["signature"]
    assert evaluation.own["early"].title == "First title"


def test_other_metrics_are_what_they_are_without_it(items: pl.DataFrame) -> None:
    with_own, without = measured(items, *own.load(EXAMPLE)), measured(items)
    assert with_own.metrics.filter(pl.col("family") != "own").equals(without.metrics)
    assert with_own.scores.filter(~pl.col("metric").is_in(["thanks", "early"])).equals(without.scores)
    assert not without.own


def test_what_a_function_changes_is_its_own(items: pl.DataFrame) -> None:
    given = []

    def vandal(frames: Frames) -> pl.DataFrame:
        frames.turns.drop_in_place("text")
        frames.dialogues.insert_column(0, pl.lit(1).alias("x"))
        frames.profiles[0, "summary"] = "mine"
        with pytest.raises(AttributeError):
            frames.turns = frames.dialogues  # type: ignore[misc]
        with pytest.raises(ValueError, match="read-only"):
            frames.turns["turn"].to_numpy()[0] = np.int32(7)
        return frames.dialogues.select("dialogue_id", value=1)

    def later(frames: Frames) -> pl.DataFrame:
        given.append(frames)
        return frames.dialogues.select("dialogue_id", value=2)

    before = tables()
    evaluation = measured(items, vandal, later)
    assert given[0].turns.equals(before["turns"])
    assert given[0].profiles.equals(before["profiles"])
    assert evaluation.metrics.filter(metric="later")["value"].item() == 2
    assert evaluation.metrics.filter(metric="turns").equals(measured(items).metrics.filter(metric="turns"))


def test_a_null_is_no_value(items: pl.DataFrame) -> None:
    def some(frames: Frames) -> pl.DataFrame:
        return pl.DataFrame({"dialogue_id": ["a", "a", "b"], "value": [1.0, None, None]})

    def nothing(frames: Frames) -> pl.DataFrame:
        return frames.dialogues.select("dialogue_id", value=None)

    evaluation = measured(items, some, nothing)
    assert evaluation.scores.filter(metric="some").select("dialogue_id", "value").rows() == [("a", 1.0)]
    assert "nothing" not in evaluation.metrics["metric"]
    assert list(evaluation.own) == ["some", "nothing"]


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (1.0, "returned float; it must return a frame with columns dialogue_id and value"),
        (pl.DataFrame({"dialogue_id": ["a"]}), "returned columns dialogue_id; it must"),
        (pl.DataFrame({"dialogue_id": ["a"], "value": [1], "x": [2]}), "returned columns dialogue_id, value, x"),
        (pl.DataFrame(), r"returned columns \(none\)"),
        (pl.DataFrame({"dialogue_id": ["a"], "value": ["1"]}), "returned .* and value as String; they must be"),
        (pl.DataFrame({"dialogue_id": [1], "value": [1]}), "returned dialogue_id as Int64"),
        (pl.DataFrame({"dialogue_id": ["a"], "value": [float("nan")]}), "returned nan for dialogue 'a'; leave"),
        (pl.DataFrame({"dialogue_id": ["a"], "value": [float("inf")]}), "returned inf for dialogue 'a'"),
        (pl.DataFrame({"dialogue_id": ["z"], "value": [1]}), "returned dialogue 'z', which the run lacks"),
        (pl.DataFrame({"dialogue_id": [None], "value": [1]}, schema_overrides={"dialogue_id": pl.String}),
         "returned dialogue None, which the run lacks"),
        (KeyError("x"), r"raised KeyError: 'x' \(test_own.py, line \d+\); correct it"),
    ],
)  # fmt: skip
def test_what_is_no_score_is_a_sentence(items: pl.DataFrame, result: object, sentence: str) -> None:
    def mine(frames: Frames) -> pl.DataFrame:
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[return-value]

    with pytest.raises(CrsError, match=f"the metric 'mine' {sentence}"):
        measured(items, mine)


def test_what_can_be_no_metric_is_a_sentence() -> None:
    def hits(frames: Frames) -> pl.DataFrame:
        return pl.DataFrame()

    def two(frames: Frames, more: int) -> pl.DataFrame:
        return pl.DataFrame()

    for functions, sentence in (
        ([hits], "a metric of crslib has the name 'hits' already; rename the function"),
        ([own.load(EXAMPLE)[0]] * 2, "a metric of yours has the name 'thanks' already"),
        (
            [two],
            r"the metric 'two' cannot be called \(missing .* 'more'\); write it as two\(frames\)",
        ),
        ([lambda frames: frames], "a metric needs a name, which <function .* lacks"),
    ):
        with pytest.raises(CrsError, match=sentence):
            own.definitions(functions)
    with pytest.raises(CrsError, match="the direction 'up' of a metric is none of higher, lower, none"):
        metric(direction="up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hits", "metrics = 'hits' names no function; write python:MODULE:FUNCTION"),
        ("my.py:thanks", "names no function"),
        ("python:data/protocol/own_metrics.py:thank", "it has .*thanks.*; did you mean 'thanks'?"),
        ("python:data/protocol/own_metrics.py:thanks,erly", "has no 'erly'; .* did you mean 'early'?"),
        ("python:data/protocol/own_metrics.py:thanks,", "names no function"),
        ("python:data/protocol/no_such.py:thanks", "there is no file"),
    ],
)
def test_an_unknown_name_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(CrsError, match=sentence):
        own.load(name)
    assert own.load("") == []


def stored(folder: Path, name: str, items: pl.DataFrame) -> Run:
    run = Run(folder / name)
    run.path.mkdir()
    for table_name, frame in {**tables(), "items": items}.items():
        run.write(table_name, frame)
    MOVIES.write(run.path)
    run.update(run_id=name, status="success", parameters={"condition": name, "human": str(HUMAN_FOLDER)})
    return run


HUMAN_FOLDER = ROOT / "data" / "human"


def test_report_viewer_and_comparison_have_it(tmp_path: Path, items: pl.DataFrame) -> None:
    runs = {name: stored(tmp_path, name, items) for name in ("one", "two")}
    for run in runs.values():
        beside.evaluate(run, n_bootstrap=100, seed=0, metrics=own.load(EXAMPLE))
    one = runs["one"]
    assert one.info["metrics"]["thanks"] == 2 / 5
    assert list(all_metrics(one)) == [*METRICS, "thanks", "early"]
    report = html.write(one, []).read_text(encoding="utf-8")
    for text in ("First title", "Share of the user&#39;s turns that thank.", "own</"):
        assert text in report
    shown = viewer.rows([one])["metrics"]
    assert {"name": "early", "title": "First title"} in shown
    sweep.write(tmp_path / "both", "both", [(run, run.run_id, "success") for run in runs.values()],
                [{"condition": name} for name in runs])  # fmt: skip
    read = comparison.read(str(tmp_path / "both"))
    differences = comparison.differences(read)
    assert differences.filter(metric="thanks").select("difference", "n", "better").row(0) == (0.0, 3, None)
    rows = comparison.table(read, differences).filter(family="own")
    assert rows["metric"].to_list() == ["Thanks", "First title"]
    assert rows["better"].to_list() == ["", "lower"]
    assert any(figure.title == "Own" for figure in comparison.figures(read))
    record = comparison.record(read)
    assert record["two"]["early"]["mean"] == 0.5
    assert "thanks" not in record["human"]


def test_what_is_no_definition_in_a_run_is_a_sentence(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.update(own_metrics=[{"name": "x"}])
    with pytest.raises(CrsError, match=r"run.json: own_metrics: 0.family is not valid: .*; evaluate the run again"):
        all_metrics(run)
    about = {"family": "own", "title": "X", "unit": "", "direction": "none", "definition": "x"}
    run.update(own_metrics=[{"name": "x", **about}, {"name": "hits", **about}])
    assert all_metrics(run)["x"].title == "X"
    assert all_metrics(run)["hits"] == METRICS["hits"]


def test_a_changed_function_is_another_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    hashes = []
    for number, name in enumerate(("old_metrics", "new_metrics")):
        (tmp_path / f"{name}.py").write_text(f"def mine(frames):\n    return {number}\n")
        hashes.append(own.sources(own.load(f"python:{name}:mine")))
    assert [list(each) for each in hashes] == [["mine"], ["mine"]]
    assert len({json.dumps(each) for each in hashes}) == 2
