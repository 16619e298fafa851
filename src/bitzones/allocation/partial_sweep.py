"""A sweep as one figure per unit, format and sequence, also where a unit was measured on some of the sequences only.

What was not measured is estimated from what is known of every sequence (`stats.control_variates`): its length, the KL of the whole model
in that format, and the KL of the nearest unit that was measured on all. The same record always gives the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.schema.index import index_of
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.stats.control_variates import Estimated, chosen_controls, estimated

__all__ = ["PartialSweep", "kl_of", "partial_sweep"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class PartialSweep:
    """KL in nats of units in formats on the first of some sequences: ``kl[p, f, s]`` for s below ``counts[p, f]``.

    ``tokens[s]`` are the scored tokens of each sequence, and ``uniform[f]`` is the KL of the whole model in a format on all of them; a
    format without it is not in the mapping. A count of 0 is an option that is not offered.
    """

    kl: Floats
    counts: Integers
    tokens: Floats
    uniform: Mapping[int, Floats]

    @property
    def estimates(self) -> dict[tuple[int, int], Estimated]:
        """The estimate of every option that is offered."""
        return {
            (unit, column): self._estimate(unit, column)
            for unit, column in zip(*(places.tolist() for places in self.counts.nonzero()), strict=True)
        }

    def _estimate(self, unit: int, column: int) -> Estimated:
        count = int(self.counts[unit, column])
        measured = self.kl[unit, column, :count]
        if count == len(self.tokens):
            return Estimated(measured, np.zeros(count), count)
        candidates = self._controls(unit, column)
        return estimated(measured, candidates[chosen_controls(measured, candidates)])

    def _controls(self, unit: int, column: int) -> list[Floats]:
        """Sets of controls from the smallest on. A KL per token that all sequences have in common is the ratio to their lengths."""
        tokens, one = self.tokens, np.ones(len(self.tokens))
        others = [self.uniform[column]] if column in self.uniform else []
        whole = np.flatnonzero(self.counts[:, column] == len(tokens))
        if len(whole):
            others.append(self.kl[whole[np.abs(whole - unit).argmin()], column])
        sets = [[tokens], [tokens, one], *([tokens, one, other] for other in others)]
        if len(others) > 1:
            sets.append([tokens, one, *others])
        return [np.stack(columns, axis=1) for columns in sets]


def partial_sweep(cell: SensitivityCell, formats: Sequence[str]) -> PartialSweep:
    """The cell as arrays, with one more format, the reference, whose KL is 0; sequences without a scored token are left out."""
    order = np.array(cell.places, dtype=np.int64)
    tokens = np.array(cell.sequence_tokens, dtype=np.float64)[order]
    kept = tokens > 0
    kl = np.zeros((len(cell.units), len(formats) + 1, int(kept.sum())))
    counts = np.zeros(kl.shape[:2], dtype=np.int64)
    rows, columns = index_of(unit.name for unit in cell.units), index_of(formats)
    for item in cell.measurements:
        if item.kl_nats is not None and item.format in columns:
            found = np.asarray(item.kl_nats)[kept[: len(item.kl_nats)]]
            at = rows[item.unit], columns[item.format]
            counts[at] = len(found)
            kl[at][: len(found)] = found
    uniform = {
        columns[name]: np.asarray(nats)[order][kept]
        for name, nats in (cell.adaptive.uniform_kl_nats if cell.adaptive else {}).items()
        if name in columns
    }
    return PartialSweep(kl, counts, tokens[kept], uniform)


def kl_of(cell: SensitivityCell, formats: Sequence[str]) -> Floats:
    """KL in nats of every unit and format on every sequence with scored tokens, in the cell's order, the reference last; 0 where there is
    none.

    The sum over sequences is the measured KL or its estimate. Where it is an estimate, the figures of single sequences carry its variance
    and may be negative (`stats.control_variates.Estimated`).
    """
    partial = partial_sweep(cell, formats)
    found = np.zeros_like(partial.kl)
    for at, estimate in partial.estimates.items():
        found[at] = estimate.values
    order = np.array(cell.places)
    kept = order[np.array(cell.sequence_tokens)[order] > 0]
    return found[:, :, np.argsort(kept)]
