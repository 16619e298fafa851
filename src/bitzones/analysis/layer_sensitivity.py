"""How much each part matters, and how sure that is: bootstrap intervals, a ranking of layers, and what the separate values add up to.

Everything is resampled over calibration sequences with one matrix of weights, so that parts, plans and whole variants are compared on the
same draws. This module does not know what a plan or a zone is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.results import LayerRank, PartReading, WholeVariant
from bitzones.schema.records import DivergenceCell, Part, SensitivityCell
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate, bootstrap_ratio, estimate, estimates, resample_weights, weighted_ratio

__all__ = ["INTERVAL_RESAMPLES", "Measured", "Sample", "layers_of", "measured_of", "ranking", "readings", "sample_of", "whole_variants"]

INTERVAL_RESAMPLES = 2000
"""Bootstrap resamples behind an interval: 50 of them lie beyond each end, enough for the two digits that are printed."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The calibration sequences that have scored tokens, and how often each is drawn: ``weights[r, s]``.

    ``kept`` says which of the cell's sequences these are. A resample drawn only from them has tokens, so that no ratio is 0/0.
    """

    kept: NDArray[np.bool_]
    tokens: Floats
    weights: Floats

    @property
    def sequences(self) -> int:
        """How many units the bootstrap draws from."""
        return len(self.tokens)


def sample_of(sequence_tokens: Iterable[int], resamples: int, seed: int) -> Sample:
    """The sequences of a cell, with at least ``resamples`` bootstrap resamples of them: the same for the same numbers.

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

    An option that was not measured is 0 here: `planner.Menu` says what is offered.
    """

    cell: SensitivityCell
    formats: tuple[str, ...]
    sample: Sample
    kl: Floats
    resampled: Floats

    @property
    def sequences(self) -> int:
        """How many units the bootstrap draws from."""
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
        """KL of every part and format from all sequences, nats per token."""
        return np.asarray(self.kl.sum(axis=2) / self.tokens.sum())

    def choice(self, parts: Mapping[str, str]) -> tuple[int, ...] | None:
        """Format index of every part of a plan; None where one was not measured at its format. Any name that is no format of the run is
        the reference's."""
        done = {(item.part, item.format) for item in self.cell.measurements if item.kl_nats is not None}
        picked = [(part.name, parts.get(part.name)) for part in self.cell.parts]
        if any(name in self.formats and (part, name) not in done for part, name in picked):
            return None
        return tuple(self.formats.index(name) if name in self.formats else len(self.formats) for _, name in picked)

    def summed(self, choice: Iterable[int]) -> Estimate:
        """Sum of the separate KLs of one format per part, nats per token."""
        picked = self.kl[np.arange(len(self.kl)), np.fromiter(choice, dtype=np.int64)]
        return bootstrap_ratio(self.weights, picked.sum(axis=0), self.tokens)


def measured_of(cell: SensitivityCell, formats: tuple[str, ...], resamples: int, seed: int) -> Measured:
    """The cell as arrays, with at least ``resamples`` bootstrap resamples of its sequences.

    Raises:
        ValueError: no sequence has a scored token.
    """
    sample = sample_of(cell.sequence_tokens, resamples, seed)
    kl = np.zeros((len(cell.parts), len(formats) + 1, sample.sequences))
    rows, columns = {part.name: p for p, part in enumerate(cell.parts)}, {name: f for f, name in enumerate(formats)}
    for measured in cell.measurements:
        if measured.kl_nats is not None:
            kl[rows[measured.part], columns[measured.format]] = np.asarray(measured.kl_nats)[sample.kept]
    return Measured(cell, formats, sample, kl, weighted_ratio(sample.weights, kl, sample.tokens))


def readings(measured: Measured) -> tuple[PartReading, ...]:
    """Every measurement with its interval, parts in the model's order and formats from most to fewest bits."""
    parts, mean = {part.name: index for index, part in enumerate(measured.cell.parts)}, measured.mean
    intervals = estimates(mean.ravel(), measured.resampled.reshape(len(measured.resampled), -1), measured.sequences)
    found = []
    for item in measured.cell.measurements:
        row, column = parts[item.part], measured.formats.index(item.format)
        part = measured.cell.parts[row]
        kl = None if item.kl_nats is None else intervals[row * mean.shape[1] + column]
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
    """Layer to the indices of its parts, layers in ascending order; what lies behind all layers is left out."""
    layers: dict[int, list[int]] = {}
    for index, part in enumerate(parts):
        if part.layer is not None:
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
    """The measured divergence of every variant beside the sum of the separate sensitivities of its parts, where there is one.

    Every cell was measured on the sequences of ``sample``, and so was the sweep. ``plans`` says, of a variant that is not of one format,
    which format each part has. A uniform variant changes every layer: where the sweep was not ``everywhere`` there is no sum to set beside.
    """
    found = []
    for cell in cells:
        format_, parts = variants.get(cell.variant, cell.variant), plans.get(cell.variant)
        if parts is None and everywhere and measured is not None and format_ in measured.formats:
            parts = {part.name: format_ for part in measured.cell.parts}
        found.append(_whole(sample, measured, cell, format_, parts))
    return tuple(found)


def _whole(sample: Sample, measured: Measured | None, cell: DivergenceCell, format_: str, parts: Mapping[str, str] | None) -> WholeVariant:
    whole = np.asarray(cell.kl_nats)[sample.kept]
    interval = bootstrap_ratio(sample.weights, whole, sample.tokens)
    choice = measured.choice(parts) if measured is not None and parts is not None else None
    if measured is None or choice is None:
        return WholeVariant(variant=cell.variant, format=format_, added=None, measured=interval, ratio=None)
    added, ratio = measured.summed(choice), None
    sums = measured.resampled[:, np.arange(len(choice)), choice].sum(axis=1)
    if added.value > 0 and (sums > 0).all():
        resampled = weighted_ratio(sample.weights, whole, sample.tokens) / sums
        ratio = estimate(interval.value / added.value, resampled, sample.sequences)
    return WholeVariant(variant=cell.variant, format=format_, added=added, measured=interval, ratio=ratio)
