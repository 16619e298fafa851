"""Sensitivity of units and layers: bootstrap intervals, the ranking of layers, and sums of separate sensitivities.

One matrix of weights resamples the sensitivity sequences, so that units, plans and whole variants are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu, solve
from bitzones.allocation.partial_sweep import kl_of
from bitzones.allocation.relaxation import pick
from bitzones.analysis.results import LayerRank, SweepEffort, UnitReading, WholeVariant
from bitzones.schema.index import index_of
from bitzones.schema.quality_cells import DivergenceCell
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit
from bitzones.stats.bootstrap import bootstrap_ratio, estimate, estimates, resample_weights, weighted_ratio
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate

__all__ = [
    "INTERVAL_RESAMPLES",
    "Measured",
    "Sample",
    "effort_of",
    "layers_of",
    "measured_of",
    "ranking",
    "readings",
    "sample_of",
    "whole_variants",
]

INTERVAL_RESAMPLES = 2000
"""Bootstrap resamples of an interval: 50 lie beyond each end, enough for the digits that are printed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """Sequences with scored tokens, and how often each resample draws each: ``weights[r, s]``.

    ``kept`` marks them among the cell's sequences; without the others, no resample is empty.
    """

    kept: NDArray[np.bool_]
    tokens: Floats
    weights: Floats

    @property
    def sequences(self) -> int:
        """Number of sequences that the bootstrap draws from."""
        return len(self.tokens)


def sample_of(sequence_tokens: Iterable[int], resamples: int, seed: int) -> Sample:
    """The sequences of a cell with at least ``resamples`` bootstrap resamples; deterministic.

    Raises:
        ValueError: no sequence has a scored token.
    """
    tokens = np.fromiter(sequence_tokens, dtype=np.float64)
    kept = tokens > 0
    if not kept.any():
        raise ValueError("no sequence has a scored token")
    return Sample(kept, tokens[kept], resample_weights(int(kept.sum()), max(resamples, INTERVAL_RESAMPLES), seed))


@dataclass(frozen=True)
class Measured:
    """A sensitivity cell as arrays: ``kl[p, f, s]`` in nats, the reference last; ``resampled[r, p, f]`` in nats per token.

    An option that was not measured is 0 here: `knapsack.Menu` says what is offered. One that was measured on some sequences only has its
    estimate (`partial_sweep.kl_of`).
    """

    cell: SensitivityCell
    formats: tuple[str, ...]
    sample: Sample
    kl: Floats
    resampled: Floats

    @property
    def sequences(self) -> int:
        """Number of sequences that the bootstrap draws from."""
        return self.sample.sequences

    @property
    def tokens(self) -> Floats:
        """Scored tokens of every sequence."""
        return self.sample.tokens

    @property
    def weights(self) -> Floats:
        """How often every sequence is drawn in every resample."""
        return self.sample.weights

    @property
    def mean(self) -> Floats:
        """KL of every unit and format from all sequences, nats per token."""
        return np.asarray(self.kl.sum(axis=2) / self.tokens.sum())

    def choice(self, units: Mapping[str, str]) -> tuple[int, ...] | None:
        """Format index of every unit of a plan; None where one was not measured at its format. A name that is no format of the run stands
        for the reference."""
        done = {(item.unit, item.format) for item in self.cell.measurements if item.kl_nats is not None}
        picked = [(unit.name, units.get(unit.name)) for unit in self.cell.units]
        if any(name in self.formats and (unit, name) not in done for unit, name in picked):
            return None
        return tuple(self.formats.index(name) if name in self.formats else len(self.formats) for _, name in picked)

    def summed(self, choice: Iterable[int]) -> Estimate:
        """Sum of the separate KLs of one format per unit, nats per token."""
        picked = self.kl[np.arange(len(self.kl)), np.fromiter(choice, dtype=np.int64)]
        return bootstrap_ratio(self.weights, picked.sum(axis=0), self.tokens)


def measured_of(cell: SensitivityCell, formats: tuple[str, ...], resamples: int, seed: int) -> Measured:
    """The cell as arrays, with at least ``resamples`` bootstrap resamples of its sequences.

    Raises:
        ValueError: no sequence has a scored token.
    """
    sample = sample_of(cell.sequence_tokens, resamples, seed)
    kl = kl_of(cell, formats)
    return Measured(cell, formats, sample, kl, weighted_ratio(sample.weights, kl, sample.tokens))


def readings(measured: Measured) -> tuple[UnitReading, ...]:
    """Every measurement with its interval, units in the model's order and formats from most to fewest bits."""
    units, mean = index_of(unit.name for unit in measured.cell.units), measured.mean
    intervals = estimates(mean.ravel(), measured.resampled.reshape(len(measured.resampled), -1), measured.sequences)
    found = []
    for item in measured.cell.measurements:
        row, column = units[item.unit], measured.formats.index(item.format)
        unit = measured.cell.units[row]
        kl = None if item.kl_nats is None else intervals[row * mean.shape[1] + column]
        bits = item.stored_bytes * 8 / unit.parameters if unit.parameters else None
        reading = UnitReading(
            unit=unit.name,
            layer=unit.layer,
            group=unit.group,
            format=item.format,
            parameters=unit.parameters,
            stored_bytes=item.stored_bytes,
            bits=bits,
            kl=kl,
            failure=item.failure,
        )
        found.append(((row, column), reading))
    return tuple(reading for _, reading in sorted(found, key=lambda pair: pair[0]))


