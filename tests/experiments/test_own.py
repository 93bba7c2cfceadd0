"""A recommender of one's own beside another one: `07_your_own`."""

import json
from pathlib import Path

import nbformat
import pytest

import crslib
from crslib.experiments import own
from crslib.experiments.pipeline import execute_notebook
from crslib.metrics import leakage
from crslib.runs import find_runs
from crslib.store import Run
from tests.support import tiny


def test_runs_side_by_side(tmp_path: Path) -> None:
    """Both are evaluated, the first is compared with the other, and other commands find them by their names."""
    users = {"user": lambda turns, knowledge: f"I like {knowledge['attributes']}", "n_profiles": 3, "max_turns": 4}
    recommenders = {"yours": lambda turns: "Try The Matrix (1999)", "other": lambda turns: "Hi, what do you like?"}
    for name, recommender in recommenders.items():
        crslib.talk(recommender, to=tmp_path / name, condition=name, **users)
    runs = {name: Run(tmp_path / name) for name in recommenders}
    sweep = own.compare(runs, tmp_path, n_bootstrap=100, seed=0)
    assert sweep.conditions.select("condition", "state", "leaks").rows() == [
        ("yours", "success", 0),
        ("other", "success", 0),
    ]
    named = {
        condition: value
        for condition, metric, value in sweep.metrics.select("condition", "metric", "value").iter_rows()
        if metric == "recommender_items"
    }
    assert named == {"yours": 1.0, "other": 0.0}  # items per turn of the recommender
    assert list(find_runs([tmp_path])) == ["yours", "other"]
    assert runs["yours"].info["metrics"]


def test_the_prompts_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"user": lambda turns, knowledge: "Hi, what is new?", "n_profiles": 2, "max_turns": 2}
    crslib.talk(lambda turns: "Try The Matrix (1999)", to=tmp_path / "run", **said)
    audit, read = leakage.audit, []
    monkeypatch.setattr(leakage, "audit", lambda *tables: read.append(1) or audit(*tables))
    run = Run(tmp_path / "run")
    own.evaluate(run, n_bootstrap=100, seed=0)
    assert len(read) == 1
    assert run.info["audit"]["user_prompts"] == 2


@pytest.mark.model
@pytest.mark.notebook
def test_the_notebook_compares_the_shipped_example_with_a_model(tmp_path: Path) -> None:
    """A tiny one, which reads all titles of the catalogue in seconds."""
    model = str(tiny.make(tmp_path / "tiny.gguf", "qwen3"))
    given = {
        "other_model": model,
        "run_dir": str(tmp_path),
        "user_model": "agenda",
        "n_profiles": 2,
        "max_turns": 4,
        "n_bootstrap": 100,
    }
    execute_notebook("07_your_own", tmp_path, given)
    yours, other = (Run(tmp_path / name).read("turns") for name in ("yours", "other"))
    said = yours.filter(role="recommender")["text"]
    assert said.str.contains(r"^Have you seen .*\[\[.+ \(\d{4}\)\]\]\?$").all()
    assert not other.filter(role="recommender")["text"].str.starts_with("Have you seen [[").all()
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert [condition["values"] for condition in content["conditions"]] == [
        {"condition": "yours"},
        {"condition": "other"},
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 conditions side by side" in page
    assert "Have you seen" in page
    assert not any(
        output.output_type == "error"
        for cell in nbformat.read(tmp_path / "07_your_own.ipynb", as_version=4).cells
        for output in cell.get("outputs", ())
    )
