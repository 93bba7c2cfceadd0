"""`05_people` through papermill, and the commands on a study."""

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.experiments import pipeline
from crslib.judging.study import Study, open_study
from crslib.reporting.study import lines, write
from crslib.store import read_parquet
from tests.support.people_runs import make_runs


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two raters who prefer `a` in all pairs but the last."""
    opened = open_study(make_runs(tmp_path, 6), 3, 0, tmp_path / "people")
    for rater in ("ann", "bob"):
        state = opened.state(rater)
        while state["order"] < 5:
            opening = state["left"][0]["pieces"][0][0]
            choice = "left" if " a" in opening else "right"
            key = f"{rater}{state['order']}{state['step']}"
            state = opened.vote(rater, key, state["order"], state["criterion"], choice, 1.0)
    return opened


@pytest.mark.notebook
def test_notebook_shows_the_page_and_writes_the_report(study: Study, tmp_path: Path) -> None:
    pipeline.execute_notebook("05_people", tmp_path, {"runs": [str(study.path)]})
    cells = json.loads((tmp_path / "05_people.ipynb").read_text())["cells"]
    kinds = [output.get("data", {}).keys() for cell in cells for output in cell.get("outputs", [])]
    assert any("application/vnd.jupyter.widget-view+json" in kind for kind in kinds)
    assert "Krippendorff" in (study.path / "report.html").read_text(encoding="utf-8")


def test_lines_and_report_of_a_study(study: Study) -> None:
    (line,) = [line for line in lines(study.votes()) if line.startswith("flow: a over b")]
    assert "2 raters" in line
    judged = study.votes().with_columns(rater=pl.lit("judge"))
    html = write(study, judged).read_text(encoding="utf-8")
    for part in ("Who wins", "Strengths", "Do raters agree?", "Raters", "How many pairs", "A judge against people"):
        assert f"<h2>{part}" in html or f"<h3>{part}" in html
    assert "<script" not in html
    assert read_parquet(study.path / "votes.parquet", "votes").equals(study.votes())


def test_commands(study: Study, tmp_path: Path) -> None:
    run = CliRunner().invoke
    result = run(main, ["people", "export", str(study.path), "--as", "jsonl", "--to", str(tmp_path / "out")])
    assert (result.exit_code, "pairs.jsonl" in result.output) == (0, True)
    result = run(main, ["people", "import", str(study.path), str(tmp_path / "out/votes.jsonl"), "--as", "jsonl"])
    assert (result.exit_code, result.output.startswith("0 new votes")) == (0, True)
    result = run(main, ["people", "serve", str(tmp_path / "a"), "--reports", str(tmp_path)])
    assert (result.exit_code, "two or more runs" in result.stderr) == (1, True)
    result = run(main, ["people", "report", str(tmp_path)])
    assert (result.exit_code, "no readable study.json" in result.stderr) == (1, True)
