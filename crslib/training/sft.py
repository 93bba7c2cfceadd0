"""Supervised fine-tuning: the cross-entropy of a role's own tokens, given all that it had read before them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from crslib.errors import CrsError
from crslib.identity import digest
from crslib.training.model import LoraLlama, Sequences


class OwnWords:
    """The objective of SFT over a frame with columns `tokens` List(Int32) and `target` List(Boolean).

    Every target counts the same, whichever example it is in. An example whose first token is a target loses that one:
    nothing precedes it. Raises `CrsError` when the lists of a row differ in length or are longer than `n_ctx`.
    """

    def __init__(self, examples: pl.DataFrame, device: torch.device, n_ctx: int) -> None:
        self._tokens, targets = lists(examples, "tokens"), lists(examples, "target")
        for tokens, target in zip(self._tokens, targets, strict=True):
            if not len(tokens) == len(target) <= n_ctx:
                raise CrsError(
                    f"an example has {len(tokens)} tokens and {len(target)} marks, at most {n_ctx} are possible; "
                    f"make the examples with max_tokens={n_ctx}"
                )
        self._at = [np.flatnonzero(target[1:]) for target in targets]
        self._device = device
        self.lengths = np.array([len(tokens) for tokens in self._tokens], dtype=np.int64)
        self.weights = np.array([len(at) for at in self._at], dtype=np.int64)
        self.identity = digest([[t.tolist() for t in self._tokens], [a.tolist() for a in self._at]], "examples")

    def losses(self, model: LoraLlama, rows: Sequence[int]) -> Tensor:
        """Nats of every target of examples `rows`, one after the other."""
        batch = Sequences([self._tokens[row] for row in rows], self._device)
        starts = np.cumsum([0, *self.lengths[rows][:-1]])
        at = np.concatenate([self._at[row] + start for row, start in zip(rows, starts, strict=True)])
        index = torch.from_numpy(at).to(self._device)
        return model.token_losses(batch, index, batch.tokens[index + 1])

    def sums(self, model: LoraLlama, rows: Sequence[int]) -> dict[str, Tensor]:
        """`loss`: nats, summed over targets."""
        return {"loss": self.losses(model, rows).sum()}


def lists(frame: pl.DataFrame, column: str) -> list[np.ndarray]:
    """A list column as one array per row."""
    return [values.to_numpy() for values in frame[column]]
