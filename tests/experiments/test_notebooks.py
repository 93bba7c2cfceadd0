"""`notebooks/README.md` and the parameters cells against the typed classes."""

import nbformat
import pytest

from crslib.config import ROOT
from crslib.experiments import notebooks


def test_the_table_of_parameters_is_that_of_the_classes() -> None:
    text = (ROOT / "notebooks/README.md").read_text(encoding="utf-8")
    assert text == notebooks.documented(), "run `python -m crslib.experiments.notebooks`"
    assert '| `opener` | `"mixed"` | `mixed`, `user`, `recommender` | who speaks first;' in text
    assert "| `holdout_share` | `0.2` | float > 0 < 1 |" in text
    assert '| `baseline` | `"user-target"` |' in text


@pytest.mark.parametrize("name", notebooks.PARAMETERS)
def test_a_parameters_cell_is_that_of_its_class(name: str) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert cell.source == notebooks.parameters_cell(name)
