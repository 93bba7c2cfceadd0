"""The format of weights that is chosen for this machine, and that the measurement is cached."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crslib.config import ROOT
from crslib.engines import preparation, trial, weights
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


def test_a_processor_on_which_llama_cpp_ends_the_process_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp.py").write_text("import os; os.kill(os.getpid(), 4)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(CrsError, match=r"ends with SIGILL on this processor.* compile it again: .*llama-cpp-python"):
        preparation.best(model_path("smollm2"), ADAPTER, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.model
def test_what_computes_is_not_said(tmp_path: Path) -> None:
    assert trial.fault() == ""
    assert trial.fault(str(tmp_path / "none.gguf")) == "", "an error with a sentence of its own"


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: b"", "it is not JSON"),
        (lambda whole: b"[]", "its content is not valid"),
        (lambda whole: whole.replace(b'"loss": 0.0', b'"loss": "0.0"', 1), "loss is not valid"),
        (lambda whole: whole.replace(b"Q4_0", b"Q4_1"), "is not valid"),
        (lambda whole: whole.replace(b'"cpu": "', b'"cpu": "another '), "it holds another measurement"),
    ],
)
def test_a_damaged_measurement_is_said_and_made_anew(
    content: Callable[[bytes], bytes], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def measure(*_: object) -> dict[str, dict[str, float]]:
        measured.append(1)
        return {
            fmt: {"loss": 0.0, "prefill": 1.0, "decode": 1.0, "tokens_per_s": 1.0 + (fmt == "BF16")}
            for fmt in weights.FORMATS
        }

    monkeypatch.setattr(preparation, "measure", measure)
    (tmp_path / "m").write_bytes(b"model")
    said: list[str] = []

    def best() -> str:
        return preparation.best(tmp_path / "m", tmp_path / "m", tmp_path / "cache", said.append)

    assert best() == best() == "BF16"
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    path.write_bytes(content(whole))
    assert best() == best() == "BF16"
    assert len(measured) == 2
    assert path.read_bytes() == whole
    assert [str(path) in line for line in said] == [False, True, False]
    assert reason in said[1] and said[1].endswith("it is measured anew")


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nmodel\t\t: 1\n", "AMD EPYC (family 25, model 17)"),
        ("model name\t: A\n", "A"),
        ("Processor\t: 3\n", "arm64"),
    ],
)
def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch, told: str, name: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: told)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert preparation.cpu() == name
