"""A llama whose base is frozen and whose linear layers all carry LoRA, written for training speed.

Sequences lie end to end without padding; they meet only in attention, where each sees itself alone. Projections of
the same input are one product. On a CPU with fast 8-bit products the frozen matrices and what is multiplied with them
are rounded to 8 bits row by row, forward and backward, while everything that is learnt stays exact (SwitchBack,
Wortsman et al. 2023): the base is a 4-bit file, and llama.cpp rounds its inputs likewise.

Knows tokens and weights; nothing of dialogues, losses over tokens or files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crslib.identity import derive_seed
from crslib.training.base import Base, Shape

Precision = Literal["float32", "bfloat16", "int8"]
_CHUNK = 512  # rows of logits at a time: 100 MB with a vocabulary of 49k


class Sequences:
    """Token sequences end to end: what the model is fed at once.

    `tokens`, `positions`: (T,), int64. `places` (T,): where each token lies in `n_rows` rows of `longest`, laid flat.
    """

    def __init__(self, sequences: Sequence[np.ndarray], device: torch.device) -> None:
        lengths = [len(sequence) for sequence in sequences]
        self.n_rows, self.longest = len(lengths), max(lengths)
        inside = [np.arange(length) for length in lengths]
        self.tokens = _sent(np.concatenate(sequences).astype(np.int64), device)
        self.positions = _sent(np.concatenate(inside), device)
        self.places = _sent(np.concatenate([row * self.longest + at for row, at in enumerate(inside)]), device)

    def rows(self, x: Tensor) -> Tensor:
        """(T, …) as (n_rows, longest, …), zero behind the shorter ones."""
        return _Spread.apply(x, self.places, self.n_rows * self.longest).view(self.n_rows, self.longest, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """The inverse of `rows`."""
        return _Gathered.apply(x.reshape(self.n_rows * self.longest, *x.shape[2:]), self.places)


class _Spread(torch.autograd.Function):
    """Rows put to `places` of a larger tensor of zeros: a copy back and forth, no sum (so the order cannot matter)."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(n, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx, g: Tensor):
        return g.index_select(0, *ctx.saved_tensors), None, None


class _Gathered(torch.autograd.Function):
    """The inverse of `_Spread`."""

    @staticmethod
    def forward(ctx, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, g: Tensor):
        return g.new_zeros(ctx.shape).index_copy_(0, *ctx.saved_tensors, g), None


