"""Charts draw what is in their frames: read back from the Vega-Lite specification and the SVG."""

import json
import re
import subprocess
import sys

import polars as pl

from crslib import schemas
from crslib.metrics.leakage import KINDS
from crslib.reporting import charts, dot_plot
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


def measured(name: str, value: float, **more: object) -> dict[str, object]:
    return {**dict.fromkeys(schemas.TABLES["metrics"]), "metric": name, "value": value, "n": 64, **more}


MEASURED = pl.DataFrame(
    [
        measured("hits", 0.5, family="recommendation", low=0.4, high=0.6),
        measured("own", 1.0, family="own", low=1.0, high=1.0, human=0.0),
        measured("turns", 20.0, family="realism", low=18.0, high=22.0, human=10.0),
        measured("user_words_ks", 0.3, family="realism", low=0.1, high=4.0, human=0.2, floor=0.4),
        measured("user_words", 1.0, family="realism", low=0.5, high=2.0, human=10.0),
    ],
    schema=dict(schemas.TABLES["metrics"]),
)


def test_metrics_stand_as_multiples_of_peoples() -> None:
    """Those that people have, in the order of all metrics; what is off the scale at its end."""
    drawn = {row["value"]: row for row in rows(dot_plot.against_people(MEASURED)) if "value" in row}
    assert [round(value, 9) for value in drawn] == [0.125, 2.0, 1.5]  # words per turn are the first of all metrics
    words, turns, distance = drawn.values()
    assert (turns["low"], turns["high"], turns["verdict"], turns["side"]) == (1.8, 2.2, "above people", "")
    assert (words["low"], words["high"], words["side"]) == (0.125, 0.2, "below")
    assert (distance["floor"], distance["high"], distance["verdict"]) == (2.0, 8.0, "like people")
    assert (turns["figures"], turns["people"]) == ("20.0 [18.0, 22.0]", "10.0")
    titles = [row["title"] for row in rows(dot_plot.against_people(MEASURED)) if "title" in row]
    assert titles == ["Realism", "Words per user turn", "Turns per dialogue", "Words per user turn: KS"]


def test_a_chart_is_as_wide_as_a_phone() -> None:
    """With its labels; a page makes none smaller than nine tenths there."""
    share = pl.DataFrame({"n_turn": [1, 2], "value": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.3, 0.4]})
    named = pl.DataFrame({"source": ["simulated"], "rank": [1], "name": ["The Lord of the Rings: The Two Towers"]})
    reacted = {"kind": ["unseen_uninterested"], "question": ["seen"], "answer": ["no"], "share": [1.0]}
    acted = {"role": ["recommender"], "act": ["recommend by asking"], "share": [0.2], "low": [0.1], "high": [0.3]}
    audit = pl.DataFrame({"check": list(KINDS.values()), "findings": [0] * len(KINDS), "read": [1000] * len(KINDS)})
    compared = {
        "condition": ["scripted-grounded, seed=12"],
        "value": [0.5],
        "low": [0.4],
        "high": [0.6],
        "human": [0.5],
    }
    source = pl.DataFrame({"source": ["simulated"]})
    drawn = {
        "success": charts.success_by_turn(share),
        "lengths": charts.lengths(source.with_columns(role=pl.lit("recommender"), value=3, share=0.2)),
        "popularity": charts.popularity(named.with_columns(share=0.5)),
        "concentration": charts.concentration(named.with_columns(share=0.5)),
        "reactions": charts.reactions(pl.concat([source, pl.DataFrame(reacted)], how="horizontal"), MOVIES),
        "acts": charts.acts(
            pl.concat([source, pl.DataFrame(acted)], how="horizontal"),
            {("recommender", "recommend by asking"): 0.5},
            MOVIES,
        ),
        "leakage": charts.leakage(audit),
        "anonymity": charts.anonymity(pl.DataFrame({"k_anonymity": [20, 4000]}), 20),
        "conditions": charts.conditions(pl.DataFrame(compared)),
        "people": dot_plot.against_people(MEASURED, narrow=True),
    }
    widths = {name: float(re.search(r'width="([\d.]+)"', charts.svg(chart))[1]) for name, chart in drawn.items()}
    assert {name: width for name, width in widths.items() if width > 355} == {}


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
