"""What a notebook imports before it begins, which `crs bench startup` measures."""

import json
import subprocess
import sys

import pytest

from crslib.config import ROOT
from crslib.errors import CrsError
from crslib.experiments.benchmarks import startup

HEAVY = ("altair", "crslib.metrics", "scipy.stats", "torch", "ray", "openai")


@pytest.mark.parametrize(("notebook", "needed"), [("01_profiles", {"altair"}), ("02_simulate", set())])
def test_a_notebook_imports_nothing_heavy_that_it_does_not_need(notebook: str, needed: set[str]) -> None:
    shown = f"import json, sys\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    code = f"{startup.imports(notebook)}\n{shown}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) == needed


def test_imports_of_a_notebook_can_be_run_alone() -> None:
    lines = startup.imports("02_simulate").split("\n")
    assert "from crslib.simulation import Population, open_agents, simulate" in lines
    assert all(line.startswith(("import ", "from ")) for line in lines)


@pytest.mark.model
def test_a_small_run_can_talk_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_SMALL", ("-p", "n_profiles=2", "-p", "max_turns=1", "-p", "user_model=agenda"))
    first, whole = startup._run().values()
    assert 0 < first < whole


def test_a_small_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "_SMALL", ("-p", "n_profiles=0"))
    with pytest.raises(CrsError, match="n_profiles = 0"):
        startup._run()
