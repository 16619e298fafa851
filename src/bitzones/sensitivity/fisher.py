"""How much every unit at every format matters, all at once from a few backward passes: it ranks, where `sweep.exact` decides.

The KL of a small change is, to second order, half of the change's squared length in the metric of the model's own Fisher information
(Kullback 1959, ch. 2; Amari 1998, Neural Comput. 10:251). With labels y sampled from the model's own output, independent random signs s
per token, g the gradient of sum_t s_t log p(y_t) at a module's output and d the change that a format makes there, a = sum(g * d) over the
tokens of a sequence has E[a^2] = 2 KL: the signs take the products of different tokens to 0 in expectation. For several units together a
is the sum of theirs, so the same numbers hold every pairwise interaction. At 2 bits changes are not small, and the second order is not the
last word. This module does not know what a plan is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.backends.quanto import packing
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.evaluation.kl import check_finite, logits_of
from bitzones.evaluation.layer_calls import Address, Call, Step, address, tensors_in
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.models import structure
from bitzones.schema.errors import NonFiniteError, NotMeasuredError
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import FisherCell, Unit, UnitScores
from bitzones.sensitivity.variants import Variants

__all__ = ["Change", "Cotangents", "fisher_cell", "projections", "sampled_cotangent", "scores"]

Change: TypeAlias = Mapping[str, torch.Tensor]
"""Module name -> the weight it would get, quantized or dense."""

SCORE_DIGITS = 6
"""Significant digits of a score that a run file keeps: the estimate's own spread is above a per cent."""


Cotangents: TypeAlias = Callable[[torch.Tensor, slice], Iterable[torch.Tensor]]
"""Gives, for the logits of some sequences of a batch and their place in it, tensors of their shape: as many for all of them."""

TAIL_STEPS = 4
"""Steps in which the logits of a batch are differentiated: drawing labels makes six tensors of their size, a step a quarter of each."""


@dataclass
class _Watched:
    """What one run of a module left: its name, what it was given, and its output in the graph."""

    name: str
    given: torch.Tensor
    output: torch.Tensor


@contextmanager
def _watching(model: PreTrainedModel, names: Collection[str]) -> Iterator[list[_Watched]]:
    """Keep input and output of the named modules, as often as they run.

    Raises:
        NotMeasuredError: one of them does not run at all.
    """
    seen: list[_Watched] = []

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            seen.append(_Watched(name, args[0].detach(), output if output.requires_grad else output.requires_grad_()))

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
    if idle := sorted(set(names) - {run.name for run in seen}):
        raise NotMeasuredError(f"fisher: {idle[0]} does not run: its layer reads the weight itself, or sends it no token")


