"""A mixture of two adapters of the same base: a point on the line between what the one and the other change.

Between SFT and DPO it trades the likelihood of people's words against what the preference pairs taught (interpolation
of weights: Wortsman et al., Robust Fine-tuning of Zero-shot Models, CVPR 2022). Nothing is trained.
"""

import math
from pathlib import Path

import numpy as np

from crslib.engines import llama, weights
from crslib.errors import CrsError
from crslib.files import writing
from crslib.training import adapter, cards
from crslib.training.adapter import Adapter
from crslib.training.base import Base


def blend(one: Adapter, other: Adapter, share: float) -> tuple[Adapter, float]:
    """The adapter that changes every matrix by (1 − `share`) · Δ₁ + `share` · Δ₂, and what its rank loses of that.

    The sum has a rank of up to both ranks together; it is cut to the higher of the two by singular values, the best
    approximation of that rank (Eckart and Young 1936). The loss is the norm of what is cut off as a share of the norm
    of the sum (Frobenius, over all matrices). Raises `CrsError` for a share outside [0, 1] or adapters of different
    bases.
    """
    if not 0 <= share <= 1:
        raise CrsError(f"share = {share} is not in [0, 1]; 0 is the first adapter, 1 the second")
    rank = max(one.rank, other.rank)
    pairs, kept, lost = {}, 0.0, 0.0
    for name in one.pairs:
        if name not in other.pairs or _size(one, name) != _size(other, name):
            raise CrsError(f"the adapters are not of the same base (at {name}); blend two that were trained on one")
        scaled = [(one, 1 - share), (other, share)]
        b = np.concatenate([weight * part.alpha / part.rank * part.pairs[name][1] for part, weight in scaled], axis=1)
        a = np.concatenate([part.pairs[name][0] for part, _ in scaled])
        left, values, right = _svd(b.astype(np.float64), a.astype(np.float64))
        kept += float((values[:rank] ** 2).sum())
        lost += float((values[rank:] ** 2).sum())
        root = np.sqrt(values[:rank])
        pairs[name] = ((root[:, None] * right[:rank]).astype(np.float32), (left[:, :rank] * root).astype(np.float32))
    return Adapter(rank, float(rank), pairs), math.sqrt(lost / (kept + lost)) if kept else 0.0


def blend_files(first: Path, second: Path, share: float, to: Path, model: str = llama.BUILT_IN) -> float:
    """Writes the GGUF `to` and beside it the card `to` with suffix `.md`; returns the loss of `blend`.

    `first`, `second`: PEFT folders or LoRA GGUFs for the base `model`. Raises `CrsError` when a file cannot be read or
    written or does not fit the base.
    """
    if to.suffix != ".gguf":
        raise CrsError(f"{to} is no name of an adapter; end it with .gguf")
    base = Base(llama.model_path(model))
    domain = weights.domain_of(first) if first.is_file() else ""
    about = weights.about(domain, adapter.parts_of(first) | adapter.parts_of(second))
    mixed, loss = blend(adapter.read(first, base.shape), adapter.read(second, base.shape), share)
    adapter.write_gguf(mixed, base.shape, to, name=f"crs {to.stem}", about=about)
    with writing(to.with_suffix(".md")) as temporary:
        temporary.write_text(cards.blend_card(base, first, second, share, mixed.rank, loss, to), encoding="utf-8")
    return loss


def _size(part: Adapter, name: str) -> tuple[int, int]:
    """(rows, columns) of the matrix that is changed."""
    a, b = part.pairs[name]
    return len(b), a.shape[1]


def _svd(b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Singular vectors and values of B · A, by way of two thin factors: the product itself is never computed."""
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_b @ r_a.T)
    return q_b @ left, values, right @ q_a.T
