"""The figures of a run in words: its claim, who spoke, the tiles at the top, its metrics by family.

Computes no metric.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from crslib.data.source import Source
from crslib.dialogue.domain import Domain, fill
from crslib.dialogue.scripts import SCRIPTED, USER_TARGET
from crslib.metrics import METRICS, Metric
from crslib.reporting import text
from crslib.reporting.likeness import LIKE, UNDECIDED, likeness
from crslib.schemas import agent_words

_METRICS = {
    "metric": pl.String,
    "value": pl.String,
    "95 % interval": pl.String,
    "people": pl.String,
    "floor": pl.String,
    "unit": pl.String,
    "n": pl.Int64,
    "better": pl.String,
}
LEAKS = ("leaked_titles", "leaked_profiles")
_WHO_KNOWS = {
    "": "Two independent {parties} talk; neither knows a target. "
    "Reference-free conversational recommendation, simulated.",
    USER_TARGET: "Two {parties} talk; the user knows titles of its targets. A baseline, not reference-free.",
    SCRIPTED: "One model writes both sides and knows the targets. A baseline, not reference-free.",
}
_SPEAKERS = {
    "": "Two {parties} that know no target held",
    USER_TARGET: "Two {parties}, of which the user knows its targets, held",
    SCRIPTED: "One model that knows the targets wrote",
}


def who_knows(info: Mapping[str, Any]) -> str:
    """Who knows the targets, in a sentence; of dialogues from a file, which file."""
    if source := info.get("source"):
        return f"Dialogues from the file {source['name']} ({source['form']})."
    return _by_baseline(_WHO_KNOWS, info)


def writers(info: Mapping[str, Any]) -> str:
    """Who wrote the texts, in a sentence; empty for dialogues from a file."""
    if info.get("source"):
        return ""
    if info.get("parameters", {}).get("baseline") == SCRIPTED:
        return "Texts were written by one language model."
    models = "two language models" if _are_models(info) else "the parties named above"
    return f"Texts were written by {models}."


def _by_baseline(sentences: Mapping[str, str], info: Mapping[str, Any]) -> str:
    sentence = sentences.get(info.get("parameters", {}).get("baseline", ""), sentences[""])
    return sentence.format(parties="models" if _are_models(info) else "parties")


def _are_models(info: Mapping[str, Any]) -> bool:
    """Whether both agents are language models, here or on a server; so are those of a run that does not name them."""
    agents = info.get("agents", {}).values()
    return all("model_sha256" in agent or agent.get("agent") == "server" for agent in agents)


def claim(info: Mapping[str, Any], n_dialogues: int, metrics: pl.DataFrame, domain: Domain) -> str:
    """What came out, in one sentence with its numbers: leaks, hits, and how many metrics are like people's."""
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    findings = []
    n_leaks, n_read = leaks(rows)
    if n_read:
        findings.append(f"{n_leaks or 'none'} of {n_read:,} prompts leaked")
    if hits := rows.get("hits"):
        share = text.estimate(hits["value"], hits["low"], hits["high"], form=".0%")
        item = f"{domain.article} {domain.label}"
        findings.append(f"{share} of the dialogues recommended {item} that the user liked later")
    if compared := _compared(likeness(row) for row in rows.values()):
        findings.append(compared)
    speakers = "" if info.get("source") else _by_baseline(_SPEAKERS, info) + " "
    subject = f"{speakers}{n_dialogues} dialogue{'s' * (n_dialogues != 1)}"
    *before, last = findings or [""]
    listed = f"{', '.join(before)}, and {last}" if len(before) > 1 else " and ".join([*before, last])
    return f"{subject}: {listed}." if listed else f"{subject}."


def _compared(verdicts: Iterable[str]) -> str:
    """How many verdicts of `likeness` say what; empty where none says anything."""
    said = [verdict for verdict in verdicts if verdict]
    like, undecided = said.count(LIKE), said.count(UNDECIDED)
    unlike = len(said) - like - undecided
    counts = [f"{like} of {len(said)} metrics are like people’s", f"{unlike} unlike"]
    return ", ".join(counts + [f"{undecided} undecided"] * bool(undecided)) if said else ""


