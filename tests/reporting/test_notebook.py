"""What notebooks show: whole tables, in which no text becomes markup."""

import polars as pl

from crslib import schemas, stats
from crslib.reporting import notebook, summary
from tests.support.people_runs import SCRIPT


def test_a_table_is_whole_and_its_texts_are_escaped() -> None:
    rows = [(n, "x" * 200, ["a", SCRIPT], 0.5) for n in range(60)]
    schema = {"n": pl.Int64, SCRIPT: pl.String, "kinds": pl.List(pl.String), "share": pl.Float64}
    html = notebook.table(pl.DataFrame(rows, schema=schema, orient="row"), SCRIPT, SCRIPT)._repr_html_()
    assert html.count("<tr>") == 61
    assert html.count("x" * 200) == 60
    assert "<script" not in html and "<img" not in html
    assert html.count("&lt;script&gt;") == 63  # title, reading, head, cells
    assert "text-align: right" in html and "0.500" in html


def test_columns_are_named_and_long_tables_say_that_they_are_cut() -> None:
    frame = pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    shown = notebook.table(frame, "Rows", heads={"b": "letters (unit)"}, most=2)
    assert (shown.title, shown.table.rows()) == ("Rows (the first 2 of 3 rows)", [("x",), ("y",)])
    assert shown.table.columns == ["letters (unit)"]
    assert repr(shown) == "Rows (the first 2 of 3 rows)\n| letters (unit) |\n|---|\n| x |\n| y |"


def test_what_is_empty_says_so() -> None:
    empty = notebook.table(pl.DataFrame({"a": []}), "Failures")
    assert empty._repr_html_() == "<h3>Failures</h3>\n<p>There is none.</p>"
    assert notebook.sentences([], "Verdict").remarks == ("There is nothing to say.",)
    assert notebook.estimate(None, "AUC", why="nobody rated").remarks == ["Not measured: nobody rated."]
    assert notebook.estimate(stats.Estimate(0.5, 0.25, 0.75, 1200), "AUC").remarks == [
        "0.500 [0.250, 0.750], n = 1,200"
    ]


def test_metrics_have_titles_units_and_people() -> None:
    row = dict.fromkeys(schemas.TABLES["metrics"]) | {
        **{"metric": "turns", "value": 12.25, "low": 11.0, "high": 13.0, "human": 11.7, "n": 3},
        **{"unit": "turns", "direction": "human", "family": "realism"},
    }
    frame = pl.DataFrame([row], schema=dict(schemas.TABLES["metrics"]))
    assert summary.metrics(frame).rows() == [
        ("Turns per dialogue", "12.2", "11.0 to 13.0", "11.7", "", "turns", 3, "closer to people")
    ]
