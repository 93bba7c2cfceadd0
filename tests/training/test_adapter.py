"""Adapters as GGUF: merged or read again, they are the trained ones."""

from pathlib import Path

import gguf
import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("safetensors", reason="needs the extra train")

from crslib.engines import llama, weights
from crslib.errors import CrsError
from crslib.training import losses
from crslib.training.adapter import Adapter, parts_of, read_gguf, read_peft, write_gguf, write_peft
from crslib.training.base import Base
from crslib.training.model import LoraLlama
from tests.support.tiny_llama import write_gguf as write_base


def trained(base: Base, rank: int = 4) -> Adapter:
    new = Adapter.of(LoraLlama(base, rank=rank, alpha=8, seed=0, precision="float32"))
    random = np.random.default_rng(3)
    scale = 0.02 if base.shape.n_layers > 10 else 0.3
    pairs = {n: (a, random.normal(size=b.shape, scale=scale).astype(np.float32)) for n, (a, b) in new.pairs.items()}
    return Adapter(rank, 8.0, pairs)


@pytest.mark.parametrize(("fmt", "largest"), [("F16", 2e-3), ("Q8_0", 2e-2)])
def test_merging_the_file_equals_adding_the_low_rank_products(tmp_path: Path, fmt: str, largest: float) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    adapter = trained(base)
    write_gguf(adapter, base.shape, tmp_path / "adapter.gguf", fmt)
    merged = Base(weights.merged(base.path, tmp_path / "adapter.gguf", "F16", tmp_path / "cache"))
    for name, (a, b) in adapter.pairs.items():
        expected = base.weight(f"{name}.weight") + 8 / 4 * b @ a
        assert np.abs(merged.weight(f"{name}.weight") - expected).max() < largest, name


