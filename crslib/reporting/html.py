"""Reports as single HTML pages that open offline: no script, no link to elsewhere, every text escaped.

Shows what the evaluation computed; decides only which dialogues are printed.
"""

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
from crslib.data.catalog import item_names
from crslib.data.source import Source
from crslib.dialogue import utterances, views
from crslib.dialogue.domain import Domain, fill, of_run
from crslib.dialogue.scripts import SCRIPTED, USER_TARGET
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.files import writing
from crslib.metrics import METRICS, Metric, all_metrics, satisfaction
from crslib.reporting import charts, text
from crslib.schemas import agent_words
from crslib.store import Run

N_DIALOGUES = 12


@dataclass(frozen=True)
class Figure:
    """A chart with its title and a sentence on how to read it. `needs`: as of `Metric`; a run's report leaves the chart
    out where the run lacks that."""

    title: str
    reading: str
    chart: alt.TopLevelMixin
    needs: str = ""


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


_NEEDED = {
    "prompts": "prompts (so there is no audit)",
    "profiles": "profiles",
    "holdouts": "hidden items",
    "notes": "private notes",
    "models": "models",
}
_WHO_KNOWS = {
    "": "Two independent models talk; neither knows a target. Reference-free conversational recommendation, simulated.",
    USER_TARGET: "Two models talk; the user knows titles of its targets. A baseline, not reference-free.",
    SCRIPTED: "One model writes both sides and knows the targets. A baseline, not reference-free.",
}


def write(run: Run, figures: Sequence[Figure]) -> Path:
    """Writes `report.html` from the run's tables and the given charts; returns its path.

    Of dialogues from a file it says whose they are and which metrics are left out (`remarks`), and has no chart that
    needs what they lack. Raises `CrsError` when a table is missing or the folder cannot be written.
    """
    dialogues, metrics, info, domain = run.read("dialogues"), run.read("metrics"), run.info, of_run(run)
    parameters, source = info.get("parameters", {}), info.get("source")
    lacking, defined = info.get("lacking", ()), all_metrics(run)
    who = f"Dialogues from the file {source['name']} ({source['form']})." if source else None
    return _write(
        run.path / "report.html",
        "report.html",
        title=f"{parameters.get('condition', 'by hand')}: {dialogues.height} {'' if source else 'simulated '}dialogues",
        subtitle=who or _WHO_KNOWS.get(parameters.get("baseline", ""), _WHO_KNOWS[""]),
        from_file=bool(source),
        remarks=remarks(run),
        targets_known=bool(parameters.get("baseline")),
        tiles=_tiles(metrics, domain, defined),
        families=_families(metrics, defined),
        tables=_shown_tables([satisfied(run)]),
        charts=_drawn(figure for figure in figures if figure.needs not in lacking),
        dialogues=_dialogues(run, dialogues),
        n_dialogues=dialogues.height,
        facts=_facts(info),
        label=domain.label,
        data_source=Source.read(run.path),
        people=Source.read(resolve(parameters.get("human", "data/human"))),
    )


def remarks(run: Run) -> list[str]:
    """What is to be said of dialogues from a file: what was read, which metrics are left out because the dialogues lack
    what these need, and whether any could be correlated with people's satisfaction. Of any run: which metrics of one's
    own have no value."""
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
    verdict: Sequence[str],
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
        conditions=_table(conditions.drop("traceback")),
        failed=failed.to_dicts(),
        verdict=verdict,
        names=table.columns[1:],
        families=[
            (family, rows.drop("family").rows()) for (family,), rows in table.group_by("family", maintain_order=True)
        ],
        definitions=[metric for metric in defined.values() if metric.title in set(table["metric"])],
        differences=_table(differences.drop_nulls("better").select(columns)),
        charts=_drawn(figures),
        extremes=[(label, [_page(dialogue) for dialogue in dialogues]) for label, dialogues in extremes],
    )


def _page(dialogue: Dialogue) -> dict[str, Any]:
    row = dialogue.run.read("dialogues").filter(dialogue_id=dialogue.dialogue_id)
    return {"condition": dialogue.condition, "page": next(iter(pages(dialogue.run, row)), None)}


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
        table=_table(figures),
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


def _table(frame: pl.DataFrame) -> dict[str, Any]:
    return {"columns": frame.columns, "rows": text.cells(frame)}


def _shown_tables(tables: Iterable[Table]) -> list[dict[str, Any]]:
    return [
        {"title": table.title, "reading": table.reading, **_table(table.frame)}
        for table in tables
        if table.frame.height
    ]


