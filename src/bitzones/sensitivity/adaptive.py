"""A sweep that measures every unit and format on as many sequences as the plan and the zones need: `allocation.racing` says which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bitzones.allocation import racing
from bitzones.allocation.knapsack import Menu
from bitzones.allocation.partial_sweep import PartialSweep
from bitzones.allocation.racing import Flags
from bitzones.backends.backend_protocol import Weight
from bitzones.data.sequences import SequenceSet
from bitzones.models.units import Granularity
from bitzones.schema.progress import Progress
from bitzones.schema.sensitivity_cells import AdaptiveSweep, SensitivityCell, Unit
from bitzones.sensitivity.sweep import Candidate, Sweep, measurement
from bitzones.sensitivity.variants import Variants

__all__ = ["Measure", "Raced", "adaptive_cell"]

Measure = Callable[[Sequence[Candidate], Sequence[int]], Sweep]
"""The sweep of some candidates over the sequences at these places."""


@dataclass(frozen=True)
class Raced:
    """What a sweep is raced for.

    Args:
        menu: what the sweep will offer, the variants' formats in order.
        budget: in what the menu counts.
        strata: where each sequence comes from.
        uniform: format -> KL of the whole model in it, per sequence.
        seed: of the order of sequences and of the draws.
    """

    menu: Menu
    budget: int
    strata: Sequence[str]
    uniform: Mapping[str, Sequence[float]]
    seed: int


def adaptive_cell(
    variants: Variants,
    units: Sequence[Unit],
    granularity: Granularity,
    sequence_set: SequenceSet,
    raced: Raced,
    measure: Measure,
    progress: Progress,
) -> SensitivityCell:
    """The record of a race over every unit and every format of the run."""
    table = _Table(variants, units, sequence_set, raced, measure, progress)
    partial, standing = racing.run(raced.menu, raced.budget, len(table.order), raced.seed, table.extend)
    measurements = []
    for row, unit in enumerate(units):
        for column, variant in enumerate(variants.uniform):
            count = int(partial.counts[row, column])
            found = partial.kl[row, column, :count].tolist() if count else None
            stopped = standing.reason(row, column) if 0 < count < len(table.order) else None
            weights, variance = variants.weights(unit, variant), table.variance(row, column)
            measurements.append(measurement(variants, unit, variant, weights, found, variance, stopped))
    progress(1.0)
    return SensitivityCell(
        variant=variants.reference_id,
        method="exact",
        granularity=granularity,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        passed_over=sequence_set.passed_over,
        units=tuple(units),
        measurements=tuple(measurements),
        adaptive=AdaptiveSweep(
            order=table.order,
            looks=racing.looks_of(len(table.order)),
            uniform_kl_nats={name: tuple(nats) for name, nats in raced.uniform.items()},
            regret_nats=standing.regret,
            budget=raced.budget,
        ),
    )


class _Table:
    """What was measured so far, and how more is."""

    def __init__(
        self,
        variants: Variants,
        units: Sequence[Unit],
        sequence_set: SequenceSet,
        raced: Raced,
        measure: Measure,
        progress: Progress,
    ) -> None:
        self._variants, self._units, self._measure, self._progress = variants, units, measure, progress
        self._names = tuple(variants.uniform)
        assert raced.menu.formats[:-1] == tuple(variants.uniform.values()), "the menu has the formats of the variants"
        self.order = racing.in_order(raced.strata, raced.seed)
        self._tokens = np.array(sequence_set.sequence_tokens, dtype=np.float64)[list(self.order)]
        self._uniform = {raced.menu.formats.index(name): np.asarray(nats)[list(self.order)] for name, nats in raced.uniform.items()}
        self._kl = np.zeros((len(units), len(self._names) + 1, len(self.order)))
        self._variance = np.zeros_like(self._kl)
        self._counts = np.zeros(self._kl.shape[:2], dtype=np.int64)
        self._broken = np.zeros(self._counts.shape, dtype=np.bool_)

    def variance(self, row: int, column: int) -> tuple[float, ...] | None:
        """That an option's KLs have from sampling rows of the head; None if they have none."""
        found = self._variance[row, column, : self._counts[row, column]]
        return tuple(found.tolist()) if found.any() else None

    def extend(self, wanted: Flags, target: int) -> PartialSweep:
        """As `racing.Extend`. Options that are behind the others are measured on what they lack first, so that all have the same ones."""
        wanted = wanted & ~self._broken & (self._counts < target)
        for count in np.unique(self._counts[wanted]).tolist():
            self._add(np.argwhere(wanted & (self._counts == count)).tolist(), count, target)
        self._progress(target / len(self.order))
        return PartialSweep(self._kl.copy(), self._counts.copy(), self._tokens, self._uniform)

    def _add(self, options: list[list[int]], start: int, end: int) -> None:
        taken = [(row, column) for row, column in options if self._weights(row, column)]
        candidates = [Candidate(self._units[row].layer, self._weights(row, column)) for row, column in taken]
        sweep = self._measure(candidates, self.order[start:end])
        for number, (row, column) in enumerate(taken):
            found, variance = sweep.found(number)
            if found is None:
                self._broken[row, column], self._counts[row, column] = True, 0
            else:
                self._kl[row, column, start:end], self._counts[row, column] = found, end
                self._variance[row, column, start:end] = variance or 0.0

    def _weights(self, row: int, column: int) -> Mapping[str, Weight]:
        return self._variants.weights(self._units[row], self._names[column])
