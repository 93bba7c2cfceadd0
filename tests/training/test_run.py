"""What a training leaves behind, and which device it takes."""

from pathlib import Path

import gguf
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.errors import CrsError
from crslib.training import (
    adapter,
    run,
)
from crslib.training.fit import Settings
from tests.support.tiny_llama import write_gguf
from tests.training.test_fit import make_pairs


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler: compiling takes longer than all these trainings."""
    monkeypatch.setenv("CXX", "no-such-compiler")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(CrsError, match="device 'cuda' is not there"):
        run.chosen("cuda", "auto")
    assert run.chosen("auto", "float32", 1) == (torch.device("cpu"), "float32")


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"avx512_f": True}, "float32"), ({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16")],
)
def test_bfloat16_is_used_where_a_cpu_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert run.chosen("cpu", "auto", 1)[1] == expected
    assert run.chosen("cpu", "float32", 1)[1] == "float32"


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(CrsError, match="precision 'int4' is not possible on cpu"):
        run.chosen("cpu", "int4")


@pytest.mark.usefixtures("plain")
def test_preferences_end_with_adapter_card_and_figures(tmp_path: Path) -> None:
    model, first = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "first"
    pupil, base = run.load(str(model), None, 0, torch.device("cpu"), "float32")
    adapter.write(adapter.Adapter.of(pupil), first, base.shape.name)
    settings = Settings(epochs=4, lr=1e-2, step_tokens=60)
    figures = run.prefer(
        "user",
        make_pairs(6),
        make_pairs(2),
        first,
        tmp_path / "to",
        settings,
        model=str(model),
        device="cpu",
        threads=1,
    )
    left = {str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*") if path.is_file()}
    peft = {"peft/adapter_config.json", "peft/adapter_model.safetensors"}
    assert left == {"README.md", "figures.json", "log.parquet", "user.gguf", *peft}
    assert figures["before"]["loss"] == pytest.approx(0.693, abs=1e-3)
    assert figures["tokens"] == 4 * sum(
        map(len, make_pairs(6).select(pl.concat_list("prompt", "chosen", "prompt", "rejected")).to_series())
    )
    card = (tmp_path / "to" / "README.md").read_text(encoding="utf-8")
    assert "LoRA for tiny, `tiny.gguf`" in card
    assert "| accuracy |" in card
    assert len(gguf.GGUFReader(tmp_path / "to" / "user.gguf").tensors) == 28
    assert adapter.read(tmp_path / "to" / "peft").rank == 16
