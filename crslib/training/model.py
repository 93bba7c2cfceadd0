"""A llama with a frozen base and LoRA on every linear layer, written for training speed.

Sequences are concatenated without padding; only attention separates them again. Projections of the same input are one
product. With `int8` the frozen matrices and their inputs are rounded to 8 bits row by row, forward and backward, and
the adapter stays exact (SwitchBack, Wortsman et al. 2023). llama.cpp, too, rounds the inputs of the 4-bit base to 8
bits.

Knows tokens and weights; nothing of dialogues or files.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crslib.identity import derive_seed
from crslib.training.base import Base, Shape

Precision = Literal["float32", "bfloat16", "int8"]
_CHUNK = 512  # rows of logits at a time: 100 MB with a vocabulary of 49k
_SHORT = 1024  # tokens of a row up to which products of whole matrices are the faster attention, for all their zeros


class Sequences:
    """Concatenated token sequences: one batch of the model.

    `tokens`, `positions`: (T,), int64. `places` (T,): the index of each token in a flattened (n_rows, longest) array.
    """

    def __init__(self, sequences: Sequence[np.ndarray], device: torch.device) -> None:
        lengths = [len(sequence) for sequence in sequences]
        self.n_rows, self.longest = len(lengths), max(lengths)
        positions = [np.arange(length) for length in lengths]
        places = [row * self.longest + at for row, at in enumerate(positions)]
        self.tokens = _to_device(np.concatenate(sequences).astype(np.int64), device)
        self.positions = _to_device(np.concatenate(positions), device)
        self.places = _to_device(np.concatenate(places), device)

    def rows(self, x: Tensor) -> Tensor:
        """(T, …) as (n_rows, longest, …), padded with zeros."""
        return _Scatter.apply(x, self.places, self.n_rows * self.longest).view(self.n_rows, self.longest, *x.shape[1:])

    def flat(self, x: Tensor) -> Tensor:
        """The inverse of `rows`."""
        return _Gather.apply(x.reshape(self.n_rows * self.longest, *x.shape[2:]), self.places)


class _Scatter(torch.autograd.Function):
    """Copies rows to `places` of a larger tensor of zeros. Nothing is summed, so the result is deterministic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(places)
        return x.new_zeros(n, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return g.index_select(0, *ctx.saved_tensors), None, None


class _Gather(torch.autograd.Function):
    """The inverse of `_Scatter`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        return g.new_zeros(ctx.shape).index_copy_(0, places, g), None


def _to_device(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


class LoraLlama(nn.Module):
    """The base with LoRA of rank `rank` on every linear layer of every block: W' = W + (alpha / rank) · B · A.

    A is drawn as in PEFT (uniform, Kaiming with a = √5) and B is zero, so a new adapter changes nothing.

    All of A and B are one parameter, `lora`, float32, so that casting, clipping and stepping it is one operation each.
    Hundreds of small operations would leave a GPU idle.
    """

    embedding: Tensor
    head: Tensor
    norm: Tensor
    angles: Tensor
    scales: Tensor

    def __init__(self, base: Base, *, rank: int, alpha: float, seed: int, precision: Precision) -> None:
        super().__init__()
        self.shape, self.rank, self.alpha, self.precision = base.shape, rank, alpha, precision
        kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.register_buffer("embedding", torch.from_numpy(base.weight("model.embed_tokens.weight")).to(kind))
        head = self.embedding if base.shape.tied else torch.from_numpy(base.weight("lm_head.weight")).to(kind)
        self.register_buffer("head", head)
        self.register_buffer("norm", torch.from_numpy(base.weight("model.norm.weight")))
        angles = np.outer(np.arange(base.shape.n_ctx), base.shape.rope)
        self.register_buffer("angles", torch.from_numpy(angles.astype(np.float32)))
        blocks = [_Block(base, layer, precision) for layer in range(base.shape.n_layers)]
        self.blocks, self._projections = nn.ModuleList(blocks), [block.projections() for block in blocks]
        random = torch.Generator().manual_seed(derive_seed(seed, "lora"))
        halves, scales = [], []
        for projection in (projection for projections in self._projections for projection in projections):
            bound = projection.n_in**-0.5
            a = torch.empty(len(projection.names) * rank, projection.n_in).uniform_(-bound, bound, generator=random)
            b = torch.zeros(sum(projection.outs), rank)
            halves += [a, b]
            scales += [torch.ones_like(a), torch.full_like(b, alpha / rank)]
        self._shapes = [half.shape for half in halves]
        self.lora = nn.Parameter(torch.cat([half.flatten() for half in halves]))
        self.register_buffer("scales", torch.cat([scale.flatten() for scale in scales]))

    def forward(self, batch: Sequences) -> Tensor:
        """Hidden states after the last norm, (T, hidden)."""
        angles = self.angles[batch.positions][:, None]
        rotation = angles.cos().to(self.embedding.dtype), angles.sin().to(self.embedding.dtype)
        x = self.embedding[batch.tokens].float()
        scaled = (self.lora * self.scales).to(self.embedding.dtype)
        for block, adapters in zip(self.blocks, self._adapters(scaled), strict=True):
            x = block(x, rotation, batch, adapters)
        return _rms_norm(x, self.norm, self.shape.eps)

    def token_losses(self, batch: Sequences, at: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (nats, float32) of each of `targets` (n,) as the token that follows position `at` (n,)."""
        return _CrossEntropy.apply(self.forward(batch).index_select(0, at), self.head, targets)

    def adapter(self, flat: Tensor | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """A (rank, in) and B (out, rank) of every linear layer by its `transformers` name, as views of `lora`, or of
        another tensor `flat` of the same layout (the gradient)."""
        return {
            f"model.layers.{layer}.{name}": (one_a, one_b)
            for layer, adapters in enumerate(self._adapters(self.lora if flat is None else flat))
            for projection, (a, b) in zip(self._projections[layer], adapters, strict=True)
            for name, one_a, one_b in zip(projection.names, a.split(self.rank), b.split(projection.outs), strict=True)
        }

    @torch.no_grad()
    def load(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Copies A and B of every layer into `lora`."""
        for name, (a, b) in self.adapter().items():
            a.copy_(torch.from_numpy(pairs[name][0]))
            b.copy_(torch.from_numpy(pairs[name][1]))

    def _adapters(self, flat: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
        """A and B, stacked, of each projection of each block: views of `flat`."""
        parts = flat.split([shape.numel() for shape in self._shapes])
        halves = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        pairs = list(zip(halves[::2], halves[1::2], strict=True))
        each = len(pairs) // len(self.blocks)
        return [pairs[at : at + each] for at in range(0, len(pairs), each)]


class _Block(nn.Module):
    """A transformer block: attention and feed-forward network, each with a norm before it."""

    before_attention: Tensor
    before_ffn: Tensor

    def __init__(self, base: Base, layer: int, precision: Precision) -> None:
        super().__init__()
        prefix = f"model.layers.{layer}."
        self.shape: Shape = base.shape

        def projection(*names: str) -> _Projection:
            weights = {name: base.weight(f"{prefix}{name}.weight") for name in names}
            return _Projection(weights, precision)

        self.qkv = projection("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        self.o = projection("self_attn.o_proj")
        self.gate_up = projection("mlp.gate_proj", "mlp.up_proj")
        self.down = projection("mlp.down_proj")
        for name, norm in (("before_attention", "input_layernorm"), ("before_ffn", "post_attention_layernorm")):
            self.register_buffer(name, torch.from_numpy(base.weight(f"{prefix}{norm}.weight")))

    def projections(self) -> tuple["_Projection", ...]:
        """The projections in the order of the adapters that `forward` takes."""
        return self.qkv, self.o, self.gate_up, self.down

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], batch: Sequences, adapters: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        eps = self.shape.eps
        qkv, o, gate_up, down = adapters
        x = x + self.o(self._attention(self.qkv(_rms_norm(x, self.before_attention, eps), qkv), rotation, batch), o)
        return x + self.down(_swiglu(self.gate_up(_rms_norm(x, self.before_ffn, eps), gate_up)), down)

    def _attention(self, qkv: Tensor, rotation: tuple[Tensor, Tensor], batch: Sequences) -> Tensor:
        s = self.shape
        heads = qkv.view(len(qkv), s.n_heads + 2 * s.n_kv_heads, s.head_dim)
        qk, v = heads.split([s.n_heads + s.n_kv_heads, s.n_kv_heads], 1)
        # (n_rows, heads, longest, head_dim)
        qk, v = batch.rows(_rotated(qk, *rotation)).transpose(1, 2), batch.rows(v).transpose(1, 2)
        q, k = qk.split([s.n_heads, s.n_kv_heads], 1)
        if q.dtype == torch.bfloat16 and q.device.type == "cpu" and batch.longest <= _SHORT:
            out = _Attention.apply(q, k, v)  # Torch's own takes two to four times as long for it
        else:
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return batch.flat(out.transpose(1, 2).flatten(2))


class _Attention(torch.autograd.Function):
    """Causal attention of q (rows, heads, longest, head_dim) to the fewer heads of k and v (grouped queries, Ainslie et
    al. 2023)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, heads, longest, head_dim = q.shape
        shared = k.shape[1]  # the queries of one group, one under the other, are one product
        q3 = q.reshape(rows * shared, -1, head_dim)
        k3, v3 = k.reshape(-1, longest, head_dim), v.reshape(-1, longest, head_dim)
        later = q.new_full((longest, longest), float("-inf")).triu(1).repeat(heads // shared, 1)
        ctx.scale = head_dim**-0.5
        weights = torch.baddbmm(later, q3, k3.transpose(1, 2), alpha=ctx.scale).softmax(-1)
        ctx.save_for_backward(q3, k3, v3, weights)
        return torch.bmm(weights, v3).view(q.shape)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, ...]:
        q, k, v, weights = ctx.saved_tensors
        shape, of_shared = g.shape, (g.shape[0], -1, *g.shape[2:])
        g = g.reshape(q.shape)
        g_scores = torch._softmax_backward_data(torch.bmm(g, v.transpose(1, 2)), weights, -1, weights.dtype)
        g_q = torch.bmm(g_scores, k).mul_(ctx.scale).view(shape)
        g_k = torch.bmm(g_scores.transpose(1, 2), q).mul_(ctx.scale).view(of_shared)
        return g_q, g_k, torch.bmm(weights.transpose(1, 2), g).view(of_shared)


class _Projection(nn.Module):
    """Frozen matrices with the same input, stacked, each with its own LoRA."""

    def __init__(self, weights: Mapping[str, np.ndarray], precision: Precision) -> None:
        super().__init__()
        self.names = tuple(weights)
        self.outs = [len(weight) for weight in weights.values()]
        frozen = torch.from_numpy(np.concatenate(list(weights.values())))
        self.n_in = frozen.shape[1]
        self.frozen = _Int8Matrix(frozen) if precision == "int8" else _FloatMatrix(frozen, precision)

    def forward(self, x: Tensor, adapter: tuple[Tensor, Tensor]) -> Tensor:
        """`adapter`: the stacked A (matrices · rank, in) and the stacked, scaled B (out, rank)."""
        return _LoraProduct.apply(x.to(self.frozen.kind), *adapter, self.frozen, self.outs)


class _FloatMatrix(nn.Module):
    """A frozen matrix (out, in) in float32 or bfloat16."""

    weight: Tensor

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


class _Int8Matrix(nn.Module):
    """A frozen matrix (out, in) in 8 bits with a scale per row; the other factor of a product is rounded likewise."""

    kind = torch.float32
    weight: Tensor
    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        weight, scale = _rounded(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.T.contiguous())  # (1, out)

    def product(self, x: Tensor) -> Tensor:
        """x · Wᵀ"""
        rounded, scale = _rounded(x)
        return torch._int_mm(rounded, self.weight.T).float() * scale * self.scale

    def back(self, g: Tensor) -> Tensor:
        """g · W"""
        rounded, scale = _rounded(g * self.scale)
        return torch._int_mm(rounded, self.weight).float() * scale


class _LoraProduct(torch.autograd.Function):
    """y = W x + B A x for stacked matrices; gradients for x, A and B, none for W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, frozen: Any, outs: list[int]) -> Tensor:
        low = x @ a.T
        y = frozen.product(x)
        for part, part_low, part_b in zip(y.split(outs, 1), low.split(b.shape[1], 1), b.split(outs), strict=True):
            part.addmm_(part_low, part_b.T)
        ctx.save_for_backward(x, low, a, b)
        ctx.rest = frozen, outs
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
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
    """Cross-entropy per row of hidden states with a frozen output matrix, a few rows of logits at a time.

    The gradient is computed together with the loss, so that logits are neither stored nor computed twice.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        losses, gradients = [], []
        for rows, labels in zip(hidden.to(head.dtype).split(_CHUNK), targets.split(_CHUNK), strict=True):
            logits = (rows @ head.T).float()
            at = torch.arange(len(labels), device=labels.device), labels
            logits -= logits.amax(1, keepdim=True)
            of_labels = logits[at]
            total = logits.exp_().sum(1, keepdim=True)
            losses.append(total.log().squeeze(1) - of_labels)
            if ctx.needs_input_grad[0]:
                logits /= total
                logits[at] -= 1
                gradients.append((logits.to(head.dtype) @ head).float())
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * g[:, None], None, None


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root mean square normalisation (Zhang and Sennrich 2019)."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _swiglu(x: Tensor) -> Tensor:
    """Gated linear unit with SiLU (Shazeer 2020); `x` (T, 2 · ffn): gates, then inputs."""
    gate, up = x.chunk(2, dim=1)
    return F.silu(gate) * up


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021): the first half of each head rotated with the second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of `x` in 8 bits, and its scale (rows, 1)."""
    scale = x.abs().amax(dim=1, keepdim=True).div(127).clamp(min=1e-30)
    return (x / scale).round().to(torch.int8), scale
