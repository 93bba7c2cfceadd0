"""What the README shows works, and what it names exists."""

import re

import polars as pl
import pytest

from crslib import config
from crslib.config import ROOT, RunParameters
from crslib.engines import preparation

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.model
def test_the_python_example_runs(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = example.replace('resolve("reports/example")', f'resolve("{tmp_path}")')
    monkeypatch.setattr(preparation, "best", lambda *given: "Q8_0")  # instead of measuring for a minute
    namespace: dict[str, object] = {}
    exec(example, namespace)
    turns = namespace["turns"]
    assert isinstance(turns, pl.DataFrame)
    assert turns["dialogue_id"].n_unique() == 2
    assert "recommender" in capsys.readouterr().out


def test_files_and_parameters_it_names_exist() -> None:
    for path in re.findall(r"`((?:data|tests|reports|crslib|notebooks)/[\w./-]+\.(?:md|py|txt|png|parquet))`", README):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"-p (\w+)=", README):
        assert name in RunParameters.model_fields
    for name in config.NOTEBOOKS:
        assert name in README
    assert (ROOT / "reports/figures/report.png").exists()