def _sent(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


class LoraLlama(nn.Module):
    """The base with LoRA of rank `rank` on every linear layer of every block: W' = W + (alpha / rank) · B · A.

    A is drawn as PEFT draws it (uniform, Kaiming with a = √5), B is zero: before training it says what the base says.
    """

    def __init__(
        self, base: Base, *, rank: int, alpha: float, seed: int, precision: Precision, fused: bool = False
    ) -> None:
        """`fused`: compile what lies between the products (needs a C++ compiler, or a GPU; half a minute once)."""
        super().__init__()
        self.shape, self.rank, self.alpha = base.shape, rank, alpha
        self._between = _between(fused)
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.register_buffer("embedding", torch.from_numpy(base.weight("model.embed_tokens.weight")).to(kind))
        head = self.embedding if base.shape.tied else torch.from_numpy(base.weight("lm_head.weight")).to(kind)
        self.register_buffer("head", head)
        self.register_buffer("norm", torch.from_numpy(base.weight("model.norm.weight")))
        angles = np.outer(np.arange(base.shape.n_ctx), base.shape.rope)
        self.register_buffer("angles", torch.from_numpy(angles.astype(np.float32)))
        random = torch.Generator().manual_seed(derive_seed(seed, "lora"))
        making = _Making(rank, alpha / rank, random, precision, self._between)
        self.blocks = nn.ModuleList(_Block(base, layer, making) for layer in range(base.shape.n_layers))

    def forward(self, batch: Sequences) -> Tensor:
        """Hidden states after the last norm, (T, hidden)."""
        angles = self.angles[batch.positions][:, None]
        turn = angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)
        x = self.embedding[batch.tokens].float()
        for block in self.blocks:
            x = block(x, turn, batch)
        return self._between.norm(x, self.norm, self.shape.eps)

    def token_losses(self, batch: Sequences, at: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (nats, float32) of each of `targets` (n,) as the token that follows position `at` (n,)."""
        return _CrossEntropy.apply(self.forward(batch).index_select(0, at), self.head, targets)

    def adapter(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A (rank, in) and B (out, rank) of every linear layer by its `transformers` name: views of what is learnt."""
        return {
            f"model.layers.{layer}.{name}": pair
            for layer, block in enumerate(self.blocks)
            for projection in (block.qkv, block.o, block.gate_up, block.down)
            for name, pair in projection.pairs().items()
        }

    @torch.no_grad()
    def load(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Sets A and B of every layer."""
        for name, (a, b) in self.adapter().items():
            a.copy_(torch.from_numpy(pairs[name][0]))
            b.copy_(torch.from_numpy(pairs[name][1]))


@dataclass(frozen=True)
class _Making:
    """How the layers of a model are made: one generator for all, in order."""

    rank: int
    scale: float
    random: torch.Generator
    precision: Precision
    between: "_Between"


class _Block(nn.Module):
    def __init__(self, base: Base, layer: int, making: _Making) -> None:
        super().__init__()
        prefix = f"model.layers.{layer}."
        self._between = making.between
        self.shape: Shape = base.shape

        def projection(*names: str) -> _Projection:
            weights = {name: base.weight(f"{prefix}{name}.weight") for name in names}
            return _Projection(weights, making)

        self.qkv = projection("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.o = projection("self_attn.o_proj")
        self.gate_up = projection("mlp.gate_proj", "mlp.up_proj")
        self.down = projection("mlp.down_proj")
        for name, norm in (("before_attention", "input_layernorm"), ("before_ffn", "post_attention_layernorm")):
            self.register_buffer(name, torch.from_numpy(base.weight(f"{prefix}{norm}.weight")))

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], batch: Sequences) -> Tensor:
        norm, eps = self._between.norm, self.shape.eps
        x = x + self.o(self._attention(self.qkv(norm(x, self.before_attention, eps)), turn, batch))
        return x + self.down(self._between.gated(self.gate_up(norm(x, self.before_ffn, eps))))

    def _attention(self, qkv: Tensor, turn: tuple[Tensor, Tensor], batch: Sequences) -> Tensor:
        s = self.shape
        heads = qkv.view(len(qkv), s.n_heads + 2 * s.n_kv_heads, s.head_dim)
        turned, v = heads.split([s.n_heads + s.n_kv_heads, s.n_kv_heads], 1)
        q, k = self._between.turned(turned, *turn).split([s.n_heads, s.n_kv_heads], 1)
        rows = [batch.rows(part).transpose(1, 2) for part in (q, k, v)]  # (n_rows, heads, longest, head_dim)
        out = F.scaled_dot_product_attention(*rows, is_causal=True, enable_gqa=True)
        return batch.flat(out.transpose(1, 2).flatten(2))


class _Projection(nn.Module):
    """Frozen matrices of the same input, one below the other, each with LoRA of its own."""

    def __init__(self, weights: Mapping[str, np.ndarray], making: _Making) -> None:
        super().__init__()
        self.names, self.scale = tuple(weights), making.scale
        self.outs = [len(weight) for weight in weights.values()]
        frozen = torch.from_numpy(np.concatenate(list(weights.values())))
        rounded = making.precision == "int8"
        self.frozen = _Rounded(frozen, making.between) if rounded else _Exact(frozen, making.precision)
        bound = frozen.shape[1] ** -0.5
        a = torch.empty(len(self.names) * making.rank, frozen.shape[1])
        self.a = nn.Parameter(a.uniform_(-bound, bound, generator=making.random))
        self.b = nn.Parameter(torch.zeros(frozen.shape[0], making.rank))

    def forward(self, x: Tensor) -> Tensor:
        kind = self.frozen.kind
        return _Adapted.apply(x.to(kind), self.a.to(kind), self.b.to(kind), self.frozen, self.outs, self.scale)

    def pairs(self) -> dict[str, tuple[Tensor, Tensor]]:
        rank = self.b.shape[1]
        return dict(zip(self.names, zip(self.a.split(rank), self.b.split(self.outs), strict=True), strict=True))


class _Exact(nn.Module):
    """A frozen matrix (out, in)."""

    def __init__(self, weight: Tensor, precision: Precision) -> None:
        super().__init__()
        self.kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.register_buffer("weight", weight.to(self.kind))

    def product(self, x: Tensor) -> Tensor:
        """x · Wᵀ"""
        return x @ self.weight.T

    def back(self, g: Tensor) -> Tensor:
        """g · W"""
        return g @ self.weight


class _Rounded(nn.Module):
    """The same in 8 bits with a scale per row; what it is multiplied with is rounded likewise."""

    kind = torch.float32

    def __init__(self, weight: Tensor, between: "_Between") -> None:
        super().__init__()
        self._between = between
        weight, scale = _rounded(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())  # (1, out)

    def product(self, x: Tensor) -> Tensor:
        rounded, scale = self._between.rounded(x)
        return self._between.scaled(torch._int_mm(rounded, self.weight.T), scale, self.scale)

    def back(self, g: Tensor) -> Tensor:
        rounded, scale = self._between.rounded_scaled(g, self.scale)
        return self._between.scaled(torch._int_mm(rounded, self.weight), scale, None)


class _Adapted(torch.autograd.Function):
    """y = W x + scale · B A x for matrices one below the other; gradients for x, A and B, none for W."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor, frozen, outs: list[int], scale: float) -> Tensor:
        low = x @ a.T
        y = frozen.product(x)
        for part, part_low, part_b in zip(y.split(outs, 1), low.split(b.shape[1], 1), b.split(outs), strict=True):
            part.addmm_(part_low, part_b.T, alpha=scale)
        ctx.save_for_backward(x, low, a, b)
        ctx.rest = frozen, outs, scale
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        x, low, a, b = ctx.saved_tensors
        frozen, outs, scale = ctx.rest
        parts, parts_low = g.split(outs, 1), low.split(b.shape[1], 1)
        g_low = torch.cat([part @ part_b for part, part_b in zip(parts, b.split(outs), strict=True)], 1).mul_(scale)
        g_b = torch.cat([part.T @ part_low for part, part_low in zip(parts, parts_low, strict=True)]).mul_(scale)
        g_x = frozen.back(g).addmm_(g_low, a) if ctx.needs_input_grad[0] else None
        return g_x, g_low.T @ x, g_b, None, None, None


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy per row of hidden states against a frozen output matrix, a few rows of logits at a time.

    The gradient is made with the loss, while the logits are there: they are neither kept nor computed twice.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        losses, gradients = [], []
        for rows, aims in zip(hidden.to(head.dtype).split(_CHUNK), targets.split(_CHUNK), strict=True):
            logits = (rows @ head.T).float()
            at = torch.arange(len(aims), device=aims.device), aims
            logits -= logits.amax(1, keepdim=True)
            aimed = logits[at]
            total = logits.exp_().sum(1, keepdim=True)
            losses.append(total.log().squeeze(1) - aimed)
            if ctx.needs_input_grad[0]:
                logits /= total
                logits[at] -= 1
                gradients.append((logits.to(head.dtype) @ head).float())
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx, g: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * g[:, None], None, None


# ── between the products ────────────────────────────────────────────────────────────────────────────────────────────


class _Between(NamedTuple):
    """What a CPU spends on memory, not on arithmetic: one pass each when compiled."""

    norm: Callable[[Tensor, Tensor, float], Tensor]
    gated: Callable[[Tensor], Tensor]
    turned: Callable[[Tensor, Tensor, Tensor], Tensor]
    rounded: Callable[[Tensor], tuple[Tensor, Tensor]]
    rounded_scaled: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    scaled: Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _between(fused: bool) -> _Between:
    plain = (_norm, _gated, _turned, _rounded, _rounded_scaled, _scaled)
    return _Between(*(torch.compile(part, dynamic=True) if fused else part for part in plain))


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=1)
    return F.silu(gate) * up


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021): the first half of each head turned with the second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row in 8 bits, and its scale."""
    scale = x.abs().amax(dim=1, keepdim=True).div(127).clamp(min=1e-30)
    return (x / scale).round().to(torch.int8), scale


def _rounded_scaled(x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return _rounded(x * columns)


def _scaled(x: Tensor, rows: Tensor, columns: Tensor | None) -> Tensor:
    return x.float() * rows if columns is None else x.float() * rows * columns
