"""The exact sweep by layers, for a model whose layers do not fit in memory together: each layer is brought in once for all candidates.

`sweep.exact` takes candidates one by one and runs each to the end, so that every layer is used again for every candidate. Here the layers
are the outer loop: while one is in memory, the hidden states of the reference and of every candidate whose change lies before it go
through it, and the candidates that change it start from the reference's. What is kept instead of weights is one set of hidden states for
each candidate. If memory does not hold all of them, the candidates go in waves, each from the first layer that it changes: another wave
reads the layers behind that once more, which costs less than to write the hidden states to a disk and to read them back at every layer
(docs/findings/streaming.md). The products are those of `sweep.exact`, batch for batch, and so are the figures, to the bit on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from bitzones.backends.backend_protocol import Weight
from bitzones.backends.weights import values as values_of
from bitzones.data.sequences import Batch, SequenceSet
from bitzones.devices import device as devices
from bitzones.evaluation.kl import as_log_probabilities, kl_nats, logits_of
from bitzones.evaluation.layer_calls import Step, tensors_in
from bitzones.evaluation.layer_replay import entered_at, stepped
from bitzones.evaluation.swapping import swapped
from bitzones.models import structure
from bitzones.models.streamed_weights import resident
from bitzones.models.units import Granularity
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.progress import Progress, silent
from bitzones.schema.quality_cells import DivergenceCell
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.sensitivity.sweep import NOT_FINITE, Candidate, Sweep, measurement
from bitzones.sensitivity.variants import Variants

__all__ = ["ROOM", "divergence_cell", "exact", "exact_cell", "waves"]

ROOM = 0.5
"""Share of the free memory for hidden states of candidates; the rest is for one layer, its quantized weights, and logits."""


def waves(starts: Sequence[int], most: int) -> list[list[int]]:
    """Candidates in the order of the layers that they start at, cut into waves of at most ``most``, of about one size.

    >>> waves([0, 0, 1, 1, 2], 2)
    [[0, 1], [2, 3], [4]]
    """
    order = sorted(range(len(starts)), key=lambda number: starts[number])
    return [order[begin : begin + max(1, most)] for begin in range(0, len(order), max(1, most))]


@dataclass
class _Path:
    """One model on its way through the layers: its changed weights, and what stands before the next layer, batch by batch."""

    weights: Mapping[str, Weight]
    before: list[list[Step]]


@dataclass(frozen=True)
class _Stream:
    """A model whose layers are brought in one by one, and the batches that go through them."""

    model: torch.nn.Module
    layers: Sequence[torch.nn.Module]
    names: tuple[str, ...]
    batches: Sequence[Batch]

    def first(self, weights: Mapping[str, Weight] | None = None) -> _Path:
        """A path before the first layer."""
        return _Path(weights or {}, [[] for _ in self.batches])

    def layer_of(self, module: str) -> int:
        """Number of the layer that a module is in; the number of layers for a module behind them."""
        return next((number for number, name in enumerate(self.names) if module.startswith(f"{name}.")), len(self.layers))

    def start(self, candidate: Candidate) -> int:
        """The first layer that a candidate changes."""
        return min(map(self.layer_of, candidate.weights), default=len(self.layers))

    def within(self, weights: Mapping[str, Weight], at: int) -> dict[str, torch.Tensor]:
        """Those weights that are in a layer, dense, as the layer has them while it is in memory."""
        own = {name: self.model.get_parameter(f"{name}.weight") for name in weights if self.layer_of(name) == at}
        return {name: values_of(weights[name], own[name].dtype).to(own[name]) for name in own}

    def through(self, at: int, path: _Path) -> None:
        """Run a layer on what a path has before it."""
        with swapped(self.model, self.within(path.weights, at)):
            pairs = zip(path.before, self.batches, strict=True)
            path.before = [stepped(self.model, self.layers, before, batch) for before, batch in pairs]

    def logits(self, path: _Path, number: int) -> torch.Tensor:
        """Logits of a batch, of a path that is behind the last layer."""
        with swapped(self.model, self.within(path.weights, len(self.layers))), entered_at(self.layers, path.before[number]):
            return logits_of(self.model, self.batches[number])

    def state_bytes(self) -> int:
        """Bytes of one path: hidden states, and what layers put into mappings for others, if all of them put what the first one does."""
        batch = self.batches[0]
        (step,) = stepped(self.model, self.layers, (), batch)
        put = sum(tensor.nbytes for tensor in tensors_in(step.put)) * len(self.layers)
        positions = sum(other.ids.numel() for other in self.batches)
        return math.ceil((step.hidden.nbytes + put) / batch.ids.numel() * positions)


@torch.no_grad()
def exact(
    model: torch.nn.Module,
    layers: Sequence[torch.nn.Module],
    candidates: Sequence[Candidate],
    batches: Iterable[Batch],
    sequences: int,
    progress: Progress = silent,
    base: Mapping[str, Weight] | None = None,
    head: HeadUse = "whole",
    *,
    room_bytes: int | None = None,
    arrived: Callable[[int], None] = lambda layer: None,
) -> Sweep:
    """As `sweep.exact`, with one layer in memory at a time.

    Args:
        model: as in `sweep.exact`, or streamed (`streamed_weights.computing`).
        layers: as in `sweep.exact`.
        candidates: as in `sweep.exact`; their weights are made when the layer that they are in is in memory.
        batches: as in `sweep.exact`; all of them are held.
        sequences: as in `sweep.exact`.
        progress: as in `sweep.exact`.
        base: as in `sweep.exact`.
        head: not looked at: every logit is computed, since there is one pass over the head for all candidates, and what it takes is memory.
        room_bytes: for hidden states of candidates; `ROOM` of the free memory if None.
        arrived: told the number of a layer that is in memory and that candidates start at, before they do.

    Raises:
        NonFiniteError: as `sweep.exact`.
    """
    stream = _Stream(model, layers, tuple(structure.decoder_layers(model)), list(batches))
    starts = [stream.start(candidate) for candidate in candidates]
    room = int(ROOM * devices.free_bytes(stream.batches[0].ids.device)) if room_bytes is None else room_bytes
    cut = waves(starts, room // stream.state_bytes())
    reference = stream.first()
    trunk = stream.first(base) if base else reference
    marks = _pass_once(stream, reference, trunk, {starts[wave[0]] for wave in cut})
    made = Sweep(_divergences(stream, reference, {0: trunk}, sequences)[0] if base else [0.0] * sequences, [None] * len(candidates))
    if not all(map(math.isfinite, made.base)):
        raise NonFiniteError("the logits of what is changed for every candidate are NaN or infinite: nothing can be measured around it")
    told = _Count(progress, sum(len(layers) + 1 - start for start in starts))
    for wave in cut:
        root = _Path(trunk.weights, marks[starts[wave[0]]])
        paths = _waved(stream, root, {number: candidates[number] for number in wave}, arrived, told)
        for number, values in _divergences(stream, reference, paths, sequences).items():
            made.candidates[number] = values if all(map(math.isfinite, values)) else None
        told.add(len(wave))
    return made


@dataclass
class _Count:
    """Steps that are done, of all, as a share."""

    progress: Progress
    steps: int
    done: int = 0

    def add(self, steps: int) -> None:
        self.done += steps
        self.progress(self.done / self.steps)


def _pass_once(stream: _Stream, reference: _Path, trunk: _Path, wanted: Collection[int]) -> dict[int, list[list[Step]]]:
    """Run the reference, and what candidates branch off from, through all layers: what stands before the wanted ones in the latter."""
    marks = {}
    for at, layer in enumerate(stream.layers):
        if at in wanted:
            marks[at] = trunk.before
        with resident(stream.model, layer):
            for path in [reference] if trunk is reference else [reference, trunk]:
                stream.through(at, path)
    return {**marks, len(stream.layers): trunk.before}


def _waved(stream: _Stream, root: _Path, wave: Mapping[int, Candidate], arrived: Callable[[int], None], told: _Count) -> dict[int, _Path]:
    """Run candidates from the first layer that they change to behind the last, and ``root`` from the first of these to the last."""
    starts = {number: stream.start(candidate) for number, candidate in wave.items()}
    first, last = min(starts.values()), max(starts.values())
    paths: dict[int, _Path] = {}
    for at in range(first, len(stream.layers)):
        starting = [number for number, start in starts.items() if start == at]
        with resident(stream.model, stream.layers[at]):
            if starting:
                arrived(at)
            paths |= {number: _Path({**root.weights, **wave[number].weights}, root.before) for number in starting}
            for path in paths.values():
                stream.through(at, path)
                told.add(1)
            if at < last:
                stream.through(at, root)
    behind = [number for number, start in starts.items() if start == len(stream.layers)]
    return paths | {number: _Path({**root.weights, **wave[number].weights}, root.before) for number in behind}


def _divergences(stream: _Stream, reference: _Path, paths: Mapping[int, _Path], sequences: int) -> dict[int, list[float]]:
    """KL(reference || path) of every path that is behind the last layer, per sequence."""
    found = {number: [0.0] * sequences for number in paths}
    for at, batch in enumerate(stream.batches):
        log_p = as_log_probabilities(stream.logits(reference, at), batch)
        for number, path in paths.items():
            values = kl_nats(log_p, stream.logits(path, at), batch.mask)
            for index, value in zip(batch.index, values.tolist(), strict=True):
                found[number][index] = value
    return found


def exact_cell(
    variants: Variants,
    units: Sequence[Unit],
    granularity: Granularity,
    sequence_set: SequenceSet,
    batches: Iterable[Batch],
    progress: Progress = silent,
) -> SensitivityCell:
    """The record of `exact` for every unit and every format of the run: that of `sweep.exact_cell`."""
    pairs = [(unit, variant) for unit in units for variant in variants.uniform]
    changed = [(unit, variant) for unit, variant in pairs if variants.taken_by(unit, variants.formats[variant])]
    known: dict[tuple[str, str], UnitSensitivity] = {}

    def note(layer: int) -> None:
        """Take down what is stored and lost while the layer's quantized weights are at hand."""
        known.update({(unit.name, variant): _noted(variants, unit, variant) for unit, variant in pairs if unit.layer == layer})

    sweep = exact(
        variants.reference,
        list(structure.decoder_layers(variants.reference).values()),
        [Candidate(unit.layer, variants.weights(unit, variant)) for unit, variant in changed],
        batches,
        len(sequence_set.sequences),
        progress,
        arrived=note,
    )
    found = {(unit.name, variant): kl for (unit, variant), kl in zip(changed, sweep.candidates, strict=True)}
    return SensitivityCell(
        variant=variants.reference_id,
        method="exact",
        granularity=granularity,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        passed_over=sequence_set.passed_over,
        units=tuple(units),
        measurements=tuple(
            _with(known.get((unit.name, variant)) or _noted(variants, unit, variant), found.get((unit.name, variant)))
            for unit, variant in pairs
        ),
    )


