"""What is said at the end of a run: figures beside people's, a few lines of a dialogue."""

from typing import Any

from crslib.experiments.runs import excerpt, figures, n_dialogues
from crslib.metrics import METRICS
from crslib.reporting import summary, text
from crslib.runs import differences
from crslib.store import Run


def values(run: Run) -> dict[str, str]:
    """Metric → value, of those of `FIGURES` that a run has."""
    if not run.has("metrics"):
        return {}
    return {row["metric"]: text.number(row["value"]) for row in figures(run).iter_rows(named=True)}


def lines(run: Run) -> list[str]:
    """The condition, its figures with 95 % intervals beside those of people, whose adapter is of another domain, and
    three messages of a dialogue."""
    rows = [
        [METRICS[row["metric"]].title, text.estimate(row["value"], row["low"], row["high"]), text.number(row["human"])]
        for row in figures(run).iter_rows(named=True)
    ]
    condition, differs = run.info.get("parameters", {}).get("condition", "by hand"), differences(run.info)
    said = [f"{condition}{f' ({differs})' if differs else ''}: {n_dialogues(run)} dialogues"]
    if rows:
        said += ["", *text.aligned([["", "[95 % interval]", "people"], *rows])]
        said += filter(None, [summary.dependence(run.read("dialogues"))])
    agents = run.info.get("agents", {})
    if untried := [f"{role}: {agent['untried']}" for role, agent in sorted(agents.items()) if agent.get("untried")]:
        said += ["", *untried]
    dialogue, messages = excerpt(run)
    if messages:
        said += ["", f"dialogue {dialogue} begins", *text.aligned([["", role, words] for role, words in messages])]
    return said


def record(run: Run) -> dict[str, Any]:
    """A run for machines: its id, status, folder and report, parameters, seconds and all metrics with intervals, those
    of people beside them."""
    info = run.info
    metrics = run.read("metrics").select("metric", "value", "low", "high", "n", "human", "floor")
    return {
        "run_id": run.run_id,
        "status": info.get("status"),
        "path": str(run.path),
        "report": str(run.path / "report.html"),
        "condition": info.get("parameters", {}).get("condition"),
        "parameters": info.get("parameters_given", {}),
        "seconds": info.get("stages", {}),
        "n_dialogues": n_dialogues(run),
        "n_failed": info.get("n_failed", 0),
        "audit": info.get("audit"),
        "metrics": {row.pop("metric"): row for row in metrics.iter_rows(named=True)},
    }
