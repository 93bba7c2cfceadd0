"""Reports as single HTML pages that open offline: no link to elsewhere, every text escaped. Only a run's report has a
script, its search, which the page's policy names by its hash.

Shows what the evaluation computed; decides only which dialogues are printed.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from crslib import schemas
from crslib.config import resolve
from crslib.data.source import Source
from crslib.dialogue.domain import of_run
from crslib.files import writing
from crslib.metrics import METRICS, Metric, all_metrics, satisfaction
from crslib.reporting import charts, dot_plot, summary, text, transcripts
from crslib.reporting.figure import Figure
from crslib.schemas import agent_words
from crslib.store import Run

__all__ = [
    "Dialogue",
    "Figure",
    "Shown",
    "Table",
    "Verdict",
    "judged",
    "remarks",
    "satisfied",
    "show",
    "write",
    "write_comparison",
    "write_judged",
    "write_tables",
]


@dataclass(frozen=True)
class Dialogue:
    """One dialogue of a run, shown under the name of its condition."""

    condition: str
    run: Run
    dialogue_id: str


@dataclass(frozen=True)
class Table:
    """A frame with its title and a sentence on how to read it."""

    title: str
    reading: str
    frame: pl.DataFrame


@dataclass(frozen=True)
class Verdict:
    """Whether a claim about two conditions holds: `word` (yes, no, mixed, open), the claim as a `sentence`, and what
    speaks for the word. As text all in one line."""

    word: str
    sentence: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.sentence}: {self.word}; {self.evidence}"


_NEEDED = {
    "prompts": "prompts (so there is no audit)",
    "profiles": "profiles",
    "holdouts": "hidden items",
    "notes": "private notes",
    "models": "models",
}


def write(run: Run, figures: Sequence[Figure]) -> Path:
    """Writes `report.html` from the run's tables and the given charts; returns its path.

    Of dialogues from a file it says whose they are and which metrics are left out (`remarks`), and has no chart that
    needs what they lack. `report.html#u7.0` is dialogue u7.0, if it is printed (`transcripts.spread`), and
    `report.html#u7.0:3` its turn 3. Raises `CrsError` when a table is missing or the folder cannot be written.
    """
    dialogues, metrics, info, domain = run.read("dialogues"), run.read("metrics"), run.info, of_run(run)
    parameters, source, lacking = info.get("parameters", {}), info.get("source"), info.get("lacking", ())
    defined = all_metrics(run)
    data, human = Source.read(run.path), Source.read(resolve(parameters.get("human", "data/human")))
    shown = transcripts.pages(run, transcripts.spread(dialogues))
    one = transcripts.drawn(transcripts.spread(dialogues), parameters.get("seed", 0))
    return _write(
        run.path / "report.html",
        "report.html",
        "search.js",
        title=f"{parameters.get('condition', 'by hand')}: {dialogues.height} {'' if source else 'simulated '}dialogues",
        subtitle=summary.who_knows(info),
        claim=summary.claim(info, dialogues.height, metrics, domain),
        parties=summary.parties(info, data, human),
        from_file=bool(source),
        remarks=remarks(run),
        targets_known=bool(parameters.get("baseline")),
        tiles=summary.tiles(metrics, domain, defined),
        drawn=next((page for page in shown if page["id"] == one), None),
        seed=parameters.get("seed", 0),
        dots=_dots(metrics, defined),
        families=summary.families(metrics, defined),
        tables=_shown_tables([satisfied(run)]),
        charts=_drawn(figure for figure in figures if figure.needs not in lacking),
        dialogues=shown,
        n_dialogues=dialogues.height,
        facts=_facts(info),
        label=domain.label,
        labels=domain.labels,
        writers=summary.writers(info),
        data_source=data,
        people=human,
    )


def remarks(run: Run) -> list[str]:
    """What is to be said of dialogues from a file: what was read, which metrics are left out because the dialogues lack
    what these need, and whether any could be correlated with people's satisfaction. Of any run: which metrics of one's
    own have no value, and what its intervals are worth (`summary.dependence`)."""
    info, measured = run.info, set(run.read("metrics")["metric"])
    lines = list(info.get("source", {}).get("lines", ()))
    for need in info.get("lacking", ()):
        names = [metric.title for metric in METRICS.values() if metric.needs == need and metric.name not in measured]
        if names:
            lines.append(f"left out, because the dialogues have no {_NEEDED[need]}: {'; '.join(names)}")
    if empty := [name for name in all_metrics(run) if name not in METRICS and name not in measured]:
        lines.append(f"your metrics without a value in any dialogue: {', '.join(empty)}")
    if run.has("labels"):
        lines.append(satisfaction.verdict(run.read("scores"), run.read("correlations")))
    lines.append(summary.dependence(run.read("dialogues")))
    return [line for line in lines if line]


def satisfied(run: Run) -> Table:
    """A run's correlations with people's satisfaction as a table: metric, correlation with interval, dialogues."""
    table = run.read("correlations") if run.has("correlations") else schemas.empty("correlations")
    defined = all_metrics(run)
    shown = [(defined[row["metric"]].title, text.row_estimate(row), row["n"]) for row in table.iter_rows(named=True)]
    return Table(
        "People's satisfaction",
        "Spearman's rank correlation of each metric with people's satisfaction, over dialogues, with its 95 % "
        "bootstrap interval, the strongest first. With many metrics one in 20 intervals excludes 0 by chance.",
        pl.DataFrame(shown, schema={"metric": pl.String, "correlation": pl.String, "n": pl.Int64}, orient="row"),
    )


def write_comparison(
    path: Path,
    conditions: pl.DataFrame,
    table: pl.DataFrame,
    figures: Sequence[Figure],
    differences: pl.DataFrame,
    verdict: Sequence[Verdict],
    extremes: Sequence[tuple[str, Sequence[Dialogue]]] = (),
    defined: Mapping[str, Metric] = METRICS,
) -> Path:
    """Writes the report of a sweep from what `comparison` computes: conditions (`Sweep`), all metrics (`table`), the
    first condition against the others (`differences`, `verdict`), charts (`figures`), and dialogues side by side
    (`extremes`); returns `path`. `defined`: all metrics (`Sweep.defined`)."""
    columns = ("condition", "metric", "difference", "low", "high", "p", "n", "better")
    failed = conditions.filter(state="error").select("condition", "error", "traceback")
    return _write(
        path,
        "comparison.html",
        title=f"{conditions.height} conditions side by side",
        conditions=_table("Conditions", conditions.drop("traceback")),
        failed=failed.to_dicts(),
        claim=_claim(conditions.filter(state="success")["condition"].to_list(), verdict),
        verdict=verdict,
        names=table.columns[1:],
        families=[
            (family, rows.drop("family").rows()) for (family,), rows in table.group_by("family", maintain_order=True)
        ],
        definitions=[metric for metric in defined.values() if metric.title in set(table["metric"])],
        differences=_table("Significant differences", differences.drop_nulls("better").select(columns)),
        charts=_drawn(figures),
        extremes=[(label, [_page(dialogue) for dialogue in dialogues]) for label, dialogues in extremes],
    )


def _claim(conditions: Sequence[str], verdict: Sequence[Verdict]) -> str:
    """How many of the claims about the first condition hold, in a sentence; none without claims."""
    if not verdict:
        return ""
    counts = Counter(line.word for line in verdict)
    found = ", ".join(f"{counts[word]} {word}" for word in ("yes", "no", "mixed", "open") if counts[word])
    first, *others = conditions
    return f"{len(verdict)} claims about {first} against {', '.join(others) or 'the others'}: {found}."


def _page(dialogue: Dialogue) -> dict[str, Any]:
    row = dialogue.run.read("dialogues").filter(dialogue_id=dialogue.dialogue_id)
    return {"condition": dialogue.condition, "page": next(iter(transcripts.pages(dialogue.run, row)), None)}


def write_judged(
    path: Path, title: str, lines: Sequence[str], figures: pl.DataFrame, definitions: Mapping[str, str]
) -> Path:
    """Writes the report of a judge: `lines` state how far it can be relied on (`judge.trust`), `figures` are those of
    `verdicts.FIGURES`; returns `path`."""
    return _write(
        path,
        "judged.html",
        title=title,
        lines=lines,
        table=_table("All figures", figures),
        definitions=definitions,
        charts=_drawn(judged(figures, lines)),
    )


def judged(figures: pl.DataFrame, lines: Sequence[str]) -> list[Figure]:
    """A judge's figures as charts, each with how far the judge can be relied on (the first of `lines`)."""
    wanted = (
        ("Controls: the judge prefers the intact dialogue to its corrupted copy", "controls", "wins", "condition"),
        ("Controls: its verdict changes when the two dialogues change places", "controls", "flips", "condition"),
        ("The judge prefers the first condition", "pairs", "wins", "label"),
        ("Marks", "marks", "mark", "label"),
    )
    labelled = figures.with_columns(label=pl.format("{}: {}", "criterion", "condition"))
    shown = []
    for title, part, figure, label in wanted:
        rows = labelled.filter(part=part, figure=figure)
        if not rows.is_empty():
            chance = None if figure == "mark" else 0.5
            points = rows.select("value", "low", "high", condition=label, human=pl.lit(chance, pl.Float64))
            reading = "" if chance is None else " The dashed line is chance."
            chart = charts.conditions(points, (1, 5) if chance is None else (0, 1))
            shown.append(Figure(title, f"{lines[0]}{reading}", chart))
    return shown


