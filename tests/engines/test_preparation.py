"""The format of weights that is chosen for this machine, and that the measurement is cached."""

import json
from pathlib import Path

import pytest

from crslib.config import ROOT
from crslib.engines import preparation, weights
from crslib.engines.llama import model_path
from crslib.errors import CrsError

ADAPTER = ROOT / "data" / "adapters" / "recommender.gguf"


def figures(**tokens_per_s: float) -> dict[str, dict[str, float]]:
    loss = {"Q8_0": 0.003, "BF16": 0.0, "F16": 0.0, "Q4_0": 0.15}
    return {fmt: {"loss": loss[fmt], "tokens_per_s": tokens_per_s.get(fmt, 100.0)} for fmt in weights.FORMATS}


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [
        (figures(), "Q8_0"),
        (figures(BF16=124.0), "Q8_0"),  # a difference that may be noise
        (figures(BF16=190.0, F16=150.0), "BF16"),
        (figures(Q4_0=400.0), "Q8_0"),  # the fastest loses too much
        ({fmt: {"loss": 0.5, "tokens_per_s": 0.0} for fmt in weights.FORMATS}, "Q8_0"),
    ],
)
def test_the_fastest_accurate_format_is_chosen(measured: dict[str, dict[str, float]], chosen: str) -> None:
    assert preparation.choose(measured) == chosen


@pytest.mark.model
def test_the_formats_are_measured_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_path("smollm2")
    for name, small in (("_WIDTH", 2), ("_CONTEXT", 40), ("_FED", 8)):  # only the losses are tested
        monkeypatch.setattr(preparation, name, small)
    monkeypatch.setattr(weights, "FORMATS", tuple(fmt for fmt in weights.FORMATS if fmt != "F16"))  # a second BF16 here
    chosen = preparation.best(model, ADAPTER, tmp_path)
    (cached,) = (path for path in tmp_path.glob("*.json") if not path.name.endswith(".sha256.json"))
    measured = json.loads(cached.read_text())["formats"]
    assert set(measured) == set(weights.FORMATS)
    assert 0 < measured["BF16"]["loss"] < 0.01
    assert 0 < measured["Q8_0"]["loss"] < preparation.MAX_LOSS < measured["Q4_0"]["loss"]
    assert measured["Q8_0"]["tokens_per_s"] > 0 == measured["Q4_0"]["tokens_per_s"]
    assert [path.name for path in tmp_path.glob("*.gguf")] == [weights.merged(model, ADAPTER, chosen, tmp_path).name]
    monkeypatch.setattr(preparation, "measure", None)  # would fail if it were called again
    assert preparation.best(model, ADAPTER, tmp_path) == chosen


def test_an_adapter_of_another_model_raises_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_bytes(ADAPTER.read_bytes().replace(b"llama", b"bloom", 1))
    with pytest.raises(CrsError, match="does not fit the model"):
        preparation.best(model_path("smollm2"), tmp_path / "other.gguf", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))
