"""The engine's benchmark: a small call of the real command, and whether its figures belong together."""

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


def test_a_small_call_gives_figures_that_belong_together(tmp_path: Path) -> None:
    file = tmp_path / "engine.json"
    small = ["max_turns=2", "max_tokens=8", "width=2", "n_ctx=512", "weights=Q8_0", "grounding=prior"]
    options = ["--dialogues", "4", "--plain", "2", "--json", str(file)]
    result = CliRunner().invoke(main, ["bench", "engine", *options, *(word for p in small for word in ("-p", p))])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert set(NAMED_IN_ISSUES.split()) <= found.keys()
    assert all(line in result.output for line in lines(found))
    assert found["speedup"] == pytest.approx(found["engine_dialogues_per_min"] / found["naive_dialogues_per_min"])
    assert found["ceiling_share"] == pytest.approx(found["engine_tokens_per_s"] / found["ceiling_tokens_per_s"])
    tokens = found["tokens_fed"] + found["tokens_drawn"]
    assert tokens == pytest.approx(found["engine_tokens_per_s"] * found["seconds"])
    assert tokens == pytest.approx(found["ceiling_tokens_per_s"] * found["ceiling_s"])
    # Eight turns at most; a title goes on beyond `max_tokens`, and an utterance may be nothing but its end.
    assert 4 <= found["tokens_drawn"] <= 8 * (8 + 16)
    assert 0 < found["row_fill"] <= 1
    assert 0 < found["python_share"] < 1
    inside = sum(found[f"{name}_s"] for name in ("prefill", "decode", "parking", "waiting")) - found["feeder_s"]
    assert found["python_share"] == pytest.approx(1 - inside / found["seconds"])
    assert (found["weights"], found["grounding"], found["dialogues"]) == ("merged, Q8_0", "prior", 4)
