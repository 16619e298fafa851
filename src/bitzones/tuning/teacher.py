"""The reference's next-token distributions on the sequences of a tuning: its likeliest tokens and the mass of all others.

A whole distribution takes a float for each token of the vocabulary, 200 kB for SmolLM2's; the 256 likeliest and one number for the tail
take 2 kB. KL between two such coarsened distributions is a lower bound of the whole KL (data processing inequality), and its gradient in
the tail only asks for the tail's mass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from bitzones.data.sequences import Batch
from bitzones.evaluation import kl

__all__ = ["CACHE_BYTES", "Teacher", "Top", "top_kl"]

CACHE_BYTES = 1 << 30
"""Most that cached distributions may take: 500,000 tokens at the default K. Beyond it each pass of the reference is run again, which costs
a quarter of a step's time and no memory."""

ENTRY_BYTES = 8
"""Of a token's number and its log-probability."""

LEAST_MASS = 1e-6
"""Below which the mass of a tail is taken for this: float32 sums of a distribution are off by about as much."""


@dataclass(frozen=True)
class Top:
    """The K likeliest tokens of each position and their log-probabilities, shape (..., K)."""

    tokens: torch.Tensor
    log_p: torch.Tensor


def top_kl(top: Top, logits: torch.Tensor) -> torch.Tensor:
    """KL(reference || student) of every position in nats, over the K likeliest tokens of the reference and the tail as one outcome.

    Args:
        top: of the reference, shape (..., K).
        logits: of the student, shape (..., vocabulary).

    Returns:
        float32 of the positions' shape.
    """
    log_q = logits.float().log_softmax(-1).gather(-1, top.tokens)
    p = top.log_p.exp()
    p_tail = (1 - p.sum(-1)).clamp_min(LEAST_MASS)
    q_tail = (1 - log_q.exp().sum(-1)).clamp_min(LEAST_MASS)
    likeliest: torch.Tensor = (p * (top.log_p - log_q)).sum(-1)
    return likeliest + p_tail * (p_tail.log() - q_tail.log())


class Teacher:
    """Tells what the reference predicts; what it told is kept where memory is enough for all of it.

    Args:
        model: the reference, in its compute dtype.
        tokens: of all sequences that will be asked for.
        k: likeliest tokens that are told apart.
    """

    def __init__(self, model: PreTrainedModel, tokens: int, k: int) -> None:
        self._model, self._k = model, k
        self.cached = tokens * k * ENTRY_BYTES <= CACHE_BYTES
        self._kept: dict[tuple[int, ...], Top] = {}

    @torch.no_grad()
    def top(self, batch: Batch) -> Top:
        """What the reference predicts at every position of a batch, padding included, shape (sequences, length, K)."""
        if all(sequence.ids in self._kept for sequence in batch.sequences):
            return self._recalled(batch)
        log_p = kl.log_probabilities(self._model, batch)
        values, tokens = log_p.topk(min(self._k, log_p.shape[-1]), dim=-1)
        if self.cached:
            for row, sequence in enumerate(batch.sequences):
                own = slice(len(sequence.ids))
                self._kept[sequence.ids] = Top(tokens[row, own].to("cpu", torch.int32), values[row, own].cpu())
        return Top(tokens, values)

    def _recalled(self, batch: Batch) -> Top:
        kept: Sequence[Top] = [self._kept[sequence.ids] for sequence in batch.sequences]
        device = batch.ids.device
        tokens = torch.nn.utils.rnn.pad_sequence([item.tokens for item in kept], batch_first=True)
        log_p = torch.nn.utils.rnn.pad_sequence([item.log_p for item in kept], batch_first=True)
        return Top(tokens.to(device, torch.int64), log_p.to(device))
