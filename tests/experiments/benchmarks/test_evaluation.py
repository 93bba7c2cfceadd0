"""Copies of a run's dialogues, by which large evaluations are measured."""

from pathlib import Path

import polars as pl
import pytest

from crslib import schemas
from crslib.config import EvaluationParameters
from crslib.errors import CrsError
from crslib.experiments.benchmarks import evaluation
from crslib.store import Run
from tests.support.people_runs import make_runs


def test_copies_have_ids_and_words_of_their_own(tmp_path: Path) -> None:
    run, copies = Run(make_runs(tmp_path, 3, conditions=("a",))[0]), Run(tmp_path / "copies")
    for name in ("holdouts", "items", "ratings", "prompts"):
        run.write(name, schemas.empty(name))
    assert evaluation.replicate(run, 7, copies) == 9  # whole copies of the three
    dialogues, turns = copies.read("dialogues"), copies.read("turns")
    assert dialogues["dialogue_id"].to_list() == [f"u{u:03}.0.{copy}" for u in range(3) for copy in range(3)]
    assert turns.height == 3 * run.read("turns").height
    first = turns.filter(pl.col("dialogue_id").str.starts_with("u000.0."), pl.col("turn") == 0)["text"]
    assert first.n_unique() > 1
    assert first.str.starts_with("u000 says a0 of [[Heat (1995)]] ").all()
    assert copies.read("profiles").equals(run.read("profiles"))


def test_a_run_that_lacks_prompts_is_refused(tmp_path: Path) -> None:
    run = Run(make_runs(tmp_path, 1, conditions=("a",))[0])
    with pytest.raises(CrsError, match="has no table holdouts; give the folder of a run that `crs run` made"):
        evaluation.measure(run, [2], EvaluationParameters())