def test_a_gguf_has_the_formats_and_metadata_that_llama_cpp_reads(tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    write_gguf(trained(base), base.shape, tmp_path / "adapter.gguf", "Q8_0", name="user")
    reader = gguf.GGUFReader(tmp_path / "adapter.gguf")
    values = {name: field.contents() for name, field in reader.fields.items()}
    assert values["general.type"] == "adapter"
    assert (values["general.architecture"], values["adapter.type"]) == ("llama", "lora")
    assert values["adapter.lora.alpha"] == 8.0
    assert (values["general.name"], values["general.base_model.0.name"]) == ("user", "tiny")
    kinds = {tensor.name.rsplit(".", 1)[1]: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds == {"lora_a": "Q8_0", "lora_b": "F16"}
    assert len(reader.tensors) == 2 * 7 * base.shape.n_layers


@pytest.mark.parametrize("parts", [(), ("style",), ("style", "facts")])
def test_both_forms_say_in_which_views_they_were_trained(parts: tuple[str, ...], tmp_path: Path) -> None:
    base, about = Base(write_base(tmp_path / "tiny.gguf")), weights.about("books", parts)
    write_gguf(trained(base), base.shape, tmp_path / "adapter.gguf", about=about)
    write_peft(trained(base), tmp_path / "peft", "tiny", about)
    assert parts_of(tmp_path / "adapter.gguf") == parts_of(tmp_path / "peft") == set(parts)
    assert weights.domain_of(tmp_path / "adapter.gguf") == "books"


def test_an_adapter_without_matrices_says_so_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"cannot read the adapter .*; give a PEFT folder or a GGUF"):
        parts_of(tmp_path)


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    with pytest.raises(CrsError, match="choose F16 or Q8_0"):
        write_gguf(trained(base), base.shape, tmp_path / "adapter.gguf", "Q4_0")  # type: ignore[arg-type]


@pytest.mark.model
def test_llama_cpp_has_the_same_losses_as_the_trainer(tmp_path: Path) -> None:
    """Merged into F16, so that llama.cpp does not round the inputs of its products."""
    base = Base(llama.model_path(llama.BUILT_IN))
    adapter = trained(base, rank=8)
    model = LoraLlama(base, rank=8, alpha=8, seed=0, precision="float32")
    model.load(adapter.pairs)
    write_gguf(adapter, base.shape, tmp_path / "adapter.gguf", "Q8_0")
    path = weights.merged(base.path, tmp_path / "adapter.gguf", "F16", tmp_path / "cache")
    speaker = llama.Model(path)
    texts = [  # rounding is another on each CPU and of either sign, so it takes a hundred tokens to average out
        "Have you seen [[Heat (1995)]]?",
        "I like comedies with a happy ending.",
        "Bye! Thanks for the tip.",
        "Hello, what kind of movies do you enjoy watching on the weekend?",
        "My favorite film is [[The Matrix (1999)]], because of its story.",
        "No, I have never heard of that one, is it a drama?",
        "It was directed by Steven Spielberg and it stars Tom Hanks.",
        "That sounds great, I will watch it tonight with my family.",
        "I am looking for something scary, but not too violent.",
    ]
    tokens = [speaker.encode(text) for text in texts]
    examples = pl.DataFrame(
        {"dialogue_id": list("abcdefghi"), "tokens": tokens, "target": [[True] * len(ids) for ids in tokens]},
        schema_overrides={"tokens": pl.List(pl.Int32)},
    )
    ours = losses.by_trainer(model, examples)
    theirs = losses.by_engine(speaker, None, examples, threads=2)
    assert ours["n"].to_list() == [len(ids) - 1 for ids in tokens]
    assert abs((ours["nats"].sum() - theirs["nats"].sum()) / ours["n"].sum()) < 0.01
    untrained = llama.Model(base.path)
    assert abs(losses.by_engine(untrained, None, examples)["nats"].sum() - theirs["nats"].sum()) > 1


@pytest.mark.parametrize(("fmt", "largest"), [("F16", 1e-3), ("Q8_0", 2e-2)])
def test_a_gguf_is_read_as_it_was_written(tmp_path: Path, fmt: str, largest: float) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    adapter = trained(base)
    write_gguf(adapter, base.shape, tmp_path / "adapter.gguf", fmt)
    again = read_gguf(tmp_path / "adapter.gguf", base.shape)
    assert (again.rank, again.alpha, list(again.pairs)) == (adapter.rank, adapter.alpha, list(adapter.pairs))
    for name, pair in adapter.pairs.items():
        assert all(np.abs(x - y).max() < largest for x, y in zip(pair, again.pairs[name], strict=True)), name


def test_a_file_that_is_no_adapter_of_this_base_is_refused(tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    (tmp_path / "text").write_text("no adapter")
    with pytest.raises(CrsError, match="cannot read the adapter"):
        read_gguf(tmp_path / "none.gguf", base.shape)
    for path in (tmp_path / "text", base.path):
        with pytest.raises(CrsError, match="is no LoRA for tiny"):
            read_gguf(path, base.shape)
    with pytest.raises(CrsError, match=r"is no LoRA for tiny|does not fit tiny"):
        read_gguf(llama.adapter_path("data/adapters/user.gguf"), base.shape)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b"[]", "its content is not valid"),
        (b'{"peft_type": "LORA", "lora_alpha": 8}', "r is not valid: field required"),
        (b'{"peft_type": "LORA", "r": 4, "lora_alpha": "8"}', "lora_alpha is not valid"),
        (b'{"peft_type": "LORA", "r": 4, "lora_alpha": 1e999}', "a number is infinite"),
    ],
)
def test_a_damaged_config_of_an_adapter_is_one_sentence(content: bytes, reason: str, tmp_path: Path) -> None:
    base = Base(write_base(tmp_path / "tiny.gguf"))
    write_peft(trained(base), tmp_path / "peft", "tiny")
    assert read_peft(tmp_path / "peft", base.shape).alpha == 8.0
    (tmp_path / "peft/adapter_config.json").write_bytes(content)
    with pytest.raises(CrsError, match=rf"adapter_config\.json is not readable .*{reason}.*; train the adapter again"):
        read_peft(tmp_path / "peft", base.shape)
