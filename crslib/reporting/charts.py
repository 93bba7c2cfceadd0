"""Altair charts of aggregated frames. Computes no metric and knows no run.

Notebooks show charts as SVG: Altair's own renderer would load its script from the network.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from crslib.dialogue.domain import Domain
from crslib.dialogue.views import note_words

# Of every text in a chart: what cannot stand in SVG, at which the converter ends the process, or in its script.
_NOT_DRAWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")

# A chart is as wide as a phone, with its labels: on a page two or three of them are side by side.
WIDTH, HEIGHT = 262, 170
SIMULATED, HUMAN = "#2463a8", "#6b7683"
INK, SOFT, LINE, GROUND, BAD = "#1b2430", "#55616e", "#e3e7ec", "#ffffff", "#b3261e"
# The names by which a page knows these colours: it gives them other values in the dark.
_VARIABLES = {SIMULATED: "accent", HUMAN: "people", INK: "ink", SOFT: "soft", LINE: "line", GROUND: "card", BAD: "bad"}
_SOURCES = alt.Color(
    "source:N",
    title=None,
    scale=alt.Scale(domain=["simulated", "human"], range=[SIMULATED, HUMAN]),
    legend=alt.Legend(orient="top"),
)
_PERCENT = alt.Axis(format="%", grid=True)
_ABOVE = alt.Header(labelOrient="top", labelAnchor="start", labelAngle=0, labelPadding=2)
_ABOVE_TITLE = alt.Header(labelOrient="top", labelAnchor="start", labelAngle=0, labelPadding=14)


@alt.theme.register("crs", enable=True)
def _theme() -> alt.theme.ThemeConfig:
    return {
        "config": {
            "font": "DejaVu Sans, Verdana, Arial, sans-serif",
            "background": "transparent",
            "aria": False,
            "view": {"stroke": None},
            "axis": {
                "labelFontSize": 11,
                "labelColor": SOFT,
                "titleFontSize": 11,
                "titleFontWeight": "normal",
                "titleColor": SOFT,
                "gridColor": LINE,
                "domainColor": HUMAN,
                "tickColor": HUMAN,
            },
            "axisX": {"titleAnchor": "end"},
            "axisY": {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": 0, "titleY": -9},
            "legend": {"labelFontSize": 11, "labelColor": INK, "titleColor": SOFT},
            "header": {"labelFontSize": 11, "labelColor": INK, "titleColor": SOFT},
            "title": {"color": INK, "fontSize": 12, "anchor": "start"},
            "range": {"category": [SIMULATED, "#b4690e", "#2e7d5b", "#8a4fa3", "#b3392f", HUMAN]},
        }
    }


def svg(chart: alt.TopLevelMixin) -> str:
    """The chart as one `<svg>` element; texts in it are escaped."""
    return _svg(chart.to_dict())


def themed(drawing: str) -> str:
    """An SVG with the colours of the page that it stands in, whose style gives `--ink` and the others their values."""
    for colour, name in _VARIABLES.items():
        drawing = drawing.replace(f'"{colour}"', f'"var(--{name})"')
    return drawing


def _svg(spec: dict[str, Any]) -> str:
    return vl_convert.vegalite_to_svg(_drawable(spec), allowed_base_urls=[])


def _drawable(spec: Any) -> Any:
    """A chart's description with a sign for each character of a text that cannot be drawn."""
    if isinstance(spec, str):
        return _NOT_DRAWABLE.sub("\ufffd", spec)
    if isinstance(spec, dict):
        return {name: _drawable(value) for name, value in spec.items()}
    return [_drawable(value) for value in spec] if isinstance(spec, list) else spec


alt.renderers.register("crs", lambda spec, **_: {"image/svg+xml": _svg(spec)})
alt.renderers.enable("crs")


def grid(charts: Sequence[alt.Chart | alt.LayerChart | alt.FacetChart], columns: int = 2) -> alt.ConcatChart:
    """Charts in rows of `columns`, each on its own scales."""
    return alt.concat(*charts, columns=columns).resolve_scale(x="independent", y="independent", color="independent")


def _curve(frame: pl.DataFrame, x: str, y: str) -> alt.Chart:
    base = alt.Chart(frame).encode(x=alt.X("n_turn:Q", title=x, axis=alt.Axis(tickMinStep=1, format="d")))
    band = base.mark_area(opacity=0.2, color=SIMULATED).encode(y=alt.Y("low:Q"), y2="high:Q")
    share = alt.Y("value:Q", title=y, axis=_PERCENT, scale=alt.Scale(domainMin=0))
    line = base.mark_line(color=SIMULATED, point=True).encode(y=share)
    return (band + line).properties(width=WIDTH, height=HEIGHT)


