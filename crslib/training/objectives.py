"""The two losses: supervised fine-tuning (SFT) on a role's own tokens, and preference optimisation (DPO) on pairs.

Knows token ids only: no dialogues, no rules, and not where examples and pairs come from.
"""

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from crslib.errors import CrsError
from crslib.identity import digest
from crslib.training.fit import Rows, batches
from crslib.training.model import LoraLlama, Sequences


class SFTObjective:
    """Cross-entropy of a role's own tokens over a frame with columns `tokens` List(Int32) and `target` List(Boolean).

    Every target token has the same weight. A target without a preceding token, the first of an example, is dropped.
    Raises `CrsError` when the lists of a row differ in length or are longer than `n_ctx`.
    """

    def __init__(self, examples: pl.DataFrame, device: torch.device, n_ctx: int) -> None:
        self._tokens, targets = _arrays(examples, "tokens"), _arrays(examples, "target")
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

    def losses(self, model: LoraLlama, rows: Rows) -> Tensor:
        """Nats of every target of examples `rows`, (n,), in order."""
        batch = Sequences([self._tokens[row] for row in rows], self._device)
        starts = np.cumsum([0, *self.lengths[rows][:-1]])
        at = np.concatenate([self._at[row] + start for row, start in zip(rows, starts, strict=True)])
        index = torch.from_numpy(at).to(self._device)
        return model.token_losses(batch, index, batch.tokens[index + 1])

    def sums(self, model: LoraLlama, rows: Rows) -> dict[str, Tensor]:
        """`loss`: nats, summed over targets."""
        return {"loss": self.losses(model, rows).sum()}


class DPOObjective:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7) over a frame with columns `prompt`, `chosen` and
    `rejected`, all List(Int32), and `chosen_target` and `rejected_target`, List(Boolean).

    The reference is `model` as it is when the objective is created. Ids of the continuations include the token that
    ends them. Only tokens that are targets count; the others are read as context. `beta`: strength of the pull towards
    the reference. `sft`: weight of the chosen continuation's cross-entropy per target, which keeps its likelihood from
    falling with the rejected one's (RPO: Pang et al. 2024; 0 is plain DPO). Every pair has weight 1. Raises `CrsError`
    for a text that is empty or has no target, and for one longer than the model's context.
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
        self._tokens, self._at = [], []
        prompts, *sides = (_arrays(pairs, name) for name in ("prompt", "chosen", "rejected"))
        targets = [_arrays(pairs, f"{side}_target") for side in ("chosen", "rejected")]
        for prompt, *row in zip(prompts, *sides, *targets, strict=True):
            continuations, marks = row[:2], row[2:]
            whole = [np.concatenate([prompt, continuation]) for continuation in continuations]
            if not len(prompt) or not all(mark.any() for mark in marks) or max(map(len, whole)) > model.shape.n_ctx:
                raise CrsError(f"a pair has an empty text or one of over {model.shape.n_ctx} tokens; leave it out")
            self._tokens.append(whole)
            self._at.append([len(prompt) - 1 + np.flatnonzero(mark) for mark in marks])
        self.lengths = np.array([sum(map(len, whole)) for whole in self._tokens], dtype=np.int64)
        self.weights = np.ones(len(pairs), dtype=np.int64)
        ids = [[tokens.tolist() for tokens in whole] for whole in self._tokens]
        self.identity = digest([ids, [[at.tolist() for at in both] for both in self._at], beta, sft], "pairs")
        self._reference = np.zeros((len(pairs), 2), dtype=np.float32)
        with torch.no_grad():
            for rows in batches(np.arange(len(pairs)), self.lengths, batch_tokens):
                self._reference[rows] = self.log_probabilities(model, rows).cpu().numpy()

    def log_probabilities(self, model: LoraLlama, rows: Rows) -> Tensor:
        """log π of the targets of chosen and rejected continuations of pairs `rows`, (n, 2), in nats."""
        sequences = [tokens for row in rows for tokens in self._tokens[row]]
        places = [at for row in rows for at in self._at[row]]
        starts = np.cumsum([0, *(len(sequence) for sequence in sequences[:-1])])
        batch = Sequences(sequences, self._device)
        at = np.concatenate([own + start for own, start in zip(places, starts, strict=True)])
        index = torch.from_numpy(at).to(self._device)
        losses = model.token_losses(batch, index, batch.tokens[index + 1])
        owner = torch.from_numpy(np.repeat(np.arange(len(places)), [len(own) for own in places])).to(self._device)
        return -losses.new_zeros(len(places)).index_add(0, owner, losses).view(-1, 2)

    def sums(self, model: LoraLlama, rows: Rows) -> dict[str, Tensor]:
        """Over pairs: `loss`, `accuracy` (the chosen one has the larger implicit reward), `margin` (of the rewards)."""
        log_probabilities = self.log_probabilities(model, rows)
        reference = torch.from_numpy(self._reference[rows]).to(self._device)
        rewards = self._beta * (log_probabilities - reference)
        margin = rewards[:, 0] - rewards[:, 1]
        loss = -F.logsigmoid(margin)
        if self._sft:
            lengths = torch.tensor([len(self._at[row][0]) for row in rows], device=self._device)
            loss = loss - self._sft * log_probabilities[:, 0] / lengths
        return {"loss": loss.sum(), "accuracy": (margin > 0).float().sum(), "margin": margin.detach().sum()}


def _arrays(frame: pl.DataFrame, column: str) -> list[np.ndarray]:
    """A list column as one array per row."""
    return [values.to_numpy() for values in frame[column]]
