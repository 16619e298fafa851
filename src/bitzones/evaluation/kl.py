"""KL(reference || changed) between the next-token distributions of two models, or of one model before and after a change, in nats."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bitzones.backends.unpacked import unpacked_once
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.devices import device as devices
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.quality_cells import DivergenceCell

__all__ = ["as_log_probabilities", "check_finite", "divergence_cell", "kl_nats", "log_probabilities", "logits_of", "token_nats", "whole"]


def kl_nats(reference: torch.Tensor, changed: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL(reference || changed) summed over the scored tokens of each sequence, in nats.

    Args:
        reference: log-probabilities, shape (sequences, length, vocabulary).
        changed: logits or log-probabilities, same shape.
        mask: 1 where a token is scored, shape (sequences, length).

    Returns:
        float64 of shape (sequences,): sum over tokens of sum_v p(v) (ln p(v) - ln q(v)), Kullback and Leibler 1951.
    """
    scored = mask.bool().flatten()
    log_p, log_q = reference.flatten(0, 1), changed.flatten(0, 1)
    per_token = torch.zeros(len(scored), dtype=torch.float64, device=changed.device)
    rows = max(1, devices.cache_elements(changed.device) // changed.shape[-1])
    for start in range(0, len(scored), rows):  # a step's intermediate results stay in the cache: four times as fast on a CPU
        here = slice(start, start + rows)
        if scored[here].any():
            p = log_p[here]
            per_token[here] = (p.exp() * (p - log_q[here].float().log_softmax(-1))).sum(-1).double()
    summed: torch.Tensor = torch.where(scored, per_token, 0.0).unflatten(0, mask.shape).sum(-1)
    return summed.clamp_min(0.0)  # equal distributions give a few -1e-7 by rounding


def token_nats(reference: torch.Tensor, changed: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """KL(reference || changed) of some tokens, in nats.

    Args:
        reference: log-probabilities of all tokens, shape (tokens, vocabulary).
        changed: logits or log-probabilities of those at ``places``, shape (places, vocabulary).
        places: of the tokens in ``reference``.

    Returns:
        float64 of shape (places,).
    """
    rows = max(1, devices.cache_elements(changed.device) // changed.shape[-1])
    found = [
        (p.exp() * (p - log_q.float().log_softmax(-1))).sum(-1).double()
        for p, log_q in ((reference[here], log_q) for here, log_q in zip(places.split(rows), changed.split(rows), strict=True))
    ]
    return torch.cat(found)


def logits_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of one pass, shape (sequences, length, vocabulary)."""
    logits: torch.Tensor = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    return logits


def log_probabilities(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Log-probabilities of the reference, float32, shape as `logits_of`.

    Raises:
        NonFiniteError: a logit of a scored token is NaN or infinite.
    """
    return as_log_probabilities(logits_of(model, batch), batch)


def as_log_probabilities(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Log-probabilities from logits of the reference, float32, same shape.

    Raises:
        NonFiniteError: a logit of a scored token is NaN or infinite.
    """
    check_finite(logits, batch.mask)
    log_p: torch.Tensor = logits.float().log_softmax(-1)
    return log_p


def check_finite(logits: torch.Tensor, mask: torch.Tensor) -> None:
    """Check that the reference's logits of scored tokens (``mask``) are finite.

    Raises:
        NonFiniteError: one is NaN or infinite.
    """
    if not torch.isfinite(logits[mask.bool()]).all():
        raise NonFiniteError("the reference's own logits are NaN or infinite: nothing can be compared with it")


@torch.no_grad()
def whole(reference: torch.nn.Module, changed: torch.nn.Module, batches: Iterable[Batch], sequences: int) -> list[float]:
    """KL(reference || changed) of two whole models, per sequence in nats summed over its tokens, in the set's order.

    Raises:
        NonFiniteError: logits of one of them are NaN or infinite.
    """
    results = [0.0] * sequences
    with unpacked_once(changed):
        for batch in batches:
            values = kl_nats(log_probabilities(reference, batch), logits_of(changed, batch), batch.mask)
            if not torch.isfinite(values).all():
                raise NonFiniteError("the quantized model's logits are NaN or infinite")
            for index, value in zip(batch.index, values.tolist(), strict=True):
                results[index] = value
    return results


def divergence_cell(
    variant: str, reference: torch.nn.Module, changed: torch.nn.Module, sequence_set: SequenceSet, batches: Iterable[Batch]
) -> DivergenceCell:
    """The record of `whole` on a sensitivity set."""
    return DivergenceCell(
        variant=variant,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        kl_nats=tuple(whole(reference, changed, batches, len(sequence_set.sequences))),
    )
