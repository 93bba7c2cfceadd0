"""Base weights from a GGUF file: order of rows, shape, and files that are refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crslib.engines import llama
from crslib.errors import CrsError
from crslib.training.base import Base, permuted, transformers_model, unpermuted
from tests.support.tiny_llama import N_VOCAB, write_gguf


def test_llama_cpp_puts_the_two_halves_of_a_head_into_pairs() -> None:
    rows = np.arange(8.0)[:, None]  # two heads of four
    assert permuted(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_unpermuted_is_the_inverse_of_permuted(heads: int, pairs: int, columns: int) -> None:
    weight = np.arange(heads * pairs * 2 * columns, dtype=float).reshape(-1, columns)
    assert np.array_equal(unpermuted(permuted(weight, heads), heads), weight)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrsError, match=r"architecture gemma3, training needs llama; use a llama-family GGUF"):
        Base(write_gguf(tmp_path / "other.gguf", "gemma3"))


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(CrsError, match="damaged"):
        Base(tmp_path / "x.gguf")


def test_shape_is_read_from_metadata(tmp_path: Path) -> None:
    shape = Base(write_gguf(tmp_path / "tiny.gguf")).shape
    assert (shape.n_vocab, shape.head_dim, shape.n_kv_heads, shape.tied) == (N_VOCAB, 16, 2, True)
    assert shape.rope[:2].tolist() == pytest.approx([1.0, 1000 ** (-2 / 16)])


@pytest.mark.model
def test_transformers_agrees_with_llama_cpp_on_the_built_in_model() -> None:
    """llama.cpp rounds what it multiplies 4-bit weights with to 8 bits, so log-probabilities differ a little."""
    torch = pytest.importorskip("torch", reason="needs the extra train")
    pytest.importorskip("transformers", reason="needs the extra train")
    path = llama.model_path(llama.BUILT_IN)
    model = llama.Model(path)
    tokens = model.encode(
        "Have you seen The Matrix? It came out in 1999 and is a science fiction film with Keanu Reeves."
    )
    theirs = torch.from_numpy(llama.all_logits(model, None, tokens, threads=2)).log_softmax(1)
    with torch.no_grad():
        ours = transformers_model(Base(path))(torch.tensor([tokens])).logits[0].log_softmax(1)
    at = torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])
    assert abs(float(theirs[at].mean() - ours[at].mean())) < 0.05
    assert float((theirs.argmax(1) == ours.argmax(1)).float().mean()) > 0.85