def success_by_turn(curve: pl.DataFrame) -> alt.Chart:
    """`recommendation.hit_by_turn`: n_turn, value, low, high (shares of dialogues)."""
    return _curve(curve, "recommender's turn", "dialogues that recommended a hidden item")


def coverage_by_turn(curve: pl.DataFrame) -> alt.Chart:
    """`consistency.coverage_by_turn`: n_turn, value, low, high (shares of the target attributes)."""
    return _curve(curve, "user's turn", "target attributes said")


def lengths(histograms: pl.DataFrame, longest: int = 40) -> alt.Chart:
    """Words per turn: role, source, value, share; in steps of two, turns longer than `longest` in the last step."""
    binned = (
        histograms.with_columns((pl.min_horizontal("value", pl.lit(longest)) // 2 * 2).alias("words"))
        .group_by("role", "source", "words")
        .agg(pl.col("share").sum())
        .sort("role", "source", "words")
    )
    line = (
        alt.Chart(binned)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("words:Q", title=f"words per turn ({longest}: {longest} or more)"),
            y=alt.Y("share:Q", title="share of turns", axis=_PERCENT),
            color=_SOURCES,
            row=alt.Row("role:N", title=None, header=_ABOVE_TITLE),
        )
        .properties(width=WIDTH, height=84)
    )
    return line


def popularity(ranked: pl.DataFrame, top: int = 15) -> alt.Chart:
    """The most recommended items by name: source, rank, name, share (of the dialogues)."""
    named = ranked.filter(source="simulated").head(top)
    bars = (
        alt.Chart(named)
        .mark_bar(color=SIMULATED)
        .encode(
            x=alt.X("share:Q", title="share of dialogues in which it was recommended", axis=_PERCENT),
            y=alt.Y("name:N", title=None, sort=named["name"].to_list(), axis=alt.Axis(labelLimit=190)),
        )
        .properties(width=WIDTH - 130, height=alt.Step(17))
    )
    return bars


def concentration(ranked: pl.DataFrame, ranks: int = 100) -> alt.Chart:
    """How much recommendations concentrate on few items: source, rank, share."""
    line = (
        alt.Chart(ranked.filter(pl.col("rank") <= ranks).select("source", "rank", "share"))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("rank:Q", title="item, by rank (log)", scale=alt.Scale(type="log", domain=[1, ranks])),
            y=alt.Y("share:Q", title="share of dialogues", axis=_PERCENT),
            color=_SOURCES.legend(orient="top", offset=22),
        )
        .properties(width=WIDTH, height=HEIGHT)
    )
    return line


def reactions(table: pl.DataFrame, domain: Domain) -> alt.Chart:
    """`consistency.reaction_table`: source, kind of note, question, answer, share; in the words of the domain."""
    notes, met = note_words(domain), f"says it has {domain.meeting.done[0]} it"
    shown = table.with_columns(
        pl.col("kind").replace_strict(notes, default=pl.col("kind")),
        pl.col("question").replace_strict({"seen": met, "liked": "says it likes it"}, default=""),
    )
    bars = (
        alt.Chart(shown)
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title=None, axis=alt.Axis(format="%", values=[0, 0.5, 1]), stack=True),
            y=alt.Y("source:N", title=None, sort=["simulated", "human"]),
            color=alt.Color(
                "answer:N",
                title=None,
                scale=alt.Scale(domain=["yes", "no", "not said"], range=[SIMULATED, HUMAN, LINE]),
                legend=alt.Legend(orient="top"),
            ),
            order=alt.Order("rank:Q"),
            row=alt.Row("kind:N", title=None, sort=list(notes.values()), header=_ABOVE, spacing=10),
            column=alt.Column("question:N", title=None, sort=[met, "says it likes it"]),
        )
        .transform_calculate(rank="{'yes': 0, 'no': 1, 'not said': 2}[datum.answer]")
        .properties(width=116, height=30)
    )
    return bars


