"""A run as one HTML page that opens offline: no script, no link to elsewhere, every text escaped.

Shows what the evaluation computed; the only thing it decides is which dialogues are printed, and how numbers read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from crslib.dialogue import utterances, views
from crslib.dialogue.stop_reasons import STOP_REASONS
from crslib.metrics import METRICS
from crslib.reporting import charts
from crslib.store import Run, writing

N_DIALOGUES = 12


@dataclass(frozen=True)
class Figure:
    """A chart with its title and one sentence that says how to read it."""

    title: str
    reading: str
    chart: alt.TopLevelMixin


@dataclass(frozen=True)
class Dialogue:
    """One dialogue of a run, to be shown under the name of its condition."""

    condition: str
    run: Run
    dialogue_id: str


@dataclass(frozen=True)
class Table:
    """A frame with its title and what to know when reading it."""

    title: str
    reading: str
    frame: pl.DataFrame


def write(run: Run, figures: Sequence[Figure]) -> Path:
    """Writes `report.html` from the run's tables and the given charts; returns its path.

    Raises `CrsError` when a table is missing or the folder cannot be written.
    """
    dialogues, metrics, info = run.read("dialogues"), run.read("metrics"), run.info
    parameters = info.get("parameters", {})
    return _write(
        run.path / "report.html",
        "report.html",
        title=f"{parameters.get('condition', 'by hand')}: {dialogues.height} simulated dialogues",
        subtitle="Two independent models talk; nobody knows a target. Reference-free conversational recommendation, "
        "simulated.",
        tiles=_tiles(dialogues, metrics),
        figures=_figures(metrics),
        charts=[{"title": f.title, "reading": f.reading, "svg": Markup(charts.svg(f.chart))} for f in figures],
        dialogues=_dialogues(run, dialogues),
        n_dialogues=dialogues.height,
        facts=_facts(info),
    )


def write_comparison(
    path: Path,
    conditions: pl.DataFrame,
    table: pl.DataFrame,
    figures: Sequence[Figure],
    differences: pl.DataFrame,
    verdict: Sequence[str],
    extremes: Sequence[tuple[str, Sequence[Dialogue]]] = (),
) -> Path:
    """Writes the report of a sweep, all of it from `comparison`: its conditions (`Sweep`), all figures (`table`), what
    was found of the first condition against the others, charts, and dialogues worth a look side by side (`extremes`);
    returns `path`."""
    columns = ("condition", "metric", "difference", "low", "high", "p", "n", "better")
    shown = differences.drop_nulls("better").select(columns)
    listed = conditions.drop("traceback")
    failed = conditions.filter(state="error").select("condition", "error", "traceback")
    return _write(
        path,
        "comparison.html",
        title=f"{conditions.height} conditions side by side",
        columns=listed.columns,
        rows=[["" if value is None else number(value) for value in row] for row in listed.iter_rows()],
        failed=failed.to_dicts(),
        verdict=verdict,
        names=table.columns[1:],
        families=[
            (family, rows.drop("family").rows()) for (family,), rows in table.group_by("family", maintain_order=True)
        ],
        definitions=[metric for metric in METRICS.values() if metric.title in set(table["metric"])],
        difference_columns=shown.columns,
        differences=[["" if value is None else number(value) for value in row] for row in shown.iter_rows()],
        charts=[{"title": f.title, "reading": f.reading, "svg": Markup(charts.svg(f.chart))} for f in figures],
        extremes=[(label, [_beside(dialogue) for dialogue in dialogues]) for label, dialogues in extremes],
    )


def _beside(dialogue: Dialogue) -> dict[str, Any]:
    found = dialogue.run.read("dialogues").filter(dialogue_id=dialogue.dialogue_id)
    page = next(iter(pages(dialogue.run, found)), None)
    return {"condition": dialogue.condition, "page": page}


def write_judged(
    path: Path, title: str, lines: Sequence[str], figures: pl.DataFrame, definitions: Mapping[str, str]
) -> Path:
    """Writes what a judge said as a page of its own: `lines` say what it is worth (`verdicts.trust`), `figures` are
    those of `verdicts.FIGURES`; returns `path`."""
    return _write(
        path,
        "judged.html",
        title=title,
        lines=lines,
        columns=figures.columns,
        rows=[["" if value is None else number(value) for value in row] for row in figures.iter_rows()],
        definitions=definitions,
        charts=[
            {"title": f.title, "reading": f.reading, "svg": Markup(charts.svg(f.chart))} for f in judged(figures, lines)
        ],
    )


def judged(figures: pl.DataFrame, lines: Sequence[str]) -> list[Figure]:
    """A judge's figures as charts, what the judge is worth (the first of `lines`) under each of them."""
    wanted = (
        ("Controls: the judge prefers the intact dialogue to its corrupted copy", "controls", "wins", "condition"),
        ("Controls: its verdict changes when the two change places", "controls", "flips", "condition"),
        ("The judge prefers the first condition", "pairs", "wins", "label"),
        ("Marks", "marks", "mark", "label"),
    )
    labelled = figures.with_columns(label=pl.format("{}: {}", "criterion", "condition"))
    found = []
    for title, part, figure, label in wanted:
        rows = labelled.filter(part=part, figure=figure)
        if not rows.is_empty():
            rule = None if figure == "mark" else 0.5
            shown = rows.select("value", "low", "high", condition=label, human=pl.lit(rule, pl.Float64))
            reading = "" if rule is None else " The dashed line is chance."
            found.append(
                Figure(title, f"{lines[0]}{reading}", charts.conditions(shown, (1, 5) if rule is None else (0, 1)))
            )
    return found


