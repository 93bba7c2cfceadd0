"""An adapter that `peft` made computes the same in llama.cpp as in `transformers`."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from crslib.engines.llama.plain import high_level
from crslib.errors import CrsError
from crslib.training import conversion
from tests.support import tiny

peft = pytest.importorskip("peft", reason="peft is not installed (extra trl)")
TOKENS = [3, 80, 12, 12, 200, 41, 7, 99]


def log_probs(path: Path, adapter: Path | None) -> np.ndarray:
    """llama.cpp's log-probabilities after each of `TOKENS`."""
    whole = high_level(path, lora_path=None if adapter is None else str(adapter), n_ctx=64, logits_all=True)
    with contextlib.closing(whole):
        whole.eval(TOKENS)
        return torch.from_numpy(np.array(whole.scores[: len(TOKENS)])).log_softmax(-1).numpy()


@pytest.mark.parametrize("kind", ["llama3", "qwen3"])
def test_the_same_log_probabilities(kind: str, tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base.gguf", kind)
    plain = tiny.hugging_face(base, kind)
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    trained = peft.get_peft_model(plain, config)
    for name, values in trained.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(values, std=0.2)
    trained.save_pretrained(tmp_path / "peft")
    conversion.write_gguf(tmp_path / "peft", plain.config, tmp_path / "user.gguf", kind, "movies")
    with torch.no_grad():
        expected = trained(torch.tensor([TOKENS])).logits[0].log_softmax(-1).numpy()
        with trained.disable_adapter():
            before = trained(torch.tensor([TOKENS])).logits[0].log_softmax(-1).numpy()
    ours = log_probs(base, tmp_path / "user.gguf")
    assert np.abs(log_probs(base, None) - before).max() < 0.02  # the bases are the same
    assert np.abs(ours - expected).max() < 0.02
    assert np.abs(expected - before).max() > 1  # and the adapter is not nothing


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="adapters of gemma3 models are not converted; known are llama, mistral"):
        conversion.write_gguf(tmp_path, SimpleNamespace(model_type="gemma3"), tmp_path / "to.gguf", "base")


def test_a_layer_that_llama_cpp_lacks_is_named(tmp_path: Path) -> None:
    base = tiny.make(tmp_path / "base.gguf", "llama3")
    plain = tiny.hugging_face(base, "llama3")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    plain.model.layers[0].self_attn.odd = torch.nn.Linear(4, 4)
    config.target_modules = {"q_proj", "odd"}
    peft.get_peft_model(plain, config).save_pretrained(tmp_path / "peft")
    with pytest.raises(CrsError, match=r"changes model\.layers\.0\.self_attn\.odd, which llama.cpp does not have"):
        conversion.write_gguf(tmp_path / "peft", plain.config, tmp_path / "to.gguf", "base")