def acts(shares: pl.DataFrame, accuracy: Mapping[tuple[str, str], float], domain: Domain) -> alt.HConcatChart:
    """`metrics.acts.shares`: source, role, act, share, low, high; a panel per role, each act with the tagger's F1.
    Having met an item is said in the words of the domain."""
    panels = []
    for (role,), part in shares.group_by("role", maintain_order=True):
        labels = [f"{domain.notes.met if act == 'seen' else act} (F1 {accuracy[role, act]:.2f})" for act in part["act"]]
        base = alt.Chart(part.with_columns(pl.Series("label", labels, dtype=pl.String))).encode(
            y=alt.Y("label:N", title=None, sort=list(dict.fromkeys(labels)), axis=alt.Axis(labelLimit=200)),
            color=_SOURCES,
            yOffset=alt.YOffset("source:N", sort=["simulated", "human"]),
        )
        title = f"share of the {role}'s turns"
        interval = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title, axis=_PERCENT), x2="high:Q")
        point = base.mark_point(filled=True, size=50, opacity=1).encode(x=alt.X("share:Q", title=title))
        panels.append((interval + point).properties(width=WIDTH - 120, height=alt.Step(10)))
    return alt.hconcat(*panels)


def leakage(checks: pl.DataFrame) -> alt.Chart:
    """`leakage.Audit.table`: check, findings, read."""
    shown = checks.with_columns(
        (pl.col("findings") / pl.col("read").clip(1)).alias("share"),
        pl.format("{} of {}", "findings", "read").alias("label"),
    )
    base = alt.Chart(shown).encode(y=alt.Y("check:N", title=None, sort=None, axis=None))
    bars = base.mark_bar(color=BAD, height=7, yOffset=5).encode(
        x=alt.X("share:Q", title="share with a finding", axis=_PERCENT, scale=alt.Scale(domain=[0, 1]))
    )
    names = base.mark_text(align="left", dy=-7, fontSize=10.5, color=INK).encode(x=alt.value(0), text="check:N")
    counts = base.mark_text(align="left", dx=6, dy=5, fontSize=11, color=SOFT).encode(x="share:Q", text="label:N")
    return (bars + names + counts).properties(width=WIDTH + 50, height=alt.Step(34))


def anonymity(profiles: pl.DataFrame, min_k: int) -> alt.Chart:
    """How many items of the catalogue match each profile's target attributes (column `k_anonymity`)."""
    bars = (
        alt.Chart(profiles.select("k_anonymity"))
        .mark_bar(color=SIMULATED)
        .encode(
            x=alt.X("k_anonymity:Q", bin=alt.Bin(maxbins=25), title="items of the catalogue that match the attributes"),
            y=alt.Y("count()", title="profiles"),
        )
    )
    least = alt.Chart(pl.DataFrame({"k": [min_k]})).mark_rule(color=BAD, strokeDash=[4, 3]).encode(x="k:Q")
    return (bars + least).properties(width=WIDTH, height=HEIGHT)


def conditions(metrics: pl.DataFrame, domain: tuple[float, float] | None = None) -> alt.Chart:
    """One metric over the conditions of a sweep: condition, value, low, high; `human`, its reference value, as a rule.

    `domain`: ends of the axis; None: those of the values."""
    scale = alt.Scale(zero=False) if domain is None else alt.Scale(domain=list(domain))
    labels = min(150, 7 * max(map(len, metrics["condition"]), default=0))
    base = alt.Chart(metrics).encode(y=alt.Y("condition:N", title=None, sort=None, axis=alt.Axis(labelLimit=150)))
    interval = base.mark_rule(color=SIMULATED, strokeWidth=2).encode(x=alt.X("low:Q", title=None), x2="high:Q")
    x = alt.X("value:Q", title=None, scale=scale, axis=alt.Axis(tickCount=5))
    point = base.mark_point(color=SIMULATED, filled=True, size=60, opacity=1).encode(x=x)
    human = alt.Chart(metrics.filter(pl.col("human").is_not_null()).head(1))
    rule = human.mark_rule(color=HUMAN, strokeDash=[4, 3]).encode(x="human:Q")
    return (rule + interval + point).properties(width=WIDTH + 40 - labels, height=alt.Step(20))


