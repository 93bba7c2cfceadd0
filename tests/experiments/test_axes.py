"""A sweep along its axes, from runs whose figures are known."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from crslib import schemas
from crslib.errors import CrsError
from crslib.experiments import axes, comparison
from crslib.reporting import charts, notebook
from crslib.store import Run


def make_sweep(folder: Path, values: Sequence[dict[str, Any]]) -> comparison.Sweep:
    """Condition n has hits n / 10 with an interval of ± 0.1, and 6 + n turns; the last condition failed."""
    conditions = []
    for number, own in enumerate(values):
        run = Run(folder / "runs" / str(number))
        run.update(run_id=str(number))
        failed = number == len(values) - 1
        hits = {"metric": "hits", "value": number / 10, "low": number / 10 - 0.1, "high": number / 10 + 0.1, "n": 4}
        turns = {"metric": "turns", "value": 6.0 + number, "n": 4, "human": 11.7}
        nothing = dict.fromkeys(schemas.TABLES["metrics"])
        rows = [] if failed else [nothing | hits, nothing | turns]
        run.write("metrics", pl.DataFrame(rows, schema=dict(schemas.TABLES["metrics"])))
        for name in ("scores", "resamples"):
            run.write(name, schemas.empty(name))
        state = "error" if failed else "success"
        conditions.append({"run_id": str(number), "path": f"../runs/{number}", "state": state, "values": own})
    sweep = folder / "s"
    sweep.mkdir()
    (sweep / "sweep.json").write_text(json.dumps({"axes": sorted(values[0]), "conditions": conditions}))
    return comparison.read(str(sweep))


GRID = [{"opener": opener, "temperature": t} for opener in ("user", "mixed") for t in (10, 0.5)] + [
    {"opener": "user", "temperature": 2}
]


def test_conditions_stand_in_the_order_of_their_places(tmp_path: Path) -> None:
    placed = axes.points(make_sweep(tmp_path, GRID)).filter(metric="hits")
    assert placed.select("axis opener", "axis temperature", "value").rows() == [
        ("mixed", 0.5, 0.3),
        ("mixed", 10.0, 0.2),
        ("user", 0.5, 0.1),
        ("user", 10.0, 0.0),
    ]


def test_the_table_has_a_column_per_axis_and_figure_and_a_row_of_people(tmp_path: Path) -> None:
    table = axes.table(make_sweep(tmp_path, GRID))
    assert table.columns == ["opener", "temperature", "Dialogues with a hit (share)", "Turns per dialogue (turns)"]
    assert table.row(0) == ("mixed", "0.5", "0.300 [0.200, 0.400]", "9.00")
    assert table.row(-1)[:3] == ("people", "", "")
    assert table.row(-1)[3].startswith("11.7 [")


def test_a_chart_for_each_axis_has_the_figures_along_it(tmp_path: Path) -> None:
    one, two = axes.figures(make_sweep(tmp_path, GRID))
    assert (one.title, two.title) == ("Along opener", "Along temperature")
    svg = charts.svg(two.chart)
    for text in ("opener = mixed", "opener = user", "Dialogues with a hit (share)", "temperature"):
        assert text in svg
    assert notebook.Section("x", figures=[one, two])._repr_html_().count("<svg") == 2


def test_one_axis_has_no_legend_and_an_axis_of_one_value_no_chart(tmp_path: Path) -> None:
    (figure,) = axes.figures(make_sweep(tmp_path, [{"temperature": t} for t in (0.5, 1, 2)]))
    assert "=" not in "".join(part.split(">")[1] for part in charts.svg(figure.chart).split("<text")[1:])


def test_values_stand_as_they_were_given(tmp_path: Path) -> None:
    table = axes.table(make_sweep(tmp_path, [{"seed": seed} for seed in (1234568, 1234567, 3)]))
    assert table["seed"].to_list() == ["1234567", "1234568", "people"]


def test_an_axis_may_be_called_like_a_figure(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"human": folder} for folder in ("here", "there", "nowhere")])
    placed = axes.points(sweep).filter(metric="turns")
    assert placed.select("axis human", "value", "human").rows() == [("here", 6.0, 11.7), ("there", 7.0, 11.7)]
    assert axes.table(sweep)["human"].to_list() == ["here", "there", "people"]
    assert [figure.title for figure in axes.figures(sweep)] == ["Along human"]


def test_conditions_that_have_names_only_have_no_place(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"condition": name} for name in ("a", "b", "c")])
    for shown in (axes.points, axes.table, axes.figures):
        with pytest.raises(CrsError, match="s has no axes, its conditions have names only; look at it with 04_compare"):
            shown(sweep)


def test_a_sweep_in_which_all_failed_has_an_empty_table(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, [{"temperature": 1}])
    assert (axes.table(sweep).height, axes.figures(sweep)) == (0, [])
