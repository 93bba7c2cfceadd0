"""Charts draw what is in their frames: read back from the Vega-Lite specification and the SVG."""

import json
import subprocess
import sys

import polars as pl

from crslib.reporting import charts
from tests.support.domains import MOVIES


def spec(chart: object) -> dict:
    return json.loads(chart.to_json())  # type: ignore[attr-defined]


def rows(chart: object) -> list[dict]:
    return [row for data in spec(chart)["datasets"].values() for row in data]


def test_lengths_are_binned_and_the_longest_share_a_bin() -> None:
    frame = pl.DataFrame(
        {"role": ["user"] * 4, "source": ["human"] * 4, "value": [1, 2, 3, 90], "share": [0.1, 0.2, 0.3, 0.4]}
    )
    binned = {row["words"]: round(row["share"], 9) for row in rows(charts.lengths(frame, longest=10))}
    assert binned == {0: 0.1, 2: 0.5, 10: 0.4}


def test_curves_show_estimate_and_interval() -> None:
    frame = pl.DataFrame({"n_turn": [1, 2], "value": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.3, 0.4]})
    for chart in (charts.success_by_turn(frame), charts.coverage_by_turn(frame)):
        assert rows(chart) == frame.to_dicts()
        assert {layer["mark"]["type"] for layer in spec(chart)["layer"]} == {"area", "line"}


def test_leakage_is_labelled_with_counts() -> None:
    frame = pl.DataFrame({"check": ["a", "b"], "findings": [0, 3], "read": [10, 12]})
    assert [(row["label"], row["share"]) for row in rows(charts.leakage(frame))] == [
        ("0 of 10", 0.0),
        ("3 of 12", 0.25),
    ]


def test_popularity_takes_the_top_of_the_run_only() -> None:
    frame = pl.DataFrame(
        {"source": ["simulated"] * 3 + ["human"], "rank": [1, 2, 3, 1], "name": ["A", "B", "C", None],
         "share": [0.3, 0.2, 0.1, 0.9]}
    )  # fmt: skip
    assert [row["name"] for row in rows(charts.popularity(frame, top=2))] == ["A", "B"]
    assert {row["source"] for row in rows(charts.concentration(frame))} == {"simulated", "human"}


def test_svg_is_self_contained_and_escaped() -> None:
    frame = pl.DataFrame({"source": ["simulated"], "rank": [1], "name": ["<b>&</b>"], "share": [0.5]})
    drawn = charts.svg(charts.popularity(frame))
    assert drawn.startswith("<svg")
    assert "<b>" not in drawn
    assert "<image" not in drawn
    assert "&lt;b&gt;" in drawn


def test_reactions_translate_kinds_and_questions() -> None:
    frame = pl.DataFrame(
        {"source": ["human"], "kind": ["unseen_interested"], "question": ["seen"], "answer": ["no"], "share": [1.0]}
    )
    (row,) = rows(charts.reactions(frame, MOVIES))
    assert (row["kind"], row["question"]) == ("not seen, interested", "says it has seen it")


def test_acts_have_a_panel_per_role_and_name_the_taggers_f1() -> None:
    frame = pl.DataFrame(
        {"source": ["human", "human"], "role": ["user", "recommender"], "act": ["seen", "request"],
         "share": [0.2, 0.1], "low": [0.1, 0.0], "high": [0.3, 0.2]}
    )  # fmt: skip
    chart = charts.acts(frame, {("user", "seen"): 0.761, ("recommender", "request"): 0.9}, MOVIES)
    assert {row["label"] for row in rows(chart)} == {"seen (F1 0.76)", "request (F1 0.90)"}
    assert len(spec(chart)["hconcat"]) == 2


def test_texts_that_cannot_be_drawn_get_a_sign() -> None:
    """In a process of its own: of some characters the converter makes an abort, of others a syntax error."""
    script = """
import polars as pl
from crslib.reporting import charts
text = "a" + "".join(map(chr, (0, 1, 0x1B, 0x7F, 0x9B, 0x2028, 0x2029, 0x202E, 0xFFFE, 0xFFFF))) + "</svg><script>z"
frame = pl.DataFrame({"source": ["simulated"], "rank": [1], "name": [text], "share": [0.5]})
chart = charts.popularity(frame)
shown = chart._repr_mimebundle_()
shown = (shown[0] if isinstance(shown, tuple) else shown)["image/svg+xml"]
assert shown == charts.svg(chart)
assert "<script" not in shown
print("\ufffd" in shown, "z" in shown)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True True\n"), done.stderr
