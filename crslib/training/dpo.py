"""Direct preference optimisation: of two continuations of a prompt the better one gains on the other.

Rafailov et al. 2023, eq. 7: −log σ(β·(Δchosen − Δrejected)) with Δ = log π(y|x) − log π_ref(y|x). The reference is the
model as it is when the objective is made: the adapter of SFT.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from crslib.errors import CrsError
from crslib.identity import digest
from crslib.training.fit import batches
from crslib.training.model import LoraLlama, Sequences
from crslib.training.sft import lists


class Preferences:
    """The objective of DPO over a frame with columns `prompt`, `chosen`, `rejected`, all List(Int32).

    Ids of the continuations include the token that ends them. `beta`: how strongly the reference holds. `sft`: weight
    of the chosen continuation's cross-entropy per token, which keeps its likelihood from falling with the rejected
    one's (RPO: Pang et al. 2024; 0 is plain DPO). A pair counts 1. Raises `CrsError` for an empty text or one longer
    than the model can read.
    """

    def __init__(
        self,
        pairs: pl.DataFrame,
        model: LoraLlama,
        device: torch.device,
        *,
        beta: float = 0.1,
        sft: float = 0.0,
        batch_tokens: int = 2048,
    ) -> None:
        self._beta, self._sft, self._device = beta, sft, device
        prompts, *continuations = (lists(pairs, name) for name in ("prompt", "chosen", "rejected"))
        self._tokens, self._n = [], []
        for prompt, *both in zip(prompts, *continuations, strict=True):
            whole = [np.concatenate([prompt, continuation]) for continuation in both]
            if not len(prompt) or not all(map(len, both)) or max(map(len, whole)) > model.shape.n_ctx:
                raise CrsError(f"a pair has an empty text or one of over {model.shape.n_ctx} tokens; leave it out")
            self._tokens.append(whole)
            self._n.append([len(continuation) for continuation in both])
        self.lengths = np.array([sum(map(len, whole)) for whole in self._tokens], dtype=np.int64)
        self.weights = np.ones(len(pairs), dtype=np.int64)
        ids = [[tokens.tolist() for tokens in whole] for whole in self._tokens]
        self.identity = digest([ids, self._n, beta, sft], "pairs")
        self._reference = np.zeros((len(pairs), 2), dtype=np.float32)
        with torch.no_grad():
            for rows in batches(np.arange(len(pairs)), self.lengths, batch_tokens):
                self._reference[rows] = self.log_probabilities(model, rows).cpu().numpy()

    def log_probabilities(self, model: LoraLlama, rows: Sequence[int]) -> Tensor:
        """log π(chosen | prompt) and log π(rejected | prompt) of pairs `rows`, (n, 2), in nats."""
        sequences = [tokens for row in rows for tokens in self._tokens[row]]
        counts = [n for row in rows for n in self._n[row]]
        ends = np.cumsum([len(sequence) for sequence in sequences])
        at = np.concatenate([np.arange(end - n, end) - 1 for end, n in zip(ends, counts, strict=True)])
        batch = Sequences(sequences, self._device)
        index = torch.from_numpy(at).to(self._device)
        losses = model.token_losses(batch, index, batch.tokens[index + 1])
        owner = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(self._device)
        return -losses.new_zeros(len(counts)).index_add(0, owner, losses).view(-1, 2)

    def sums(self, model: LoraLlama, rows: Sequence[int]) -> dict[str, Tensor]:
        """Over pairs: `loss`, `accuracy` (the chosen one has the larger implicit reward), `margin` (of the rewards)."""
        found = self.log_probabilities(model, rows)
        reference = torch.from_numpy(self._reference[rows]).to(self._device)
        rewards = self._beta * (found - reference)
        margin = rewards[:, 0] - rewards[:, 1]
        loss = -F.logsigmoid(margin)
        if self._sft:
            lengths = torch.tensor([self._n[row][0] for row in rows], device=self._device)
            loss = loss - self._sft * found[:, 0] / lengths
        return {"loss": loss.sum(), "accuracy": (margin > 0).float().sum(), "margin": margin.detach().sum()}
