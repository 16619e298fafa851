"""How much every part at every format matters, all at once from a few backward passes: it ranks, where `sensitivity.exact` decides.

The KL of a small change is, to second order, half of the change's squared length in the metric of the model's own Fisher information
(Kullback 1959, ch. 2; Amari 1998, Neural Comput. 10:251). With labels y sampled from the model's own output, independent random signs s
per token, g the gradient of sum_t s_t log p(y_t) at a module's output and d the change that a format makes there, a = sum(g * d) over the
tokens of a sequence has E[a^2] = 2 KL: the signs take the products of different tokens to 0 in expectation. For several parts together a
is the sum of theirs, so the same numbers hold every pairwise interaction. At 2 bits changes are not small, and the second order is not the
last word. This module does not know what a plan is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.errors import NonFiniteError
from bitzones.measure import quantizers
from bitzones.measure.calibration import Batch, Calibration
from bitzones.measure.divergence import logits_of
from bitzones.measure.progress import Progress, silent
from bitzones.measure.variants import Variants
from bitzones.records import FisherCell, Part, PartScores

__all__ = ["Change", "fisher_cell", "projections", "sampled_cotangent", "scores"]

Change: TypeAlias = Mapping[str, torch.Tensor]
"""Module name -> the weight it would get, quantized or dense."""

SCORE_DIGITS = 6
"""Significant digits of a score that a run file keeps: the estimate's own spread is above a per cent."""


@dataclass
class _Watched:
    """What one forward pass left: a module's output, in the graph, and what each change would add to it."""

    output: torch.Tensor
    added: dict[int, torch.Tensor]


@contextmanager
def _watching(model: PreTrainedModel, changes: Sequence[Change]) -> Iterator[dict[str, _Watched]]:
    """Keep, of every module that a change names, its output and the change's effect on it."""
    seen: dict[str, _Watched] = {}
    named = {name: [number for number, change in enumerate(changes) if name in change] for change in changes for name in change}

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            given, weight = args[0].detach(), module.get_parameter("weight").detach()
            with torch.no_grad():
                added = {n: given @ (quantizers.values(changes[n][name], weight.dtype) - weight).T for n in named[name]}
            seen[name] = _Watched(output, added)

        return hook

    def differentiable(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return output.detach().requires_grad_()

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in named]
    handles.append(model.get_input_embeddings().register_forward_hook(differentiable))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def projections(model: PreTrainedModel, changes: Sequence[Change], batch: Batch, cotangents: Any) -> list[torch.Tensor]:
    """For each cotangent c of the logits: d/de of sum(c * logits) per sequence, when a change is scaled by e, at e = 0.

    Args:
        model: its parameters need no gradients.
        changes: what to differentiate along.
        batch: right-padded sequences.
        cotangents: gives, for the logits, tensors of their shape, one after another.

    Returns:
        One float64 tensor of shape (changes, sequences) per cotangent.

    Raises:
        NonFiniteError: a logit of a scored token is NaN or infinite.
    """
    with torch.enable_grad(), _watching(model, changes) as seen:
        logits = logits_of(model, batch)
    if not torch.isfinite(logits[batch.mask.bool()]).all():
        raise NonFiniteError("the reference's own logits are NaN or infinite: nothing can be compared with it")
    watched = list(seen.values())
    found = []
    for cotangent in cotangents(logits.detach()):
        gradients = torch.autograd.grad(logits, [w.output for w in watched], cotangent, retain_graph=True)
        total = torch.zeros(len(changes), len(batch.index), dtype=torch.float64, device=logits.device)
        for gradient, module in zip(gradients, watched, strict=True):
            for number, added in module.added.items():
                total[number] += torch.linalg.vecdot(gradient, added).sum(-1, dtype=torch.float64)
        found.append(total)
    return found


def sampled_cotangent(logits: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gradient at the logits of sum_t s_t log p(y_t): s_t (onehot(y_t) - p), 0 where ``mask`` is, y drawn from the model, s = +-1."""
    p = logits.float().softmax(-1)
    labels = torch.multinomial(p.flatten(0, 1), 1, generator=generator).unflatten(0, mask.shape)
    signs = torch.randint(0, 2, mask.shape, generator=generator, device=logits.device) * 2 - 1
    cotangent = p.neg_().scatter_add_(-1, labels, torch.ones_like(labels, dtype=p.dtype))
    return (cotangent * (signs * mask)[..., None]).to(logits.dtype)


def scores(
    model: PreTrainedModel,
    changes: Sequence[Change],
    batches: Iterable[Batch],
    sequences: int,
    samples: int,
    seed: int,
    progress: Progress = silent,
) -> torch.Tensor:
    """The scores a of every change: float64 of shape (changes, samples, sequences), on the CPU; mean(a^2)/2 estimates its KL in nats.

    Args:
        model: the reference, unchanged afterwards.
        changes: what to score.
        batches: the sequences.
        sequences: how many the batches hold together.
        samples: labels drawn per token; the same for all changes, so that sums over parts are meant.
        seed: of the labels and signs.
        progress: told how far it is.

    Raises:
        NonFiniteError: the reference gives NaN or infinity.
    """
    found = torch.zeros(len(changes), samples, sequences, dtype=torch.float64)
    generator = torch.Generator(model.device).manual_seed(seed)
    done = 0
    for batch in batches:

        def drawn(logits: torch.Tensor, batch: Batch = batch) -> Iterator[torch.Tensor]:
            for _ in range(samples):
                yield sampled_cotangent(logits, batch.mask, generator)

        for sample, values in enumerate(projections(model, changes, batch, drawn)):
            found[:, sample, list(batch.index)] = values.cpu()
        done += len(batch.index)
        progress(done / sequences)
    return found


def fisher_cell(
    variants: Variants,
    parts: Sequence[Part],
    calibration: Calibration,
    batches: Iterable[Batch],
    samples: int,
    seed: int,
    progress: Progress,
) -> FisherCell:
    """The record of `scores` for every part and every format of the run.

    Raises:
        NonFiniteError: the reference, or what a format makes of a weight, is NaN or infinite.
    """
    pairs = [(part, variant) for part in parts for variant in variants.uniform]
    changes = [{name: variants.packed(variant)[name] for name in part.modules} for part, variant in pairs]
    found = scores(variants.reference, changes, batches, len(calibration.sequences), samples, seed, progress)
    for (part, variant), row in zip(pairs, found, strict=True):
        if not torch.isfinite(row).all():
            raise NonFiniteError(f"the fisher scores of {part.name} at {variants.formats[variant]} are NaN or infinite")
    return FisherCell(
        variant=variants.reference_id,
        calibration_sha256=calibration.sha256,
        sequence_tokens=calibration.sequence_tokens,
        samples=samples,
        parts=tuple(parts),
        scores=tuple(
            PartScores(
                part=part.name, format=variants.formats[variant], nats=tuple(float(f"{a:.{SCORE_DIGITS}g}") for a in row.flatten().tolist())
            )
            for (part, variant), row in zip(pairs, found, strict=True)
        ),
    )