def _noted(variants: Variants, unit: Unit, variant: str) -> UnitSensitivity:
    """The record of a unit in a format, without its KL."""
    return measurement(variants, unit, variant, variants.weights(unit, variant), None)


def _with(noted: UnitSensitivity, kl: list[float] | None) -> UnitSensitivity:
    """The record of a unit with its KL."""
    return noted if kl is None else noted.model_copy(update={"kl_nats": tuple(kl), "failure": None})


def divergence_cell(variants: Variants, variant: str, sequence_set: SequenceSet, batches: Iterable[Batch]) -> DivergenceCell:
    """The record of `kl.divergence_cell` for a uniform variant, or a plan, of formats that are not calibrated.

    Raises:
        NonFiniteError: its logits are NaN or infinite.
        NotMeasuredError: it has calibrated formats: rounded layer after layer, they depend on each other.
    """
    (kl,) = exact(
        variants.reference,
        list(structure.decoder_layers(variants.reference).values()),
        [Candidate(0, variants.stock(variant))],
        batches,
        len(sequence_set.sequences),
    ).candidates
    if kl is None:
        raise NonFiniteError(NOT_FINITE)
    return DivergenceCell(
        variant=variant, sequences_sha256=sequence_set.sha256, sequence_tokens=sequence_set.sequence_tokens, kl_nats=tuple(kl)
    )
