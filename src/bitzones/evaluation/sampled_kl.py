"""KL(reference || changed) of many changes on one batch, with the head computed whole or from some of its rows (`head_rows`).

With p the reference's distribution and q an anchor's, whose hidden state differs from the changed one's by d, and one head W for both:
KL(p || changed) = KL(p || q) + (sum_v q_v W_v - sum_v p_v W_v) d + log E_q[exp((W - c) d)]. Only the last term is estimated. In a sweep
around the reference, the anchor is the reference and the first two terms are 0; around a plan it is the plan, so that what is estimated is
the effect of one swap, however far the plan is from the reference.

That W turns hidden states into logits is not taken from the architecture but checked on the anchor's own. Where it does not hold (logits
that are capped, a head of several matrices), or the change is one of the head itself, the whole model runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from bitzones.data.sequences import Batch, TokenSequence
from bitzones.evaluation import head_rows
from bitzones.evaluation.head_rows import Counts, HeadRows
from bitzones.evaluation.kl import kl_nats, logits_of, token_nats
from bitzones.evaluation.layer_calls import Left

__all__ = ["Head", "KlMeter", "Measured", "entering_head", "meter"]

LINEAR = 1e-4
"""Most that a head's logits may differ from the model's, by the largest of them."""

TRIED = 4
"""Tokens of a batch on which that is checked."""

WORTH = 2
"""A vocabulary has to have so many times the rows that are computed; below, choosing them costs more than it saves."""


@dataclass(frozen=True)
class Measured:
    """KL in nats per sequence, summed over its scored tokens, and the ``variance`` that it has from sampling: 0 where none was sampled."""

    nats: torch.Tensor
    variance: torch.Tensor


@dataclass(frozen=True)
class Head:
    """A module whose product, times a factor, is the logits: Granite divides them by a constant, Cohere multiplies."""

    module: torch.nn.Module
    scale: float

    @property
    def weight(self) -> torch.Tensor:
        found = self.module.weight
        assert isinstance(found, torch.Tensor)
        return found

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states, in their dtype, of any shape."""
        return self.scale * functional.linear(hidden, self.weight, getattr(self.module, "bias", None))