def write_tables(path: Path, title: str, lead: str, tables: Sequence[Table], figures: Sequence[Figure]) -> Path:
    """Writes a page of charts and tables (people's votes); an empty table is left out. Returns `path`."""
    return _write(
        path,
        "tables.html",
        title=title,
        lead=lead,
        tables=[
            {
                "title": table.title,
                "reading": table.reading,
                "columns": table.frame.columns,
                "rows": [["" if value is None else number(value) for value in row] for row in table.frame.iter_rows()],
            }
            for table in tables
            if table.frame.height
        ],
        charts=[{"title": f.title, "reading": f.reading, "svg": Markup(charts.svg(f.chart))} for f in figures],
    )


def _write(path: Path, template: str, **content: Any) -> Path:
    with writing(path) as temporary:
        temporary.write_text(_render(template, **content), encoding="utf-8")
    return path


def _render(template: str, **content: Any) -> str:
    environment = Environment(loader=PackageLoader("crslib.reporting"), autoescape=True, trim_blocks=False)
    return environment.get_template(template).render(content)


@dataclass(frozen=True)
class Shown:
    """A page for a notebook, in a frame of its own: its style does not reach the notebook. Its scripts run only where
    it is said, and nowhere do they reach the notebook."""

    html: str
    height: int = 640
    scripts: bool = False

    def _repr_html_(self) -> str:
        frame = '<iframe sandbox="{}" srcdoc="{}" style="width: 100%; height: {}px; border: 0"></iframe>'
        return str(Markup(frame).format("allow-scripts" if self.scripts else "", self.html, self.height))


def show(run: Run, dialogue_ids: Iterable[str]) -> Shown:
    """Dialogues of a run for a notebook: the talk, private notes, what the user held and the hidden targets."""
    shown = run.read("dialogues").filter(pl.col("dialogue_id").is_in(list(dialogue_ids))).sort("dialogue_id")
    return Shown(_render("shown.html", title="Dialogues", dialogues=pages(run, shown)))


# ── figures ─────────────────────────────────────────────────────────────────────────────────────────────────────


def number(value: Any) -> str:
    """A figure as people read it: three digits that mean something."""
    if not isinstance(value, float):
        return str(value)
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _tiles(dialogues: pl.DataFrame, metrics: pl.DataFrame) -> list[dict[str, str]]:
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}

    def tile(name: str, label: str, *, percent: bool = False) -> dict[str, str]:
        row = rows[name]
        show = (lambda value: f"{value:.0%}") if percent else number
        detail = f"95 %: {show(row['low'])} to {show(row['high'])}" if row["low"] is not None else ""
        if row["human"] is not None:
            detail += f"{' · ' if detail else ''}people: {show(row['human'])}"
        return {"value": show(row["value"]), "label": label, "detail": detail, "mood": ""}

    leaks = [rows[name] for name in ("leaked_titles", "leaked_profiles") if name in rows]
    found, read = sum(row["value"] for row in leaks), sum(row["n"] for row in leaks)
    audit = {
        "value": f"{found:.0f}",
        "label": "leaks in prompts",
        "detail": f"of {read:,} prompts audited",
        "mood": "bad" if found else "good",
    }
    wanted = [
        ("hits", "dialogues found a hidden film", True),
        ("recommender_validity", "recommended titles exist", True),
        ("reaction_consistency", "reactions agree with the note", True),
        ("turns", "turns per dialogue", False),
    ]
    return [audit, *(tile(name, label, percent=p) for name, label, p in wanted if name in rows)]


def _figures(metrics: pl.DataFrame) -> list[tuple[str, list[dict[str, str]]]]:
    families: dict[str, list[dict[str, str]]] = {}
    found = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    directions = {"higher": "higher", "lower": "lower", "human": "like people", "none": ""}
    for metric in METRICS.values():
        if (row := found.get(metric.name)) is None:
            continue
        blank = {name: "" if row[name] is None else number(row[name]) for name in ("value", "human", "floor")}
        interval = "" if row["low"] is None else f"{number(row['low'])} – {number(row['high'])}"
        families.setdefault(metric.family, []).append(
            {
                **blank,
                "interval": interval,
                "title": metric.title,
                "unit": metric.unit,
                "n": f"{row['n']:,}",
                "direction": directions[metric.direction],
                "definition": metric.definition,
                "source": metric.source,
            }
        )
    return list(families.items())