def leaks(rows: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """Prompts that leak and prompts that were read, from the rows of table `metrics` by metric."""
    found = [rows[name] for name in LEAKS if name in rows]
    return round(sum(row["value"] for row in found)), sum(row["n"] for row in found)


def parties(info: Mapping[str, Any], data: Source, human: Source) -> list[tuple[str, str]]:
    """Who spoke, about what, beside whom and when: (name, text)."""
    parameters = info.get("parameters", {})
    speakers = [(role.capitalize(), _model(role, agent, parameters)) for role, agent in info.get("agents", {}).items()]
    started = str(info.get("started") or "")[:10]
    rows = [*speakers, ("Data", data.name), ("People", human.name), ("Date", started), ("Run", info.get("run_id", ""))]
    return [(name, value) for name, value in rows if value]


def dependence(dialogues: pl.DataFrame) -> str:
    """What is to be said of the intervals where a person has several of `dialogues`; empty where each has one."""
    if dialogues["profile_id"].drop_nulls().is_unique().all():
        return ""
    return "intervals take the dialogues of a person for independent: of what differs by person they are too narrow"


def _model(role: str, agent: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
    """A model by its name, adapter and weights; another agent as `agent_words`."""
    model, adapter = parameters.get(f"{role}_model"), parameters.get(f"{role}_adapter")
    if "model_sha256" not in agent or not model:
        return agent_words(agent)
    named = "built-in adapter" if adapter == "auto" else f"adapter {Path(str(adapter)).name}"
    return ", ".join([Path(str(model)).name, named if agent.get("adapter_sha256") else "no adapter", *_weights(agent)])


def _weights(agent: Mapping[str, Any]) -> list[str]:
    return [str(agent["weights"]).rpartition(", ")[2]] if agent.get("weights") else []


# ── metrics ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def tiles(metrics: pl.DataFrame, domain: Domain, defined: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """The figures at the top of a run's report: the leaks, and the metrics with a headline, beside people's."""
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    n_leaks, n_read = leaks(rows)
    audit = {
        "value": f"{n_leaks}" if n_read else "–",
        "label": "leaks in prompts",
        "detail": [f"of {n_read:,} prompts audited" if n_read else "no prompts"],
        "mood": "bad" if n_leaks else "good" if n_read else "",
        "verdict": "",
    }
    headlines = [metric for metric in defined.values() if metric.headline and metric.name in rows]
    return [audit, *(_tile(metric, rows[metric.name], domain) for metric in headlines)]


def _tile(metric: Metric, row: Mapping[str, Any], domain: Domain) -> dict[str, Any]:
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
        "detail": interval + human,
        "mood": "",
        "verdict": likeness(row),
    }


def families(metrics: pl.DataFrame, defined: Mapping[str, Metric]) -> list[dict[str, Any]]:
    """The rows of table `metrics` as text with their definitions, in the order of `defined`: `name` of a family, its
    `rows`, and `like`: how many of them are like people's."""
    found: dict[str, list[dict[str, str]]] = {}
    rows = {row["metric"]: row for row in metrics.iter_rows(named=True)}
    for metric in defined.values():
        if row := rows.get(metric.name):
            shown = {
                **{name: text.number(row[name]) for name in ("value", "human", "floor", "signature")},
                "interval": "" if row["low"] is None else f"{text.number(row['low'])} – {text.number(row['high'])}",
                "n": f"{row['n']:,}",
                "better": "" if metric.direction == "none" else metric.direction,
                "verdict": likeness(row),
                **{name: getattr(metric, name) for name in ("title", "unit", "definition", "source")},
            }
            found.setdefault(metric.family, []).append(shown)
    return [
        {"name": name, "rows": shown, "like": _compared(row["verdict"] for row in shown)}
        for name, shown in found.items()
    ]


def metrics(frame: pl.DataFrame, defined: Mapping[str, Metric] = METRICS) -> pl.DataFrame:
    """Rows of table `metrics` for people to read: title, value, interval, human value, floor of a distance, unit, n and
    what is better. `defined`: the definitions."""
    rows = []
    for row in frame.iter_rows(named=True):
        low, high = text.number(row["low"]), text.number(row["high"])
        better = "closer to people" if row["direction"] == "human" else row["direction"].replace("none", "")
        shown = (text.number(row["value"]), f"{low} to {high}" if low and high else "")
        human = (text.number(row["human"]), text.number(row["floor"]))
        rows.append((defined[row["metric"]].title, *shown, *human, row["unit"], row["n"], better))
    return pl.DataFrame(rows, schema=_METRICS, orient="row")