def write_tables(path: Path, title: str, lead: str, tables: Sequence[Table], figures: Sequence[Figure]) -> Path:
    """Writes a page of charts and tables (people's votes); an empty table is left out. Returns `path`."""
    return _write(
        path,
        "tables.html",
        title=title,
        lead=lead,
        tables=_shown_tables(tables),
        charts=_drawn(figures),
    )


def _table(title: str, frame: pl.DataFrame) -> dict[str, Any]:
    return {"title": title, "columns": frame.columns, "rows": text.cells(frame)}


def _shown_tables(tables: Iterable[Table]) -> list[dict[str, Any]]:
    return [{"reading": table.reading, **_table(table.title, table.frame)} for table in tables if table.frame.height]


def _drawn(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Figures for a template; charts side by side are `parts` of their own, so that a narrow page has them in a column,
    each with its title."""
    return [{"title": f.title, "reading": f.reading, "parts": [*map(_part, _side_by_side(f.chart))]} for f in figures]


def _side_by_side(chart: Any) -> list[Any]:
    if not isinstance(chart, alt.ConcatChart | alt.HConcatChart):
        return [chart]
    parts = chart.concat if isinstance(chart, alt.ConcatChart) else chart.hconcat
    # Altair moves data that all parts have in common to the chart of charts.
    return [part.properties(data=chart.data) if part.data is alt.Undefined else part for part in parts]


def _part(chart: Any) -> dict[str, Any]:
    title = chart.title if isinstance(chart.title, str) else ""
    bare = chart.copy(deep=False)
    if title:
        bare.title = alt.Undefined
    return {"title": title, "svg": _svg(bare)}


def _svg(chart: alt.TopLevelMixin) -> Markup:
    """A drawing for the page; the element around it has its name."""
    return Markup(charts.themed(charts.svg(chart)).replace("<svg", '<svg aria-hidden="true"', 1))


def _dots(metrics: pl.DataFrame, defined: Mapping[str, Metric]) -> dict[str, Any]:
    """The metrics against people's, for a wide page and for a narrow one; empty where people have none of them."""
    if not metrics.filter(pl.col("human") > 0).height:
        return {}
    wide, narrow = (dot_plot.against_people(metrics, narrow, defined) for narrow in (False, True))
    return {"wide": _svg(wide), "narrow": _svg(narrow)}


def _write(path: Path, template: str, script: str = "", **content: Any) -> Path:
    with writing(path) as temporary:
        temporary.write_text(_render(template, script, **content), encoding="utf-8")
    return path


def _render(template: str, script: str = "", **content: Any) -> str:
    """The page. Of all scripts its policy lets only `script` run, a file beside the templates."""
    loader = PackageLoader("crslib.reporting")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    source = loader.get_source(environment, script)[0] if script else ""
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return environment.get_template(template).render(content, script=Markup(source), digest=digest)


@dataclass(frozen=True)
class Shown:
    """A page for a notebook, in a frame of its own, so that its style does not change the notebook's. Scripts run only
    with `scripts`, and cannot reach the notebook."""

    html: str
    height: int = 640
    scripts: bool = False

    def _repr_html_(self) -> str:
        frame = '<iframe sandbox="{}" srcdoc="{}" style="width: 100%; height: {}px; border: 0"></iframe>'
        return str(Markup(frame).format("allow-scripts" if self.scripts else "", self.html, self.height))


def show(run: Run, dialogue_ids: Iterable[str]) -> Shown:
    """Dialogues of a run for a notebook, with private notes, the user's profile and the hidden targets."""
    shown = run.read("dialogues").filter(pl.col("dialogue_id").is_in(list(dialogue_ids))).sort("dialogue_id")
    return Shown(_render("shown.html", title="Dialogues", dialogues=transcripts.pages(run, shown)))


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of the report's last table, from `run.json`."""
    git = info.get("git") or {}
    rows = [
        ("run", info.get("run_id", "by hand")),
        ("started", info.get("started", "")),
        ("file", f"{source['name']}, SHA-256 {source['sha256']}" if (source := info.get("source")) else ""),
        ("parameters given", ", ".join(f"{k}={v}" for k, v in info.get("parameters_given", {}).items()) or "none"),
        ("seed", info.get("parameters", {}).get("seed", "")),
        *((f"the {role}", agent_words(agent)) for role, agent in info.get("agents", {}).items()),
        *((f"the {role}'s server", _usage(usage)) for role, usage in info.get("usage", {}).items()),
        ("dialogues that failed", f"{n}, see failures.parquet" if (n := info.get("n_failed")) else ""),
        ("taste model", _auc(info.get("opinion_auc"))),
        ("machine", f"{info['machine']['cpu']}, {info['machine']['cores']} cores" if "machine" in info else ""),
        ("commit", f"{git.get('commit', 'unknown')}{', changed since' if git.get('dirty') else ''}"),
    ]
    return [(name, str(value)) for name, value in rows if value != ""]


def _usage(usage: dict[str, Any]) -> str:
    """Tokens and price that a role's server counted; empty where none was asked."""
    if not usage:
        return ""
    price = f", price {usage['price']:.4f}" if "price" in usage else ""
    return f"{usage['tokens_in']:,} tokens in, {usage['tokens_out']:,} out{price}"


def _auc(auc: dict[str, Any] | None) -> str:
    if auc is None:
        return ""
    return f"AUC on hidden ratings {text.estimate(auc['value'], auc['low'], auc['high'], form='.3f')}, {auc['n']} users"