def effort_of(measured: Measured, menu: Menu | None) -> SweepEffort | None:
    """What an adaptive sweep saved; None of a full one. The menu is that of the budget, None where there is no plan."""
    cell, effort = measured.cell, measured.cell.adaptive
    if effort is None:
        return None
    counts = [len(item.kl_nats) for item in cell.measurements if item.kl_nats is not None]
    summed = 0.0
    if menu is not None and effort.budget >= menu.least_size:
        costs = np.maximum(measured.mean, 0.0)
        summed = float(pick(costs, solve(menu, costs, effort.budget)).sum())
    return SweepEffort(
        measured_share=cell.measured_share,
        partial=sum(count < len(cell.sequence_tokens) for count in counts),
        options=len(counts),
        fewest=min(counts, default=0),
        regret=effort.regret_nats,
        regret_share=effort.regret_nats / summed if summed > 0 else None,
    )


def layers_of(units: Iterable[Unit]) -> dict[int, list[int]]:
    """Layer to the indices of its units, in ascending order, without units after the last layer."""
    layers: dict[int, list[int]] = {}
    for index, unit in enumerate(units):
        if unit.layer is not None:
            layers.setdefault(unit.layer, []).append(index)
    return dict(sorted(layers.items()))


def ranking(measured: Measured) -> tuple[LayerRank, ...]:
    """Layers from most to least sensitive at the format with the fewest bits; a layer with an unmeasured unit is left out.

    Neighbours are told apart if the paired bootstrap interval of their difference excludes 0, and never below `MIN_SEQUENCES`.
    """
    lowest = len(measured.formats) - 1
    done = {item.unit for item in measured.cell.measurements if item.format == measured.formats[lowest] and item.kl_nats is not None}
    layers = {
        layer: rows for layer, rows in layers_of(measured.cell.units).items() if all(measured.cell.units[row].name in done for row in rows)
    }
    if not layers:
        return ()
    values = np.array([measured.mean[rows, lowest].sum() for rows in layers.values()])
    resampled = np.stack([measured.resampled[:, rows, lowest].sum(axis=1) for rows in layers.values()], axis=1)
    ranks = np.argsort(np.argsort(-resampled, axis=1, kind="stable"), axis=1) + 1
    best, worst = np.quantile(ranks, [ALPHA / 2, 1 - ALPHA / 2], axis=0, method="inverted_cdf")
    enough = measured.sequences >= MIN_SEQUENCES
    names, order = list(layers), np.argsort(-values, kind="stable")
    values, resampled = values[order], resampled[:, order]
    differences = estimates(values[:-1] - values[1:], resampled[:, :-1] - resampled[:, 1:], measured.sequences)
    told = [difference.low is not None and difference.low > 0 for difference in differences]
    return tuple(
        LayerRank(
            rank=rank + 1,
            layer=names[at],
            kl=kl,
            best_rank=int(best[at]) if enough else None,
            worst_rank=int(worst[at]) if enough else None,
            told_from_next=told[rank] if rank < len(told) else None,
        )
        for rank, (at, kl) in enumerate(zip(order, estimates(values, resampled, measured.sequences), strict=True))
    )


def whole_variants(
    sample: Sample,
    measured: Measured | None,
    cells: Iterable[DivergenceCell],
    variants: dict[str, str],
    plans: Mapping[str, Mapping[str, str] | None],
    *,
    everywhere: bool = True,
) -> tuple[WholeVariant, ...]:
    """The measured KL of every variant beside the sum of its units' separate sensitivities, where there is one.

    Cells and sweep were measured on the sequences of ``sample``. ``plans`` gives the format of each unit for variants of mixed formats. A
    uniform variant changes every layer, so it has a sum only if the sweep was ``everywhere``.
    """
    found = []
    for cell in cells:
        format_, units = variants.get(cell.variant, cell.variant), plans.get(cell.variant)
        if units is None and everywhere and measured is not None and format_ in measured.formats:
            units = {unit.name: format_ for unit in measured.cell.units}
        found.append(_whole(sample, measured, cell, format_, units))
    return tuple(found)


def _whole(sample: Sample, measured: Measured | None, cell: DivergenceCell, format_: str, units: Mapping[str, str] | None) -> WholeVariant:
    whole = np.asarray(cell.kl_nats)[sample.kept]
    interval = bootstrap_ratio(sample.weights, whole, sample.tokens)
    choice = measured.choice(units) if measured is not None and units is not None else None
    if measured is None or choice is None:
        return WholeVariant(variant=cell.variant, format=format_, added=None, measured=interval, ratio=None)
    added, ratio = measured.summed(choice), None
    sums = measured.resampled[:, np.arange(len(choice)), choice].sum(axis=1)
    if added.value > 0 and (sums > 0).all():
        resampled = weighted_ratio(sample.weights, whole, sample.tokens) / sums
        ratio = estimate(interval.value / added.value, resampled, sample.sequences)
    return WholeVariant(variant=cell.variant, format=format_, added=added, measured=interval, ratio=ratio)
