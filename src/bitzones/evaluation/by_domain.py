"""Perplexity of a variant on text of one kind, and how far its predictions are from the reference's there.

The conventions are those of ``llama-perplexity`` and its ``--kl-divergence``: a window of w tokens whose predictions from place c on are
scored has w - 1 - c scored tokens, the last prediction having nothing that follows it. Perplexity is exp of the mean negative
log-likelihood over all scored tokens; KL is in nats, of the whole vocabulary, in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from bitzones.backends.unpacked import unpacked_once
from bitzones.data.sequences import Batch
from bitzones.data.sets import DomainSet
from bitzones.devices import device as devices
from bitzones.evaluation import kl
from bitzones.schema.domain_cell import CHANGE_UNIT, DomainCell
from bitzones.schema.errors import NonFiniteError

__all__ = ["Predictions", "domain_cell", "predictions"]


@dataclass(frozen=True)
class Predictions:
    """Of the scored tokens of one window, each of shape (scored,), float64 on the CPU.

    ``kl`` is KL(reference || variant); ``nll`` and ``reference_nll`` are of the token that follows; ``same_top`` says whether both find the
    same token most likely; ``change`` is the probability of the token that follows, minus the reference's.
    """

    kl: torch.Tensor
    nll: torch.Tensor
    reference_nll: torch.Tensor
    same_top: torch.Tensor
    change: torch.Tensor


def predictions(reference: torch.Tensor, variant: torch.Tensor, following: torch.Tensor) -> Predictions:
    """What both models predict.

    Args:
        reference: logits, shape (scored, vocabulary).
        variant: the same.
        following: the tokens that follow, shape (scored,).
    """
    rows = max(1, devices.cache_elements(variant.device) // variant.shape[-1])
    starts = range(0, len(following), rows)  # what one step makes stays in the cache, as in `kl.kl_nats`
    pieces = [_piece(reference[n : n + rows], variant[n : n + rows], following[n : n + rows]) for n in starts]
    whole = torch.cat(pieces, dim=1).double().cpu()
    return Predictions(whole[0].clamp_min(0.0), -whole[1], -whole[2], whole[3], whole[1].exp() - whole[2].exp())


def _piece(reference: torch.Tensor, variant: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """KL, both log-likelihoods and whether the likeliest token is the same: shape (4, tokens), float32."""
    log_p, log_q = reference.float().log_softmax(-1), variant.float().log_softmax(-1)
    here = following.unsqueeze(-1)
    return torch.stack(
        (
            (log_p.exp() * (log_p - log_q)).sum(-1),
            log_q.gather(-1, here).squeeze(-1),
            log_p.gather(-1, here).squeeze(-1),
            (log_p.argmax(-1) == log_q.argmax(-1)).float(),
        )
    )


@torch.no_grad()
def domain_cell(name: str, reference: torch.nn.Module, variant: torch.nn.Module, found: DomainSet, batches: Iterable[Batch]) -> DomainCell:
    """The record of a variant on a domain; no more than a batch's logits of both models are in memory.

    Raises:
        NonFiniteError: one of the models gives NaN or infinity.
    """
    windows: dict[int, Predictions] = {}
    with unpacked_once(variant):
        for batch in batches:
            windows.update(_windows(reference, variant, batch, found.domain.first))
    made = [windows[place] for place in range(len(found.windows.sequences))]
    return DomainCell(
        variant=name,
        domain=found.domain.name,
        sequences_sha256=found.windows.sha256,
        window=found.domain.window,
        stride=found.domain.step,
        context=found.domain.first,
        joined=found.domain.is_joined,
        scored_tokens=tuple(len(item.kl) for item in made),
        nll_nats=_sums(item.nll for item in made),
        reference_nll_nats=_sums(item.reference_nll for item in made),
        nll_squares=tuple(_squares(item.nll, item.reference_nll) for item in made),
        kl_nats=_sums(item.kl for item in made),
        same_top=tuple(int(item.same_top.sum()) for item in made),
        change=_sums(item.change for item in made),
        change_squares=_sums(item.change.square() for item in made),
        kl_tokens=tuple(" ".join(f"{value:.3g}" for value in item.kl.tolist()) for item in made),
        change_tokens=tuple(" ".join(str(round(value / CHANGE_UNIT)) for value in item.change.tolist()) for item in made),
    )


def _windows(reference: torch.nn.Module, variant: torch.nn.Module, batch: Batch, first: int) -> Iterator[tuple[int, Predictions]]:
    expected, found = kl.logits_of(reference, batch), kl.logits_of(variant, batch)
    kl.check_finite(expected, batch.mask)
    if not torch.isfinite(found[batch.mask.bool()]).all():
        raise NonFiniteError("the quantized model's logits are NaN or infinite")
    for row, (place, sequence) in enumerate(zip(batch.index, batch.sequences, strict=True)):
        scored = slice(first, len(sequence.ids) - 1)
        following = batch.ids[row, first + 1 : len(sequence.ids)]
        yield place, predictions(expected[row, scored], found[row, scored], following)


def _sums(values: Iterable[torch.Tensor]) -> tuple[float, ...]:
    return tuple(float(value.sum()) for value in values)


def _squares(nll: torch.Tensor, reference: torch.Tensor) -> tuple[float, float, float]:
    return float(nll.square().sum()), float(reference.square().sum()), float((nll * reference).sum())