class _Projector:
    """Carries gradients from the logits of one batch back through the layers, one layer's graph alive at a time."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[torch.nn.Module], changes: Sequence[Change], batch: Batch) -> None:
        self._model, self._layers, self._changes, self._batch = model, layers, changes, batch
        names = list(dict.fromkeys(name for change in changes for name in change))
        own = {id(module): number for number, layer in enumerate(layers) for module in layer.modules()}
        self._inside: list[list[str]] = [[] for _ in range(len(layers) + 1)]  # the last: what lies behind all layers
        for name in names:
            self._inside[own.get(id(model.get_submodule(name)), len(layers))].append(name)
        self._found: list[torch.Tensor] = []
        self._incoming: list[dict[Address, torch.Tensor]] = []
        """Of each sample: the gradients of what layers gave, hidden states and whatever else a later layer was given."""

    def run(self, cotangents: Cotangents) -> list[torch.Tensor]:
        with torch.no_grad():
            calls = passed(self._model, self._layers, self._batch)[0].calls
        for number, (call, following) in enumerate(pairwise(calls)):
            if address(call.step.hidden) != address(following.hidden):
                raise NotMeasuredError(f"fisher: the model changes hidden states between layers {number} and {number + 1}")
        given = {address(calls[0].hidden), *(address(made) for call in calls for made in _made(call.step))}
        steps = [call.step for call in calls]
        after = steps[-1].hidden
        for rows in _steps(len(self._batch.index)) if after.shape[:2] == self._batch.ids.shape else [slice(None)]:
            self._tail(steps, rows, cotangents)
        del steps
        for number in reversed(range(len(self._layers))):
            self._layer(number, calls.pop(), given)
        return self._found

    def _tail(self, steps: Sequence[Step], rows: slice, cotangents: Cotangents) -> None:
        """From the logits of some sequences back to what left the last layer."""
        batch, after = self._batch, steps[-1].hidden
        leaf = after[rows].detach().requires_grad_()
        here = Batch(batch.ids[rows], batch.mask[rows], batch.index[rows], batch.sequences[rows])
        skipped = entered_at(self._layers, [step.hollow(leaf) for step in steps])
        with torch.enable_grad(), skipped, _watching(self._model, self._inside[-1]) as seen:
            logits = logits_of(self._model, here)
        check_finite(logits, here.mask)
        for sample, cotangent in enumerate(cotangents(logits.detach(), rows)):
            if sample == len(self._found):
                self._found.append(torch.zeros(len(self._changes), len(batch.index), dtype=torch.float64, device=logits.device))
                self._incoming.append({address(after): torch.zeros_like(after)})
            gradients = torch.autograd.grad(logits, [leaf, *(run.output for run in seen)], cotangent, retain_graph=True)
            self._incoming[sample][address(after)][rows] = gradients[0]
            self._add(seen, {sample: gradients[1:]}, rows)

    def _layer(self, number: int, call: Call, given: Container[Address]) -> None:
        """From what left a layer back to what entered it, which the layers before it gave."""
        leaves: dict[Address, torch.Tensor] = {}

        def leaf(tensor: torch.Tensor) -> torch.Tensor:
            key = address(tensor)
            if not tensor.is_floating_point() or key not in given:
                return tensor
            return leaves.setdefault(key, tensor.detach().requires_grad_())

        with torch.enable_grad(), _watching(self._model, self._inside[number]) as seen:
            again = call.run(self._layers[number], leaf)
        made = {address(was): now for was, now in zip(_made(call.step), _made(again), strict=True) if now.requires_grad}
        outputs, kept = [*leaves.values(), *(run.output for run in seen)], {}
        for sample, incoming in enumerate(self._incoming):
            if address(call.step.hidden) not in incoming:
                raise NotMeasuredError(
                    f"fisher: the model changes the hidden states that leave layer {number} before the next is given them"
                )
            flowing = {key: incoming.pop(key) for key in made if key in incoming}
            found = torch.autograd.grad(
                [made[key] for key in flowing],
                outputs,
                list(flowing.values()),
                retain_graph=sample + 1 < len(self._incoming),
                allow_unused=True,
                materialize_grads=True,
            )
            for key, gradient in zip(leaves, found, strict=False):
                incoming[key] = incoming[key] + gradient if key in incoming else gradient
            kept[sample] = found[len(leaves) :]
        self._add(seen, kept, slice(None))

    @torch.no_grad()
    def _add(self, seen: Sequence[_Watched], gradients: Mapping[int, Sequence[torch.Tensor]], rows: slice) -> None:
        """Add gradient * change of every module; what a change adds to an output is made once for all samples, and not kept."""
        for at, module in enumerate(seen):
            name, device = module.name, module.given.device  # where it ran, which need not be where it lies
            weight = self._model.get_submodule(name).get_parameter("weight").detach().to(device)
            if module.output.shape[:-1] != self._batch.ids[rows].shape:
                raise NotMeasuredError(f"{name} is not given every token in its place: fisher scores of it cannot be told by sequence")
            for number, change in enumerate(self._changes):
                if name in change:
                    added = module.given @ (packing.values(change[name], weight.dtype).to(device) - weight).T
                    for sample, found in gradients.items():
                        scored = torch.linalg.vecdot(found[at], added).sum(-1, dtype=torch.float64)
                        self._found[sample][number, rows] += scored.to(self._found[sample].device)


def _made(step: Step) -> list[torch.Tensor]:
    """Every tensor that a layer gave: returned, or put into a mapping."""
    return [*tensors_in(step.output), *tensors_in(step.put)]


def _steps(sequences: int) -> Iterator[slice]:
    size = -(-sequences // TAIL_STEPS)
    yield from (slice(start, min(start + size, sequences)) for start in range(0, sequences, size))


def projections(
    model: PreTrainedModel, layers: Sequence[torch.nn.Module], changes: Sequence[Change], batch: Batch, cotangents: Cotangents
) -> list[torch.Tensor]:
    """For each cotangent c of the logits: d/de of sum(c * logits) per sequence, when a change is scaled by e, at e = 0.

    Every layer is run a second time, from the hidden states that entered it, so that the graph of one layer is alive at a time and memory
    stays about that of a pass without gradients (Chen et al. 2016, arXiv:1604.06174).

    Args:
        model: its parameters need no gradients.
        layers: its decoder layers, in order.
        changes: what to differentiate along.
        batch: right-padded sequences.
        cotangents: asked once for each step of the batch's sequences.

    Returns:
        One float64 tensor of shape (changes, sequences) per cotangent.

    Raises:
        NonFiniteError: a logit of a scored token is NaN or infinite.
        NotMeasuredError: a module does not see every token of every sequence, as an expert does not, or the model changes hidden states
            between layers.
    """
    return _Projector(model, layers, changes, batch).run(cotangents)


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
        samples: labels drawn per token; the same for all changes, so that sums over units are meant.
        seed: of the labels and signs.
        progress: told how far it is.

    Raises:
        NonFiniteError: the reference gives NaN or infinity.
    """
    found = torch.zeros(len(changes), samples, sequences, dtype=torch.float64)
    generator = torch.Generator(model.device).manual_seed(seed)
    layers = list(structure.decoder_layers(model).values())
    done = 0
    for batch in batches:

        def drawn(logits: torch.Tensor, rows: slice, batch: Batch = batch) -> Iterator[torch.Tensor]:
            for _ in range(samples):
                yield sampled_cotangent(logits, batch.mask[rows], generator)

        for sample, values in enumerate(projections(model, layers, changes, batch, drawn)):
            found[:, sample, list(batch.index)] = values.cpu()
        done += len(batch.index)
        progress(done / sequences)
    return found


