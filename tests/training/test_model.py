"""The trained model against `transformers` with PEFT, and its hand-written gradients against autograd."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.errors import CrsError
from crslib.training import adapter
from crslib.training import model as model_parts
from crslib.training.adapter import Adapter
from crslib.training.base import Base, transformers_model
from crslib.training.model import LoraLlama, Sequences
from tests.support.tiny_llama import N_VOCAB, write_gguf

CPU = torch.device("cpu")


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Base(write_gguf(tmp_path / "tiny.gguf"))


def model_of(base: Base, precision: str = "float32", *, trained: bool = True) -> LoraLlama:
    """With random B, as after some training."""
    model = LoraLlama(base, rank=4, alpha=8, seed=1, precision=precision)
    if trained:
        random = np.random.default_rng(2)
        pairs = Adapter.of(model).pairs
        model.load({n: (a, random.normal(size=b.shape, scale=0.1).astype(np.float32)) for n, (a, b) in pairs.items()})
    return model


def sequences(*lengths: int) -> list[np.ndarray]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(0, N_VOCAB, length) for length in lengths]


def logits(model: LoraLlama, *tokens: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return model(Sequences(list(tokens), CPU)) @ model.head.T


def test_new_adapter_changes_nothing(base: Base) -> None:
    (tokens,) = sequences(20)
    with torch.no_grad():
        expected = transformers_model(base)(torch.from_numpy(tokens)[None]).logits[0]
    assert torch.allclose(logits(model_of(base, trained=False), tokens), expected, atol=1e-4)


def test_peft_reads_the_trained_adapter(base: Base, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra train")
    model = model_of(base)
    adapter.write_peft(Adapter.of(model), tmp_path / "peft", "tiny")
    theirs = peft.PeftModel.from_pretrained(transformers_model(base), tmp_path / "peft").eval()
    (tokens,) = sequences(20)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)[None]).logits[0]
    assert not torch.allclose(expected, logits(model_of(base, trained=False), tokens), atol=0.1)
    assert torch.allclose(logits(model, tokens), expected, atol=5e-3)  # the folder holds float16


def test_a_peft_folder_is_read_as_it_was_written(base: Base, tmp_path: Path) -> None:
    written = Adapter.of(model_of(base))
    adapter.write_peft(written, tmp_path, "tiny")
    again = adapter.read_peft(tmp_path, base.shape)
    assert (again.rank, again.alpha, list(again.pairs)) == (4, 8.0, sorted(written.pairs))
    for name, pair in written.pairs.items():
        for ours, theirs in zip(pair, again.pairs[name], strict=True):
            assert np.array_equal(ours.astype(np.float16), theirs)


def test_folder_without_adapter_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(CrsError, match="give a PEFT folder or a GGUF"):
        adapter.read(tmp_path, base.shape)


def test_adapter_of_another_base_is_refused(base: Base, tmp_path: Path) -> None:
    own = Adapter.of(model_of(base)).pairs
    name = "model.layers.1.mlp.up_proj"
    other = Adapter(4, 8, {**own, name: (own[name][0][:, 1:], own[name][1])})
    adapter.write_peft(other, tmp_path, "other")
    with pytest.raises(CrsError, match=f"does not fit tiny .at {name}."):
        adapter.read_peft(tmp_path, base.shape)


def test_other_sequences_of_a_batch_do_not_matter(base: Base) -> None:
    model = model_of(base)
    parts = sequences(7, 31, 18)
    together = logits(model, *parts)
    alone = torch.cat([logits(model, part) for part in parts])
    assert torch.allclose(together, alone, atol=1e-4)


def test_a_token_does_not_see_later_ones(base: Base) -> None:
    model = model_of(base)
    (tokens,) = sequences(12)
    assert torch.allclose(logits(model, tokens)[:5], logits(model, tokens[:5]), atol=1e-4)


def test_gradients_equal_those_of_peft(base: Base, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra train")
    model = model_of(base)
    model.load(
        {n: tuple(h.astype(np.float16).astype(np.float32) for h in p) for n, p in Adapter.of(model).pairs.items()}
    )
    adapter.write_peft(Adapter.of(model), tmp_path / "peft", "tiny")
    theirs = peft.PeftModel.from_pretrained(transformers_model(base), tmp_path / "peft", is_trainable=True).float()
    long, short = sequences(30, 11)
    at = torch.tensor([4, 5, 28, 30 + 9])
    batch = Sequences([long, short], CPU)
    model.token_losses(batch, at, batch.tokens[at + 1]).sum().backward()
    for tokens, places in ((long, [4, 5, 28]), (short, [9])):
        out = theirs(torch.from_numpy(tokens)[None]).logits[0]
        torch.nn.functional.cross_entropy(
            out[places], torch.from_numpy(tokens)[[p + 1 for p in places]], reduction="sum"
        ).backward()
    expected = dict(theirs.named_parameters())
    gradients = model.adapter(model.lora.grad)
    assert len(gradients) == 14
    for name, pair in gradients.items():
        for half, ours in zip("AB", pair, strict=True):
            theirs_ = expected[f"base_model.model.{name}.lora_{half}.default.weight"].grad
            assert torch.allclose(ours, theirs_, atol=2e-5, rtol=1e-3), (name, half)


@pytest.mark.parametrize(("rows", "longest"), [(1, 1), (3, 7), (2, 40)])
def test_own_attention_and_its_gradients_equal_torchs(rows: int, longest: int) -> None:
    heads = {"q": 6, "k": 2, "v": 2}
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(rows, longest, n, 4, generator=generator, dtype=torch.float64) for n in heads.values()]
    of: dict[str, list[torch.Tensor]] = {}
    for name, attention in (
        ("own", model_parts._Attention.apply),
        ("torch", partial(torch.nn.functional.scaled_dot_product_attention, is_causal=True, enable_gqa=True)),
    ):
        parts = [part.clone().requires_grad_() for part in drawn]
        out = attention(*(part.transpose(1, 2) for part in parts))
        (out * torch.arange(out.numel()).view(out.shape).sin()).sum().backward()
        of[name] = [out, *(part.grad for part in parts)]
    for own, theirs in zip(of["own"], of["torch"], strict=True):
        assert torch.allclose(own, theirs, atol=1e-12)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_losses_and_gradients_in_fewer_bits_are_close_to_exact_ones(base: Base, precision: str) -> None:
    exact, coarse = model_of(base), model_of(base, precision)
    (tokens,) = sequences(40)
    batch, at = Sequences([tokens], CPU), torch.arange(39)
    losses = [model.token_losses(batch, at, batch.tokens[1:]) for model in (exact, coarse)]
    for loss in losses:
        loss.mean().backward()
    assert float((losses[0] - losses[1]).detach().abs().mean()) < 0.03
    one, other = (model.lora.grad for model in (exact, coarse))
    assert other.dtype == torch.float32
    assert float(torch.cosine_similarity(one, other, dim=0)) > 0.99