# ── dialogues ───────────────────────────────────────────────────────────────────────────────────────────────────


def _dialogues(run: Run, dialogues: pl.DataFrame) -> list[dict[str, Any]]:
    """`N_DIALOGUES` dialogues, evenly spaced over all that have at least two turns."""
    spoken = dialogues.filter(pl.col("n_turns") >= 2)
    spoken = dialogues if spoken.is_empty() else spoken
    return pages(run, spoken[sorted({i * spoken.height // N_DIALOGUES for i in range(N_DIALOGUES)})])


def pages(run: Run, shown: pl.DataFrame) -> list[dict[str, Any]]:
    """What a reader wants of the dialogues `shown` (rows of table `dialogues`), in their order: who holds what, hidden
    `targets`, `turns` with notes and with `pieces` (the text cut at its items, brackets gone), and how it ended."""
    profiles = {row["profile_id"]: row for row in run.read("profiles").iter_rows(named=True)}
    names = {
        row["item_id"]: utterances.item_name(row["title"], row["year"])
        for row in run.read("items").iter_rows(named=True)
    }
    liked = run.read("holdouts").filter("liked").join(shown, on="profile_id", how="semi").sort("profile_id", "item_id")
    turns = run.read("turns").join(shown, on="dialogue_id", how="semi").partition_by("dialogue_id", as_dict=True)
    pages = []
    for dialogue in shown.iter_rows(named=True):
        profile = profiles[dialogue["profile_id"]]
        targets = liked.filter(profile_id=dialogue["profile_id"])["item_id"].to_list()
        said = turns.get((dialogue["dialogue_id"],), pl.DataFrame())
        named = {item["item_id"] for turn in said.iter_rows(named=True) for item in turn["items"]}
        pages.append(
            {
                "id": dialogue["dialogue_id"],
                "opener": dialogue["opener"],
                "summary": profile["summary"],
                "attributes": profile["attributes"],
                "k": profile["k_anonymity"],
                "targets": [
                    {"text": names[item], "css": "item target" if item in named else ""}
                    for item in sorted(targets, key=lambda item: (item not in named, names[item]))
                ],
                "turns": [_turn(turn, set(targets)) for turn in said.iter_rows(named=True)],
                "ending": STOP_REASONS[dialogue["stop_reason"]],
            }
        )
    return pages


def _turn(turn: dict[str, Any], targets: set[str]) -> dict[str, Any]:
    notes = [views.Note(note["title"], note["seen"], note["liked"]) for note in turn["notes"]]
    return {"role": turn["role"], "notes": views.note_line(notes), "pieces": list(_pieces(turn, targets))}


def _pieces(turn: dict[str, Any], targets: set[str]) -> Iterable[dict[str, str]]:
    """An utterance cut at its items, brackets gone."""
    text, end = turn["text"], 0
    for item in turn["items"]:
        if before := text[end : item["start"]]:
            yield {"text": before, "css": ""}
        css = "item target" if item["item_id"] in targets else "item" if item["item_id"] else "item unknown"
        yield {"text": item["title"], "css": css}
        end = item["end"]
    if after := text[end:]:
        yield {"text": after, "css": ""}


def _facts(info: dict[str, Any]) -> list[tuple[str, str]]:
    """What of `run.json` a reader wants at hand."""
    engines = info.get("engines", {})
    git = info.get("git") or {}
    rows = [
        ("run", info.get("run_id", "by hand")),
        ("started", info.get("started", "")),
        ("parameters given", ", ".join(f"{k}={v}" for k, v in info.get("parameters_given", {}).items()) or "none"),
        ("seed", info.get("parameters", {}).get("seed", "")),
        *((f"{role}'s weights", _weights(engine)) for role, engine in engines.items()),
        ("taste model", _estimate(info.get("opinion_auc"))),
        ("machine", f"{info['machine']['cpu']}, {info['machine']['cores']} cores" if "machine" in info else ""),
        ("commit", f"{git.get('commit', 'unknown')}{', changed since' if git.get('dirty') else ''}"),
    ]
    return [(name, str(value)) for name, value in rows if value != ""]


def _estimate(auc: dict[str, Any] | None) -> str:
    if auc is None:
        return ""
    interval = "" if auc["low"] is None else f" [{auc['low']:.3f}, {auc['high']:.3f}]"
    return f"AUC on hidden ratings {auc['value']:.3f}{interval}, {auc['n']} people"


def _weights(engine: dict[str, Any]) -> str:
    adapter = engine.get("adapter_sha256")
    return f"model {engine.get('model_sha256', '?')[:16]}, adapter {adapter[:16] if adapter else 'none'}"