def fisher_cell(
    variants: Variants,
    units: Sequence[Unit],
    sequence_set: SequenceSet,
    batches: Iterable[Batch],
    samples: int,
    seed: int,
    progress: Progress,
) -> FisherCell:
    """The record of `scores` for every unit and every format of the run.

    Raises:
        NonFiniteError: the reference, or what a format makes of a weight, is NaN or infinite.
    """
    every = [(unit, variant) for unit in units for variant in variants.uniform]
    pairs = [(unit, variant) for unit, variant in every if variants.taken_by(unit, variants.formats[variant])]
    changes = [variants.weights(unit, variant) for unit, variant in pairs]
    found = scores(variants.reference, changes, batches, len(sequence_set.sequences), samples, seed, progress)
    for (unit, variant), row in zip(pairs, found, strict=True):
        if not torch.isfinite(row).all():
            raise NonFiniteError(f"the fisher scores of {unit.name} at {variants.formats[variant]} are NaN or infinite")
    return FisherCell(
        variant=variants.reference_id,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        samples=samples,
        units=tuple(units),
        scores=tuple(
            UnitScores(
                unit=unit.name, format=variants.formats[variant], nats=tuple(float(f"{a:.{SCORE_DIGITS}g}") for a in row.flatten().tolist())
            )
            for (unit, variant), row in zip(pairs, found, strict=True)
        ),
    )