@contextmanager
def entering_head(model: torch.nn.Module, *, leave: bool = False) -> Iterator[list[torch.Tensor]]:
    """Within the block, what enters the model's head is kept; with ``leave``, the head is not run and a pass raises `Left` instead."""
    found: list[torch.Tensor] = []
    head = _module(model)

    def enter(_module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        found.extend(args[:1])
        if leave:
            raise Left

    handle = None if head is None else head.register_forward_pre_hook(enter)
    try:
        yield found
    finally:
        if handle is not None:
            handle.remove()


def _module(model: torch.nn.Module) -> torch.nn.Module | None:
    """The model's head, as it names it itself."""
    named = getattr(model, "get_output_embeddings", None)
    try:
        found = None if named is None else named()
    except (AttributeError, NotImplementedError):
        return None
    return found if isinstance(found, torch.nn.Module) else None


@torch.no_grad()
def _linear(model: torch.nn.Module, entered: Sequence[torch.Tensor], log_q: torch.Tensor, batch: Batch) -> Head | None:
    """The head, if what entered it gives the model's logits; None if it does not."""
    module = _module(model)
    weight = getattr(module, "weight", None)
    if module is None or len(entered) != 1 or entered[0].shape[:-1] != batch.mask.shape or _capped(model):
        return None
    if not isinstance(weight, torch.Tensor) or weight.shape != (log_q.shape[-1], entered[0].shape[-1]) or weight.device != log_q.device:
        return None
    scored = batch.mask.flatten().nonzero()[:, 0]
    places = scored[torch.linspace(0, len(scored) - 1, min(TRIED, len(scored))).long()]
    found = Head(module, 1.0).logits(entered[0].flatten(0, 1)[places]).float()
    wanted = log_q.flatten(0, 1)[places]
    found, wanted = (values - values.mean(-1, keepdim=True) for values in (found, wanted))
    bound = max(LINEAR, torch.finfo(weight.dtype).eps)
    scale = float((found * wanted).sum() / found.square().sum())
    if abs(scale - 1) <= bound:
        scale = 1.0
    apart = float((scale * found - wanted).abs().max() / wanted.abs().max())
    return Head(module, scale) if apart <= bound else None  # NaN where all logits are alike


def _capped(model: torch.nn.Module) -> bool:
    """Whether the configuration caps logits: in bfloat16, a check cannot tell small ones from logits that are not capped."""
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None else None
    return getattr(text, "final_logit_softcapping", None) is not None


def _seed(sequence: TokenSequence) -> int:
    """Of a sequence's own tokens: its draws do not depend on what is measured beside it."""
    return int.from_bytes(hashlib.sha256(repr(sequence.ids).encode()).digest()[:7], "big")


@dataclass(frozen=True)
class _Anchor:
    """What the changes of a batch are measured from: hidden states before the head, rows of it, and the terms that are not estimated."""

    head: Head
    hidden: torch.Tensor
    rows: HeadRows
    nats: torch.Tensor | None
    tilt: torch.Tensor | None


@dataclass(frozen=True)
class KlMeter:
    """Measures changes of a model on one batch, against its reference's log-probabilities there."""

    model: torch.nn.Module
    batch: Batch
    reference: torch.Tensor
    anchor: _Anchor | None

    @torch.no_grad()
    def measured(self, changed: Collection[str] = ()) -> Measured:
        """KL(reference || the model as it is now), which differs from the anchor's in the weights of ``changed`` modules."""
        if self.anchor is None or self._is_changed(self.anchor.head, changed):
            nats = kl_nats(self.reference, logits_of(self.model, self.batch), self.batch.mask)
            return Measured(nats, torch.zeros_like(nats))
        return self._sampled(self.anchor, _hidden(self.model, self.batch))

    def _is_changed(self, head: Head, changed: Collection[str]) -> bool:
        return any(
            self.model.get_submodule(name) is head.module or self.model.get_parameter(f"{name}.weight") is head.weight for name in changed
        )

    def _sampled(self, anchor: _Anchor, hidden: torch.Tensor) -> Measured:
        scored = self.batch.mask.bool()
        change = anchor.head.scale * torch.where(scored[..., None], hidden.float() - anchor.hidden, 0.0)
        found = anchor.rows.estimated(change)
        nats = found.nats
        if anchor.tilt is not None and anchor.nats is not None:
            nats = nats + anchor.nats + (anchor.tilt * change).sum(-1)
        unsure = found.unsure & scored
        if unsure.any():
            places = unsure.flatten().nonzero()[:, 0]
            logits = anchor.head.logits(hidden.flatten(0, 1)[places])
            nats = nats.flatten().index_copy(0, places, token_nats(self.reference.flatten(0, 1), logits, places)).view_as(nats)
        summed = torch.where(scored, nats, 0.0).sum(-1)
        return Measured(summed.clamp_min(0.0), found.variance)


def _hidden(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """What enters the head in one pass, which ends there."""
    with entering_head(model, leave=True) as entered, suppress(Left):
        model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return entered[0]


@torch.no_grad()
def meter(
    model: torch.nn.Module,
    batch: Batch,
    reference: torch.Tensor,
    log_q: torch.Tensor,
    entered: Sequence[torch.Tensor] = (),
    counts: Counts = head_rows.COUNTS,
) -> KlMeter:
    """A meter whose anchor is the model as it is now.

    Args:
        model: the reference, or the base of a sweep.
        batch: the sequences.
        reference: the reference's log-probabilities.
        log_q: those of the model as it is now; the same tensor where it is the reference.
        entered: what entered its head in that pass (`entering_head`); without it the head is always computed whole.
        counts: rows of the head for each sequence.
    """
    head = _linear(model, entered, log_q, batch) if entered and log_q.shape[-1] >= WORTH * counts.rows else None
    if head is None:
        return KlMeter(model, batch, reference, None)
    weight, scored = head.weight, batch.mask.bool()[..., None]
    q = torch.where(scored, log_q.exp(), 0.0)
    centers = head_rows.mean_rows(weight, q)
    rows = head_rows.chosen(weight, q, centers, [_seed(sequence) for sequence in batch.sequences], counts)
    hidden = entered[0].float()
    if log_q is reference:
        return KlMeter(model, batch, reference, _Anchor(head, hidden, rows, None, None))
    p = torch.where(scored, reference.exp(), 0.0)
    nats = (p * torch.where(scored, reference - log_q, 0.0)).sum(-1).double()
    return KlMeter(model, batch, reference, _Anchor(head, hidden, rows, nats, centers - head_rows.mean_rows(weight, p)))
