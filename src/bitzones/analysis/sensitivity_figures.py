"""Sensitivities, the ranking of layers, and layer statistics: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from typing import Literal

from bitzones.analysis.plan import Decided
from bitzones.schema.layer_statistics import LayerStatistics
from bitzones.stats.intervals import Estimate

__all__ = [
    "LayerRank",
    "LayerReading",
    "SweepEffort",
    "UnitReading",
    "WholeVariant",
]


class UnitReading(Decided):
    """How much the whole model changes when only this unit is stored in this format."""

    unit: str
    layer: int | None
    """Null where it lies behind all layers."""
    group: str | None
    format: str
    parameters: int
    stored_bytes: int
    bits: float | None
    """Stored bits per weight, scales and shifts counted; null for a unit without weights."""
    kl: Estimate | None
    """KL(reference || changed model), nats per token, bootstrap interval over sequences; null where it failed."""
    failure: str | None


class LayerRank(Decided):
    """Layers in the order of their sensitivity at the lowest format: the sum over a layer's units."""

    rank: int
    """1 is the most sensitive."""
    layer: int
    kl: Estimate
    """Nats per token."""
    best_rank: int | None
    """Lower end of the rank's bootstrap 95% interval; null with too few sequences."""
    worst_rank: int | None
    """Upper end of the rank's bootstrap 95% interval; null with too few sequences."""
    told_from_next: bool | None
    """Whether the paired 95% interval of the difference to the next layer excludes 0; null for the last layer."""


class SweepEffort(Decided):
    """What an adaptive sweep saved, and what that can cost."""

    measured_share: float
    """Share of the KLs of units, formats and sequences that were measured; the others are estimated."""
    partial: int
    """Units and formats that were measured on some of the sequences only."""
    options: int
    """Units and formats that were measured."""
    fewest: int
    """Sequences of those that were measured least."""
    regret: float
    """With 95% confidence the plan of separate sensitivities costs at most this many nats per token above that of a full sweep."""
    regret_share: float | None
    """The same as a share of that plan's summed KL; null where that is 0 or there is no plan."""


class WholeVariant(Decided):
    """What the separate sensitivities add up to, beside the measured divergence of the whole variant."""

    variant: str
    format: str
    added: Estimate | None
    """Sum of the separate sensitivities, nats per token; null where a unit was not measured in this format."""
    measured: Estimate
    """KL(reference || variant), nats per token."""
    ratio: Estimate | None
    """Measured by added, paired over sequences; null where the sum is missing or 0."""


class LayerReading(Decided):
    """Activation and attention statistics of one layer of the reference, described by named thresholds (`bitzones.analysis.attention`).

    Descriptive: no cause of sensitivity is claimed.
    """

    statistics: LayerStatistics
    concentration: Literal["concentrated", "broad", "even"] | None
    """How attention is spread over positions, by ``head_specialization``; null where attention was not measured."""
    focus: Literal["above", "below", "not told", "no yardstick", "undefined"] | None
    """The focus on the question against the median layer's: ``not told`` within two standard errors, ``no yardstick`` with too few layers
    or sequences, ``undefined`` where no sequence has a question; null where attention was not measured."""
    typical_focus: float | None
    """Median over layers; null with too few layers."""
    outliers: bool
    """Whether the kurtosis of the layer's output is that of a distribution with outliers."""

    @property
    def layer(self) -> int:
        """Its number."""
        return self.statistics.layer
