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

    All of A and B are one parameter, `learnt`, float32: to round, clip and step it takes one operation, not hundreds,
    for which a GPU would wait.
    """

    def __init__(
        self, base: Base, *, rank: int, alpha: float, seed: int, precision: Precision, fused: bool = False
    ) -> None:
        """`fused`: compile what lies between the products (needs a C++ compiler, or a GPU; half a minute once)."""
        super().__init__()
        self.shape, self.rank, self.alpha, self.precision = base.shape, rank, alpha, precision
        self._between = _between(fused)
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.register_buffer("embedding", torch.from_numpy(base.weight("model.embed_tokens.weight")).to(kind))
        head = self.embedding if base.shape.tied else torch.from_numpy(base.weight("lm_head.weight")).to(kind)
        self.register_buffer("head", head)
        self.register_buffer("norm", torch.from_numpy(base.weight("model.norm.weight")))
        angles = np.outer(np.arange(base.shape.n_ctx), base.shape.rope)
        self.register_buffer("angles", torch.from_numpy(angles.astype(np.float32)))
        making = _Making(precision, self._between)
        self.blocks = nn.ModuleList(_Block(base, layer, making) for layer in range(base.shape.n_layers))
        random = torch.Generator().manual_seed(derive_seed(seed, "lora"))
        halves, scales = [], []
        for projection in (projection for block in self.blocks for projection in block.projections()):
            bound = projection.n_in**-0.5
            a = torch.empty(len(projection.names) * rank, projection.n_in).uniform_(-bound, bound, generator=random)
            b = torch.zeros(sum(projection.outs), rank)
            halves += [a, b]
            scales += [torch.ones_like(a), torch.full_like(b, alpha / rank)]
        self._shapes = [half.shape for half in halves]
        self.learnt = nn.Parameter(torch.cat([half.flatten() for half in halves]))
        self.register_buffer("scales", torch.cat([scale.flatten() for scale in scales]))

    def forward(self, batch: Sequences) -> Tensor:
        """Hidden states after the last norm, (T, hidden)."""
        angles = self.angles[batch.positions][:, None]
        turn = angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)
        x = self.embedding[batch.tokens].float()
        scaled = (self.learnt * self.scales).to(self.embedding.dtype)
        for block, adapters in zip(self.blocks, self._adapters(scaled), strict=True):
            x = block(x, turn, batch, adapters)
        return self._between.norm(x, self.norm, self.shape.eps)

    def token_losses(self, batch: Sequences, at: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (nats, float32) of each of `targets` (n,) as the token that follows position `at` (n,)."""
        return _CrossEntropy.apply(self.forward(batch).index_select(0, at), self.head, targets)

    def adapter(self, of: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """A (rank, in) and B (out, rank) of every linear layer by its `transformers` name: views of what is learnt, or
        `of` a tensor that lies like it (its gradient)."""
        return {
            f"model.layers.{layer}.{name}": (one_a, one_b)
            for layer, adapters in enumerate(self._adapters(self.learnt if of is None else of))
            for projection, (a, b) in zip(self.blocks[layer].projections(), adapters, strict=True)
            for name, one_a, one_b in zip(projection.names, a.split(self.rank), b.split(projection.outs), strict=True)
        }

    @torch.no_grad()
    def load(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Sets A and B of every layer."""
        for name, (a, b) in self.adapter().items():
            a.copy_(torch.from_numpy(pairs[name][0]))
            b.copy_(torch.from_numpy(pairs[name][1]))

    def _adapters(self, flat: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        """Of each block each projection's A and B, one below the other, as they lie in `flat`."""
        parts = flat.split([shape.numel() for shape in self._shapes])
        halves = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = list(zip(halves[::2], halves[1::2], strict=True))
        each = len(pairs) // len(self.blocks)
        return [pairs[at : at + each] for at in range(0, len(pairs), each)]


@dataclass(frozen=True)
class _Making:
    """How the layers of a model are made."""

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

    def projections(self) -> tuple["_Projection", ...]:
        """In the order in which `forward` takes their adapters."""
        return self.qkv, self.o, self.gate_up, self.down

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], batch: Sequences, adapters: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        norm, eps = self._between.norm, self.shape.eps
        qkv, o, gate_up, down = adapters
        x = x + self.o(self._attention(self.qkv(norm(x, self.before_attention, eps), qkv), turn, batch), o)
        return x + self.down(self._between.gated(self.gate_up(norm(x, self.before_ffn, eps), gate_up)), down)

    def _attention(self, qkv: Tensor, turn: tuple[Tensor, Tensor], batch: Sequences) -> Tensor:
        s = self.shape
        heads = qkv.view(len(qkv), s.n_heads + 2 * s.n_kv_heads, s.head_dim)
        qk, v = heads.split([s.n_heads + s.n_kv_heads, s.n_kv_heads], 1)
        # (n_rows, heads, longest, head_dim)
        qk, v = batch.rows(self._between.turned(qk, *turn)).transpose(1, 2), batch.rows(v).transpose(1, 2)
        q, k = qk.split([s.n_heads, s.n_kv_heads], 1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return batch.flat(out.transpose(1, 2).flatten(2))


class _Projection(nn.Module):
    """Frozen matrices of the same input, one below the other, each with LoRA of its own."""

    def __init__(self, weights: Mapping[str, np.ndarray], making: _Making) -> None:
        super().__init__()
        self.names = tuple(weights)
        self.outs = [len(weight) for weight in weights.values()]
        frozen = torch.from_numpy(np.concatenate(list(weights.values())))
        self.n_in = frozen.shape[1]
        rounded = making.precision == "int8"
        self.frozen = _Rounded(frozen, making.between) if rounded else _Exact(frozen, making.precision)

    def forward(self, x: Tensor, adapter: tuple[Tensor, Tensor]) -> Tensor:
        """`adapter`: A (matrices · rank, in) and B (out, rank), scaled, each one below the other."""
        return _Adapted.apply(x.to(self.frozen.kind), *adapter, self.frozen, self.outs)


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
    """y = W x + B A x for matrices one below the other; gradients for x, A and B, none for W."""

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor, frozen, outs: list[int]) -> Tensor:
        low = x @ a.T
        y = frozen.product(x)
        for part, part_low, part_b in zip(y.split(outs, 1), low.split(b.shape[1], 1), b.split(outs), strict=True):
            part.addmm_(part_low, part_b.T)
        ctx.save_for_backward(x, low, a, b)
        ctx.rest = frozen, outs
        return y

    @staticmethod
    def backward(ctx, g: Tensor):
        x, low, a, b = ctx.saved_tensors
        frozen, outs = ctx.rest
        g_low, g_b, rank = torch.empty_like(low), torch.empty_like(b), b.shape[1]
        for part, part_b, to in zip(g.split(outs, 1), b.split(outs), g_low.split(rank, 1), strict=True):
            torch.mm(part, part_b, out=to)
        for part, part_low, to in zip(g.split(outs, 1), low.split(rank, 1), g_b.split(outs), strict=True):
            torch.mm(part.T, part_low, out=to)
        g_x = frozen.back(g).addmm_(g_low, a) if ctx.needs_input_grad[0] else None
        return g_x, g_low.T @ x, g_b, None, None


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