def learning(log: pl.DataFrame) -> alt.Chart:
    """Loss over the tokens read, of each step and on validation dialogues, from a training's log (`fit.LOG`)."""
    base = alt.Chart(log).encode(x=alt.X("tokens:Q", title="tokens read", axis=alt.Axis(format="~s")))
    loss = alt.Y("loss:Q", title="nats per own token", scale=alt.Scale(zero=False))
    steps = base.mark_line(color=SIMULATED, opacity=0.6).encode(y=loss)
    validation = alt.Chart(log.drop_nulls("validation")).mark_line(color=HUMAN, point=True)
    return (steps + validation.encode(x="tokens:Q", y="validation:Q")).properties(width=WIDTH, height=HEIGHT)


def usefulness(points: pl.DataFrame) -> alt.ConcatChart:
    """Points of one metric from `experiments.benchmarks.usefulness.measure`: source, n, own_tokens, metric, value, low,
    high; over the training dialogues and over the recommender's own tokens in them. Every line starts at the point with
    n = 0.
    """
    title = points["metric"][0]
    untrained = points.filter(n=0).drop("source")
    trained = points.filter(pl.col("n") > 0)
    whole = pl.concat([trained.select("source").unique().join(untrained, how="cross").select(points.columns), trained])

    def panel(x: str, words: str) -> alt.LayerChart:
        base = alt.Chart(whole.sort("source", "n")).encode(
            x=alt.X(f"{x}:Q", title=words, axis=alt.Axis(format="~s")),
            color=alt.Color("source:N", title=None, legend=alt.Legend(orient="top")),
        )
        line = base.mark_line(point=True).encode(y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)))
        return (base.mark_rule().encode(y="low:Q", y2="high:Q") + line).properties(width=WIDTH, height=HEIGHT)

    return grid([panel("n", "training dialogues"), panel("own_tokens", "tokens of the recommender in them")])


def win_rates(wins: pl.DataFrame) -> alt.FacetChart:
    """How often people prefer one condition to another: a, b, criterion, value, low, high; half is marked."""
    shown = wins.with_columns(pl.format("{} against {}", "a", "b").alias("match"))
    layers = _against_chance(shown, "criterion", "share of votes for the first, ties counted half")
    return layers.facet(facet=alt.Facet("match:N", title=None), columns=1)


def turing_test(shares: pl.DataFrame) -> alt.LayerChart:
    """How often people identify the human dialogue: condition of the other one, value, low, high; half is marked."""
    return _against_chance(shares, "condition", "share of votes for the human dialogue, ties counted half")


def _against_chance(shares: pl.DataFrame, row: str, title: str) -> alt.LayerChart:
    """Shares with intervals, one per `row`, and a rule at one half."""
    shown = shares.with_columns(pl.lit(0.5).alias("half"))
    base = alt.Chart(shown).encode(y=alt.Y(f"{row}:N", title=None, sort=None))
    scale = alt.Scale(domain=[0, 1])
    interval = base.mark_rule(color=SIMULATED, strokeWidth=2).encode(
        x=alt.X("low:Q", scale=scale, title=title), x2="high:Q"
    )
    point = base.mark_point(color=SIMULATED, filled=True, size=70).encode(
        x=alt.X("value:Q", axis=_PERCENT, title=title)
    )
    half = alt.Chart(shown).mark_rule(color=HUMAN, strokeDash=[4, 3]).encode(x="half:Q")
    return (half + interval + point).properties(width=WIDTH - 110, height=alt.Step(24))


def strengths(fitted: pl.DataFrame) -> alt.FacetChart:
    """Bradley–Terry strengths of conditions: criterion, condition, value, low, high (log-odds with mean 0)."""
    base = alt.Chart(fitted).encode(y=alt.Y("condition:N", title=None))
    title = "strength (log-odds)"
    interval = base.mark_rule(color=SIMULATED, strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    point = base.mark_point(color=SIMULATED, filled=True, size=70).encode(x=alt.X("value:Q", title=title))
    layers = (interval + point).properties(width=WIDTH - 110, height=alt.Step(20))
    return layers.facet(facet=alt.Facet("criterion:N", title=None), columns=1)


def funnel(steps: pl.DataFrame) -> alt.LayerChart:
    """How many dialogues are left after each step of a curation: step, left, gone."""
    base = alt.Chart(steps).encode(y=alt.Y("step:N", title=None, sort=None, axis=alt.Axis(labelLimit=170)))
    bars = base.mark_bar(color=SIMULATED).encode(x=alt.X("left:Q", title="dialogues left"))
    numbers = base.mark_text(align="left", dx=4, color=INK).encode(x="left:Q", text="left:Q")
    return (bars + numbers).properties(width=WIDTH - 110, height=alt.Step(22))
