"""Activation and attention statistics of a layer, described by named thresholds.

The description claims no cause and predicts no sensitivity: whether a statistic goes with measured sensitivity is tested in
`bitzones.analysis.heuristics`.
"""

from __future__ import annotations

import math
from statistics import median
from typing import Literal

from bitzones.analysis.sensitivity_figures import LayerReading
from bitzones.schema.layer_statistics import AttentionStatistics, LayersCell, LayerStatistics

__all__ = ["CONCENTRATED", "FLAT", "HEAVY_TAILS", "MEDIAN_LAYERS", "STANDARD_ERRORS", "layer_readings"]

CONCENTRATED = 0.5
"""Head specialization from which attention is called concentrated: at most half the entropy of even attention on the same keys."""

FLAT = 0.2
"""Head specialization up to which attention is called even: at least four fifths of the entropy of even attention."""

STANDARD_ERRORS = 2.0
"""Focus is called above or below the median layer's only beyond this many standard errors of its mean, about a 95% interval."""

MEDIAN_LAYERS = 4
"""Fewest layers whose median a layer is compared with."""

HEAVY_TAILS = 30.0
"""Kurtosis from which a layer's output has outliers: ten times a normal distribution's 3, where a few values set the quantization scale."""


def layer_readings(cell: LayersCell | None) -> tuple[LayerReading, ...]:
    """The statistics of every layer with their description; empty without a cell."""
    if cell is None:
        return ()
    focus = [s.attention.reasoning_focus for s in cell.layers if s.attention and s.attention.reasoning_focus is not None]
    typical = median(focus) if len(focus) >= MEDIAN_LAYERS else None
    return tuple(_reading(item, typical) for item in cell.layers)


def _reading(layer: LayerStatistics, typical: float | None) -> LayerReading:
    return LayerReading(
        statistics=layer,
        concentration=_concentration(layer.attention) if layer.attention else None,
        focus=_focus(layer.attention, typical) if layer.attention else None,
        typical_focus=typical,
        outliers=layer.kurtosis >= HEAVY_TAILS,
    )


def _concentration(attention: AttentionStatistics) -> Literal["concentrated", "broad", "even"]:
    value = attention.head_specialization
    return "concentrated" if value >= CONCENTRATED else "even" if value <= FLAT else "broad"


def _focus(attention: AttentionStatistics, typical: float | None) -> Literal["above", "below", "not told", "no yardstick", "undefined"]:
    value, spread, n = attention.reasoning_focus, attention.reasoning_focus_std, attention.reasoning_focus_sequences
    if value is None:
        return "undefined"
    if typical is None or spread is None or n < 2:
        return "no yardstick"
    if abs(value - typical) <= STANDARD_ERRORS * spread / math.sqrt(n):
        return "not told"
    return "above" if value > typical else "below"
