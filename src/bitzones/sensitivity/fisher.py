"""The Fisher proxy: estimates the sensitivity of every unit in every format from a few backward passes. It ranks; `sweep.exact` decides.

The KL of a small change is, to second order, half of its squared length in the metric of the model's Fisher information (Kullback 1959,
ch. 2; Amari 1998, Neural Comput. 10:251). Sample labels y from the model's own output and independent random signs s per token; let g be
the gradient of sum_t s_t log p(y_t) at a module's output, and d the change that a format makes there. Then a = sum(g * d) over the tokens
of a sequence has E[a^2] = 2 KL, because the signs make the products of different tokens vanish in expectation. The score of several units
is the sum of their scores, so the same numbers contain every pairwise interaction. At 2 bits changes are not small, and higher orders
matter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from transformers import PreTrainedModel

from bitzones.backends.backend_protocol import Weight
from bitzones.backends.weights import values as values_of
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.evaluation.kl import check_finite, logits_of
from bitzones.evaluation.layer_calls import Address, Call, Step, address, tensors_in
from bitzones.evaluation.layer_replay import entered_at, passed
from bitzones.models import streamed_weights, structure
from bitzones.schema.errors import NonFiniteError, NotMeasuredError
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import FisherCell, Unit, UnitScores
from bitzones.sensitivity.variants import Variants

__all__ = ["Change", "Cotangents", "fisher_cell", "projections", "sampled_cotangent", "scores"]

Change: TypeAlias = Mapping[str, Weight]
"""Module name -> its new weight, quantized or dense."""

SCORE_DIGITS = 6
"""Significant digits of a score in a run file: the spread of the estimate is above one percent."""


Cotangents: TypeAlias = Callable[[torch.Tensor, slice], Iterable[torch.Tensor]]
"""(logits of some sequences of a batch, their slice of the batch) -> tensors of the same shape, the same number at every call."""

TAIL_STEPS = 4
"""Steps in which a batch's logits are differentiated. Sampling labels allocates six tensors of the logits' size, a quarter per step."""


@dataclass
class _Watched:
    """One call of a module: its name, its input, and its output in the autograd graph."""

    name: str
    given: torch.Tensor
    output: torch.Tensor


@contextmanager
def _watching(model: PreTrainedModel, names: Collection[str]) -> Iterator[list[_Watched]]:
    """Record the input and output of the named modules, once per call.

    Raises:
        NotMeasuredError: one of them never runs.
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
    """Propagates gradients from the logits of one batch back through the layers, with one layer's graph in memory at a time."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[torch.nn.Module], changes: Sequence[Change], batch: Batch) -> None:
        self._model, self._layers, self._changes, self._batch = model, layers, changes, batch
        names = list(dict.fromkeys(name for change in changes for name in change))
        own = {id(module): number for number, layer in enumerate(layers) for module in layer.modules()}
        self._inside: list[list[str]] = [[] for _ in range(len(layers) + 1)]  # the last entry: modules after all layers
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
        """Go back from the logits of some sequences to the output of the last layer."""
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
        """Go back from the output of a layer to its inputs, which the layers before it produced."""
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
        """Add gradient * change for every module; the change of an output is computed once for all samples and not kept."""
        for at, module in enumerate(seen):
            name, device = module.name, module.given.device  # where it ran, which need not be where it lies
            weight = self._model.get_submodule(name).get_parameter("weight").detach().to(device)
            if module.output.shape[:-1] != self._batch.ids[rows].shape:
                raise NotMeasuredError(f"{name} does not see every token in its place: its Fisher scores cannot be split by sequence")
            for number, change in enumerate(self._changes):
                if name in change:
                    added = module.given @ (values_of(change[name], weight.dtype).to(device) - weight).T
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
    """For each cotangent c of the logits: the derivative of sum(c * logits) per sequence along every change, at the unchanged model.

    Every layer runs a second time from its input hidden states, so that only one layer's graph is in memory and memory stays close to that
    of a pass without gradients (Chen et al. 2016, arXiv:1604.06174).

    Args:
        model: the reference; its parameters need no gradients.
        layers: its decoder layers, in order.
        changes: the directions of the derivatives.
        batch: right-padded sequences.
        cotangents: called once for each step of the batch's sequences.

    Returns:
        One float64 tensor of shape (changes, sequences) per cotangent.

    Raises:
        NonFiniteError: a logit of a scored token is NaN or infinite.
        NotMeasuredError: a module does not see every token of every sequence, as an expert does not, or the model changes hidden states
            between layers.
    """
    return _Projector(model, layers, changes, batch).run(cotangents)


def sampled_cotangent(logits: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Gradient at the logits of sum_t s_t log p(y_t), which is s_t (onehot(y_t) - p); y is drawn from the model, s is +-1, 0 at padding."""
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
        model: the reference; not modified.
        changes: the changes to score.
        batches: the sequences.
        sequences: total number of sequences.
        samples: labels drawn per token; shared by all changes, so that scores of units can be added.
        seed: seed of the labels and signs.
        progress: receives the share that is done.

    Raises:
        NonFiniteError: the reference's logits are NaN or infinite.
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
        NonFiniteError: the reference's logits, or the scores of a unit, are NaN or infinite.
        NotMeasuredError: the model is streamed: backward passes keep every layer's weights.
    """
    streamed_weights.refuse(variants.reference, "the Fisher proxy")
    every = [(unit, variant) for unit in units for variant in variants.uniform]
    pairs = [(unit, variant) for unit, variant in every if variants.taken_by(unit, variants.formats[variant])]
    changes = [variants.weights(unit, variant) for unit, variant in pairs]
    found = scores(variants.reference, changes, batches, len(sequence_set.sequences), samples, seed, progress)
    for (unit, variant), row in zip(pairs, found, strict=True):
        if not torch.isfinite(row).all():
            raise NonFiniteError(f"the Fisher scores of {unit.name} at {variants.formats[variant]} are NaN or infinite")
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
