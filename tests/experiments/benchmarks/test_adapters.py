"""The table of adapters, forced notes and training speed on a few dialogues, with the real model."""

from pathlib import Path

import polars as pl
import pytest

pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("transformers", reason="needs the extra test")

from crslib.config import ROOT, RunParameters, SimulationParameters
from crslib.data.corpora import redial
from crslib.errors import CrsError
from crslib.experiments.benchmarks import adapters, notes, training
from crslib.training import losses
from crslib.training import run as training_run
from tests.support.tiny_llama import make_examples
from tests.support.tiny_redial import write

USER = ROOT / "data" / "adapters" / "user.gguf"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write(tmp_path / "redial" / "test.jsonl").parent


def test_the_same_dialogues_are_drawn_whatever_their_order(corpus: Path) -> None:
    dialogues = redial.read(corpus, "test")
    some = adapters.drawn(dialogues, 2)
    assert adapters.drawn(dialogues[::-1], 2) == some == adapters.drawn(dialogues, 0)[:2]
    assert len(adapters.drawn(dialogues, 0)) == 6


@pytest.mark.model
def test_the_runtimes_agree_and_the_adapter_helps(corpus: Path) -> None:
    reached: list[tuple[int, int]] = []
    rows = adapters.measure(corpus, [("user", "mine", USER)], 1, 1, progress=lambda *count: reached.append(count))
    whole = rows.filter(kind="all")
    assert [row[:3] for row in whole.select("adapter", "without", "runtime").iter_rows()] == [
        ("base", "", adapters.TORCH),
        ("mine", "", adapters.TORCH),
        ("mine", "notes", adapters.TORCH),
        ("mine", "summary and attributes", adapters.TORCH),
        ("mine", "style", adapters.TORCH),
        ("mine", "", adapters.TORCH),
        ("mine", "", adapters.TRANSFORMERS),
        ("mine", "", adapters.UNMERGED),
        ("mine", "", adapters.MERGED),
    ]
    assert whole["n_dialogues"].to_list() == [1] * 9
    assert whole["n_tokens"][0] == rows.filter(pl.col("kind") != "all", adapter="base")["n_tokens"].sum()
    base, mine, _, _, _, torch, transformers, unmerged, merged = whole["loss"]
    assert mine < base - 0.5
    assert transformers == pytest.approx(torch, abs=1e-3)
    assert unmerged == pytest.approx(torch, abs=0.05)
    assert merged == pytest.approx(unmerged, abs=0.05)
    assert reached[-1] == (9, 9)
    (again,) = adapters.measure(corpus, [("user", "mine", USER)], 1, 1, without=["notes"]).filter(kind="all").rows()
    assert again == whole.row(2)
    text = adapters.formatted(rows)
    assert text.count("\n") == 10
    assert f"| user | mine, without notes | torch | {whole['loss'][2]:.3f} | " in text
    simulation = RunParameters(user_adapter=str(USER), recommender_adapter="", weights="Q8_0", max_turns=1).model_dump()
    read = adapters.foresight(adapters.drawn(redial.read(corpus, "test"), 1), simulation, times=100, seed=0)
    assert read.by_metric["user_people_cross_entropy"].estimate.value == pytest.approx(merged)
    assert read.by_metric["recommender_people_cross_entropy"].estimate.value > merged


def test_a_model_reads_the_same_dialogues_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "CACHE", tmp_path)
    rows = make_examples(3)
    sums = pl.DataFrame([("d0", 1, 2.5, 4)], schema=losses.SUMS, orient="row")
    calls: list[str] = []

    def read(name: str, source: dict[str, str], of: pl.DataFrame) -> pl.DataFrame:
        return adapters._once(lambda: calls.append(name) or sums, source, of)

    assert read("first", {"model": "a"}, rows).equals(sums)
    assert read("again", {"model": "a"}, rows).equals(sums)
    read("another model", {"model": "b"}, rows)
    read("other dialogues", {"model": "a"}, rows[:2])
    assert calls == ["first", "another model", "other dialogues"]
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert read("damaged", {"model": "a"}, rows).equals(sums)
    assert calls[-1] == "damaged"


def test_a_script_and_a_run_without_parameters_have_no_foresight(corpus: Path) -> None:
    dialogues = redial.read(corpus, "test")
    scripted, usual = (RunParameters(baseline=name).model_dump() for name in ("scripted", ""))
    for read, run in ((dialogues, scripted), (dialogues, {}), ([], usual)):
        results = adapters.foresight(read, run, times=100, seed=0)
        assert not results.by_metric
        assert results.missing


def test_a_missing_adapter_is_refused(corpus: Path) -> None:
    with pytest.raises(CrsError, match="cannot read the adapter"):
        adapters.measure(corpus, [("user", "none", corpus / "none.gguf")], 1, 1)


@pytest.mark.model
def test_every_note_is_answered_once(corpus: Path) -> None:
    shares = notes.measure(corpus, SimulationParameters(weights="Q8_0", max_tokens=12, width=4, resample=2), 1)
    of = shares.group_by("kind", "way", "n").agg(pl.col("share").sum())
    assert of.height == 2 * 4
    assert of["n"].to_list() == [1] * 8
    assert of["share"].to_list() == [1.0] * 8
    assert set(shares["answer"]) == {"follows", "open", "contradicts"}
    assert notes.formatted(shares).count("\n") == 9


@pytest.mark.model
def test_every_precision_of_training_has_a_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PRECISIONS", {"cpu": ("float32", "bfloat16")})
    monkeypatch.setattr(training_run, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(training, "_LENGTHS", {"cpu": (20, 2)})
    monkeypatch.setattr(training, "_ROUNDS", 1)
    speeds = training.measure("cpu")
    assert speeds["precision"].to_list() == ["float32"]  # this CPU does not multiply bfloat16
    assert speeds["tokens_per_s"][0] > 0
    with pytest.raises(CrsError, match="device 'tpu' is not there"):
        training.measure("tpu")
