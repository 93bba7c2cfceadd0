"""`00_quickstart`."""

from pathlib import Path

import nbformat
import pytest

from crslib.experiments.pipeline import execute_notebook
from crslib.store import Run


@pytest.mark.model
@pytest.mark.notebook
def test_the_quickstart_notebook_runs_and_shows_its_dialogues(tmp_path: Path) -> None:
    execute_notebook("00_quickstart", tmp_path, {"run_dir": str(tmp_path), "n_profiles": 2, "max_turns": 4})
    assert Run(tmp_path).read("dialogues").height == 2
    cells = nbformat.read(tmp_path / "00_quickstart.ipynb", as_version=4).cells
    shown = "".join(str(output) for cell in cells for output in cell.get("outputs", ()))
    assert "srcdoc=" in shown
    assert "About you: You enjoy" in shown
    (talk,) = [cell for cell in cells if "talking(" in cell.source]
    assert "application/vnd.jupyter.widget-view+json" in talk.outputs[0]["data"]
