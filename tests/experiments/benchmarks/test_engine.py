"""The benchmark of the engine: a small call of the real command gives consistent figures."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from crslib.cli.main import main
from crslib.experiments.benchmarks.engine import lines

NAMED_IN_ISSUES = (  # what others read from the file
    "naive_dialogues_per_min engine_dialogues_per_min speedup engine_tokens_per_s ceiling_tokens_per_s ceiling_share"
    " python_share peak_rss_mb"
)


def test_the_figures_of_a_small_call_are_consistent(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    small = ["max_turns=2", "max_tokens=8", "width=2", "n_ctx=512", "weights=Q8_0", "grounding=prior"]
    small += ["title_model=0", "title_base=0"]  # reading all titles takes minutes
    options = ["--dialogues", "4", "--plain", "2", "--json", str(file)]
    result = CliRunner().invoke(main, ["bench", "engine", *options, *(word for p in small for word in ("-p", p))])
    assert result.exit_code == 0, result.output
    figures = json.loads(file.read_text())
    assert set(NAMED_IN_ISSUES.split()) <= figures.keys()
    assert all(line in result.output for line in lines(figures))
    assert figures["speedup"] == pytest.approx(figures["engine_dialogues_per_min"] / figures["naive_dialogues_per_min"])
    assert figures["ceiling_share"] == pytest.approx(figures["engine_tokens_per_s"] / figures["ceiling_tokens_per_s"])
    tokens = figures["tokens_fed"] + figures["tokens_drawn"]
    assert tokens == pytest.approx(figures["engine_tokens_per_s"] * figures["seconds"])
    assert tokens == pytest.approx(figures["ceiling_tokens_per_s"] * figures["ceiling_s"])
    # Eight turns at most; a title may go beyond `max_tokens`, and an utterance may be its end token alone.
    assert 4 <= figures["tokens_drawn"] <= 8 * (8 + 16)
    assert 0 < figures["row_fill"] <= 1
    assert 0 < figures["python_share"] < 1
    not_python = sum(figures[f"{name}_s"] for name in ("prefill", "decode", "parking", "waiting")) - figures["feeder_s"]
    assert figures["python_share"] == pytest.approx(1 - not_python / figures["seconds"])
    assert (figures["weights"], figures["grounding"], figures["dialogues"]) == ("merged in float64, Q8_0", "prior", 4)