def _drawn(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    return [{"title": f.title, "reading": f.reading, "svg": Markup(charts.svg(f.chart))} for f in figures]


def _write(path: Path, template: str, **content: Any) -> Path:
    with writing(path) as temporary:
        temporary.write_text(_render(template, **content), encoding="utf-8")
    return path


def _render(template: str, **content: Any) -> str:
    environment = Environment(loader=PackageLoader("crslib.reporting"), autoescape=True, trim_blocks=False)
    return environment.get_template(template).render(content)


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
    return Shown(_render("shown.html", title="Dialogues", dialogues=pages(run, shown)))


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _tiles(metrics: pl.DataFrame, domain: Domain, defined: Mapping[str, Metric]) -> list[dict[str, str]]:
    """The figures at the top of a run's report: the leaks, and the metrics with a headline."""
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    leaks = [rows[name] for name in ("leaked_titles", "leaked_profiles") if name in rows]
    n_leaks, n_read = sum(row["value"] for row in leaks), sum(row["n"] for row in leaks)
    audit = {
        "value": f"{n_leaks:.0f}" if n_read else "–",
        "label": "leaks in prompts",
        "detail": f"of {n_read:,} prompts audited" if n_read else "no prompts",
        "mood": "bad" if n_leaks else "good" if n_read else "",
    }
    headlines = [metric for metric in defined.values() if metric.headline and metric.name in rows]
    return [audit, *(_tile(metric, rows[metric.name], domain) for metric in headlines)]


def _tile(metric: Metric, row: Mapping[str, Any], domain: Domain) -> dict[str, str]:
    shown = {
        name: f"{row[name]:.0%}" if metric.unit == "share" else text.number(row[name])
        for name in ("value", "low", "high", "human")
        if row[name] is not None
    }
    interval = [f"95 %: {shown['low']} to {shown['high']}"] if "low" in shown else []
    human = [f"human: {shown['human']}"] if "human" in shown else []
    return {
        "value": shown["value"],
        "label": fill(metric.headline, label=domain.label),
        "detail": " · ".join(interval + human),
        "mood": "",
    }


def _families(metrics: pl.DataFrame, defined: Mapping[str, Metric]) -> list[tuple[str, list[dict[str, str]]]]:
    """The rows of table `metrics` as text with their definitions, by family, in the order of `defined`."""
    families: dict[str, list[dict[str, str]]] = {}
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    for metric in defined.values():
        if row := rows.get(metric.name):
            shown = {
                **{name: text.number(row[name]) for name in ("value", "human", "floor", "signature")},
                "interval": "" if row["low"] is None else f"{text.number(row['low'])} – {text.number(row['high'])}",
                "n": f"{row['n']:,}",
                "better": "" if metric.direction == "none" else metric.direction,
                **{name: getattr(metric, name) for name in ("title", "unit", "definition", "source")},
            }
            families.setdefault(metric.family, []).append(shown)
    return list(families.items())


# ── dialogues ───────────────────────────────────────────────────────────────────────────────────────────────────


def _dialogues(run: Run, dialogues: pl.DataFrame) -> list[dict[str, Any]]:
    """`N_DIALOGUES` dialogues, evenly spaced over all that have at least two turns."""
    spoken = dialogues.filter(pl.col("n_turns") >= 2)
    spoken = dialogues if spoken.is_empty() else spoken
    return pages(run, spoken[sorted({i * spoken.height // N_DIALOGUES for i in range(N_DIALOGUES)})])


def pages(run: Run, shown: pl.DataFrame) -> list[dict[str, Any]]:
    """The dialogues `shown` (rows of table `dialogues`) for a page, in their order: the user's profile, hidden
    `targets`, `turns` with notes and `pieces` (the text cut at its items, without brackets), and the `ending`."""
    profiles = {row["profile_id"]: row for row in run.read("profiles").iter_rows(named=True)}
    names, domain = item_names(run.read("items")), of_run(run)
    liked = run.read("holdouts").filter("liked").join(shown, on="profile_id", how="semi").sort("profile_id", "item_id")
    turns = run.read("turns").join(shown, on="dialogue_id", how="semi").partition_by("dialogue_id", as_dict=True)
    pages = []
    for dialogue in shown.iter_rows(named=True):
        profile = profiles[dialogue["profile_id"]]
        targets = liked.filter(profile_id=dialogue["profile_id"])["item_id"].to_list()
        spoken = turns.get((dialogue["dialogue_id"],), pl.DataFrame())
        named = {item["item_id"] for turn in spoken.iter_rows(named=True) for item in turn["items"]}
        pages.append(
            {
                "id": dialogue["dialogue_id"],
                "opener": dialogue["opener"],
                "summary": profile["summary"],
                "attributes": profile["attributes"],
                "k": profile["k_anonymity"],
                "labels": domain.labels,
                "targets": [
                    {"text": names[item], "css": "item target" if item in named else ""}
                    for item in sorted(targets, key=lambda item: (item not in named, names[item]))
                ],
                "turns": [_turn(turn, set(targets), domain) for turn in spoken.iter_rows(named=True)],
                "ending": STOP_REASONS[dialogue["stop_reason"]],
            }
        )
    return pages


def _turn(turn: dict[str, Any], targets: set[str], domain: Domain) -> dict[str, Any]:
    notes = [views.Note.of(note) for note in turn["notes"]]
    return {"role": turn["role"], "notes": views.note_line(notes, domain), "pieces": list(_pieces(turn, targets))}


def _pieces(turn: dict[str, Any], targets: set[str]) -> Iterable[dict[str, str]]:
    """An utterance cut at its items, without brackets."""
    parts = utterances.between(turn["text"], [(item["start"], item["end"]) for item in turn["items"]])
    for item, after in zip([None, *turn["items"]], parts, strict=True):
        if item is not None:
            css = "item target" if item["item_id"] in targets else "item" if item["item_id"] else "item unknown"
            yield {"text": item["title"], "css": css}
        if after:
            yield {"text": after, "css": ""}


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
