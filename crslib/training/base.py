"""The base as full-precision weights, read from the GGUF file that a simulation runs on; nothing is downloaded.

Knows the llama architecture under llama.cpp's names and under those of `transformers`; nothing of training. Only
`transformers_model` needs torch.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from crslib.engines import weights
from crslib.errors import CrsError

MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Every linear layer of a block, llama.cpp's name → name in `transformers`. LoRA adapts all of them."""

_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Shape:
    """Sizes of a llama model.

    `eps`: added to the mean square in a norm. `tied`: the output matrix is the embedding. `rope` (head_dim / 2,):
    radians per position by which each pair of a head's numbers is rotated.
    """

    name: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn: int
    n_vocab: int
    n_ctx: int
    eps: float
    rope_base: float
    tied: bool
    rope: np.ndarray = field(compare=False)


class Base:
    """A GGUF file of the llama architecture; each tensor is dequantized when it is read.

    Raises `CrsError` when the file is damaged, of another architecture, or a llama with unsupported parts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = weights.read(path, "model")
        architecture = self._text("general.architecture")
        if architecture != "llama":
            raise CrsError(
                f"{path} is of architecture {architecture or 'unknown'}, training needs llama; use a llama-family GGUF"
            )
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self._files = {_transformers_name(name): name for name in self._tensors if name != _ROPE_FACTORS}
        if "" in self._files or self._text("llama.rope.scaling.type") not in ("", "none", "linear"):
            part = self._files.get("") or "its rope scaling"
            raise CrsError(f"{path} is not a plain llama (training does not support {part}); use another base")
        self.shape = self._shape()

    @property
    def names(self) -> list[str]:
        """The names of all weights, as `transformers` calls them."""
        return sorted(self._files)

    def weight(self, name: str) -> np.ndarray:
        """A weight by its `transformers` name, float32, (out, in) for matrices."""
        tensor = self._tensors[self._files[name]]
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name.endswith("q_proj.weight"):
            return unpermuted(values, self.shape.n_heads)
        return unpermuted(values, self.shape.n_kv_heads) if name.endswith("k_proj.weight") else values

    def _text(self, name: str) -> str:
        return str(self._reader.fields[name].contents()) if name in self._reader.fields else ""

    def _number(self, name: str, default: float | None = None) -> Any:
        if f"llama.{name}" in self._reader.fields:
            return self._reader.fields[f"llama.{name}"].contents()
        if default is None:
            raise CrsError(f"{self.path} has no {name} in its metadata; convert it again with llama.cpp")
        return default

    def _shape(self) -> Shape:
        hidden, n_heads = self._number("embedding_length"), self._number("attention.head_count")
        head_dim = self._number("attention.key_length", hidden // n_heads)
        rope_base = self._number("rope.freq_base", 10000.0)
        if self._number("rope.dimension_count", head_dim) != head_dim:
            raise CrsError(
                f"{self.path} rotates only a part of each head, training needs whole heads; use another base"
            )
        rope = rope_base ** -(np.arange(0, head_dim, 2) / head_dim) / self._number("rope.scaling.factor", 1.0)
        if _ROPE_FACTORS in self._tensors:
            rope = rope / self._tensors[_ROPE_FACTORS].data
        return Shape(
            name=self._text("general.name") or self.path.stem,
            n_layers=self._number("block_count"),
            hidden=hidden,
            n_heads=n_heads,
            n_kv_heads=self._number("attention.head_count_kv", n_heads),
            head_dim=head_dim,
            ffn=self._number("feed_forward_length"),
            n_vocab=int(self._tensors["token_embd.weight"].shape[1]),
            n_ctx=self._number("context_length"),
            eps=self._number("attention.layer_norm_rms_epsilon"),
            rope_base=rope_base,
            tied="output.weight" not in self._tensors,
            rope=rope.astype(np.float32),
        )


def permuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """A query or key matrix (out, in) with its rows in llama.cpp's order.

    llama.cpp rotates neighbouring numbers of a head as a pair; `transformers` rotates each number of a head's first
    half with the one at the same place of the second half.
    """
    rows, columns = weight.shape
    return weight.reshape(n_heads, 2, rows // n_heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def unpermuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """The inverse of `permuted`."""
    rows, columns = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _transformers_name(name: str) -> str:
    """The name in `transformers`; empty for a tensor that a plain llama does not have."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    parts = name.split(".")
    module = (MODULES | _NORMS).get(parts[2], "") if len(parts) == 4 and parts[0] == "blk" else ""
    return f"model.layers.{parts[1]}.{module}.weight" if module and parts[3] == "weight" else ""


def transformers_model(base: Base) -> Any:
    """The base as a `transformers.LlamaForCausalLM`, float32, on the CPU, in evaluation mode."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = base.shape
    config = LlamaConfig(
        vocab_size=shape.n_vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.n_ctx,
        rms_norm_eps=shape.eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        tie_word_embeddings=shape.tied,
    )
    model = LlamaForCausalLM(config)
    parameters = {name: torch.from_numpy(base.weight(name)) for name in base.names}
    missing, unexpected = model.load_state_dict(parameters, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if shape.tied else set())
    model.model.rotary_emb.inv_freq.copy_(torch.from_numpy(shape.rope))
    return model.eval()
