"""How much each part matters, and how sure that is: bootstrap intervals, a ranking of layers, and what the separate values add up to.

Everything is resampled over calibration sequences with one matrix of weights, so that parts, plans and whole variants are compared on the
same draws. This module does not know what a plan or a zone is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.decide.analysis import LayerRank, PartReading, WholeVariant
from bitzones.records import DivergenceCell, Part, SensitivityCell
from bitzones.stats import ALPHA, MIN_SEQUENCES, Interval, bootstrap_ratio, percentile_interval, resample_weights, weighted_ratio

__all__ = ["INTERVAL_RESAMPLES", "Measured", "layers_of", "measured_of", "ranking", "readings", "whole_variants"]

INTERVAL_RESAMPLES = 2000
"""Bootstrap resamples behind an interval: 50 of them lie beyond each end, enough for the two digits that are printed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """A sensitivity cell as arrays: ``kl[p, f, s]`` in nats, the reference last; ``resampled[r, p, f]`` in nats per token.

    Only sequences with scored tokens are kept. An option that was not measured is 0 here: `planner.Menu` says what is offered.
    """

    cell: SensitivityCell
    formats: tuple[str, ...]
    kept: NDArray[np.bool_]
    tokens: Floats
    kl: Floats
    weights: Floats
    resampled: Floats

    @property
    def sequences(self) -> int:
        """How many units the bootstrap draws from."""
        return len(self.tokens)

    @property
    def mean(self) -> Floats:
        """KL of every part and format from all sequences, nats per token."""
        return np.asarray(self.kl.sum(axis=2) / self.tokens.sum())

    def summed(self, choice: Iterable[int]) -> Interval:
        """Sum of the separate KLs of one format per part, nats per token."""
        picked = self.kl[np.arange(len(self.kl)), np.fromiter(choice, dtype=np.int64)]
        return bootstrap_ratio(self.weights, picked.sum(axis=0), self.tokens)


def measured_of(cell: SensitivityCell, formats: tuple[str, ...], resamples: int, seed: int) -> Measured:
    """The cell as arrays, with at least ``resamples`` bootstrap resamples of its sequences.

    Raises:
        ValueError: no sequence has a scored token.
    """
    tokens = np.asarray(cell.sequence_tokens, dtype=np.float64)
    kept = tokens > 0
    if not kept.any():
        raise ValueError("no sequence has a scored token")
    kl = np.zeros((len(cell.parts), len(formats) + 1, int(kept.sum())))
    rows, columns = {part.name: p for p, part in enumerate(cell.parts)}, {name: f for f, name in enumerate(formats)}
    for measured in cell.measurements:
        if measured.kl_nats is not None:
            kl[rows[measured.part], columns[measured.format]] = np.asarray(measured.kl_nats)[kept]
    weights = resample_weights(kl.shape[2], max(resamples, INTERVAL_RESAMPLES), seed)
    tokens = tokens[kept]
    # A resample drawn only from sequences that the table keeps has tokens, so that no ratio is 0/0.
    return Measured(cell, formats, kept, tokens, kl, weights, weighted_ratio(weights, kl, tokens))


def readings(measured: Measured) -> tuple[PartReading, ...]:
    """Every measurement with its interval, parts in the model's order and formats from most to fewest bits."""
    parts = {part.name: index for index, part in enumerate(measured.cell.parts)}
    found = []
    for item in measured.cell.measurements:
        row, column = parts[item.part], measured.formats.index(item.format)
        part = measured.cell.parts[row]
        kl = None
        if item.kl_nats is not None:
            kl = percentile_interval(measured.mean[row, column], measured.resampled[:, row, column])
        bits = item.stored_bytes * 8 / part.parameters if part.parameters else None
        reading = PartReading(
            part=part.name,
            layer=part.layer,
            group=part.group,
            format=item.format,
            parameters=part.parameters,
            stored_bytes=item.stored_bytes,
            bits=bits,
            kl=kl,
            failure=item.failure,
        )
        found.append(((row, column), reading))
    return tuple(reading for _, reading in sorted(found, key=lambda pair: pair[0]))


def layers_of(parts: Iterable[Part]) -> dict[int, list[int]]:
    """Layer to the indices of its parts, layers in ascending order."""
    layers: dict[int, list[int]] = {}
    for index, part in enumerate(parts):
        layers.setdefault(part.layer, []).append(index)
    return dict(sorted(layers.items()))


def ranking(measured: Measured) -> tuple[LayerRank, ...]:
    """Layers from most to least sensitive at the format with the fewest bits; a layer with an unmeasured part is left out.

    Two neighbours are told apart where the paired bootstrap interval of their difference excludes 0, and never below `MIN_SEQUENCES`.
    """
    lowest = len(measured.formats) - 1
    done = {item.part for item in measured.cell.measurements if item.format == measured.formats[lowest] and item.kl_nats is not None}
    layers = {
        layer: rows for layer, rows in layers_of(measured.cell.parts).items() if all(measured.cell.parts[row].name in done for row in rows)
    }
    if not layers:
        return ()
    values = np.array([measured.mean[rows, lowest].sum() for rows in layers.values()])
    resampled = np.stack([measured.resampled[:, rows, lowest].sum(axis=1) for rows in layers.values()], axis=1)
    ranks = np.argsort(np.argsort(-resampled, axis=1, kind="stable"), axis=1) + 1
    best, worst = np.quantile(ranks, [ALPHA / 2, 1 - ALPHA / 2], axis=0, method="inverted_cdf")
    names, order = list(layers), np.argsort(-values, kind="stable")
    found = []
    for rank, at in enumerate(order):
        told = None
        if rank + 1 < len(order):
            below = order[rank + 1]
            difference = percentile_interval(values[at] - values[below], resampled[:, at] - resampled[:, below])
            told = difference.low > 0 and measured.sequences >= MIN_SEQUENCES
        kl = percentile_interval(values[at], resampled[:, at])
        found.append(
            LayerRank(rank=rank + 1, layer=names[at], kl=kl, best_rank=int(best[at]), worst_rank=int(worst[at]), told_from_next=told)
        )
    return tuple(found)


def whole_variants(measured: Measured, cells: Iterable[DivergenceCell], variants: dict[str, str]) -> tuple[WholeVariant, ...]:
    """The measured divergence of every uniform variant beside the sum of the separate sensitivities at its format."""
    return tuple(_whole(measured, cell, variants.get(cell.variant, cell.variant)) for cell in cells)


def _whole(measured: Measured, cell: DivergenceCell, format_: str) -> WholeVariant:
    whole = np.asarray(cell.kl_nats)[measured.kept]
    interval = bootstrap_ratio(measured.weights, whole, measured.tokens)
    done = {item.part for item in measured.cell.measurements if item.format == format_ and item.kl_nats is not None}
    if len(done) < len(measured.cell.parts):
        return WholeVariant(variant=cell.variant, format=format_, added=None, measured=interval, ratio=None)
    column = measured.formats.index(format_)
    added = measured.summed([column] * len(measured.kl))
    parts = measured.resampled[:, :, column].sum(axis=1)
    ratio = None
    if added.value > 0 and (parts > 0).all():
        resampled = weighted_ratio(measured.weights, whole, measured.tokens) / parts
        ratio = percentile_interval(interval.value / added.value, resampled)
    return WholeVariant(variant=cell.variant, format=format_, added=added, measured=interval, ratio=ratio)
