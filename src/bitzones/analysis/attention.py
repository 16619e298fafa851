"""What a layer's activation and attention statistics say in words, by named thresholds.

The words describe; they claim no cause and predict no sensitivity. Whether any of these statistics goes with measured sensitivity on a
model is a question of its own, and this module does not know its answer.
"""

from __future__ import annotations

import math
from statistics import median

from bitzones.analysis.results import LayerReading
from bitzones.schema.records import AttentionStatistics, LayersCell, LayerStatistics

__all__ = ["CONCENTRATED", "FLAT", "HEAVY_TAILS", "MEDIAN_LAYERS", "STANDARD_ERRORS", "layer_readings"]

CONCENTRATED = 0.5
"""Head specialization from which attention is called concentrated: at most half of the entropy of even attention on the same keys."""

FLAT = 0.2
"""Head specialization up to which attention is called nearly even: at least four fifths of the entropy of even attention."""

STANDARD_ERRORS = 2.0
"""Focus is called above or below the median layer's only beyond this many standard errors of its mean, about a 95% interval."""

MEDIAN_LAYERS = 4
"""A median over fewer layers is no yardstick for one of them."""

HEAVY_TAILS = 30.0
"""Kurtosis from which outliers are named: ten times a normal law's 3, where a few values take up the range that a scale has to cover."""


def layer_readings(cell: LayersCell | None) -> tuple[LayerReading, ...]:
    """Every layer of the cell with its interpretation; empty without a cell."""
    if cell is None:
        return ()
    focus = [s.attention.reasoning_focus for s in cell.layers if s.attention and s.attention.reasoning_focus is not None]
    typical = median(focus) if len(focus) >= MEDIAN_LAYERS else None
    return tuple(LayerReading(**dict(item), interpretation=_words(item, typical)) for item in cell.layers)


def _words(layer: LayerStatistics, typical: float | None) -> str:
    words = [_concentration(layer.attention), _focus(layer.attention, typical)] if layer.attention else ["attention not measured"]
    if layer.kurtosis >= HEAVY_TAILS:
        words.append(f"outliers in the output (kurtosis {layer.kurtosis:.3g}, peak {layer.peak:.3g})")
    return "; ".join(word for word in words if word)


def _concentration(attention: AttentionStatistics) -> str:
    value = attention.head_specialization
    if value >= CONCENTRATED:
        return f"heads concentrate on few positions (specialization {value:.2f}, at or above {CONCENTRATED:g})"
    if value <= FLAT:
        return f"heads attend nearly evenly (specialization {value:.2f}, at or below {FLAT:g})"
    return f"heads attend broadly, not evenly (specialization {value:.2f}, between {FLAT:g} and {CONCENTRATED:g})"


def _focus(attention: AttentionStatistics, typical: float | None) -> str:
    value, spread, n = attention.reasoning_focus, attention.reasoning_focus_std, attention.reasoning_focus_sequences
    if value is None:
        return "focus on the question not defined: no sequence has such content"
    if typical is None or spread is None or n < 2:
        return f"focus on the question {value:.2f}, n={n}: cannot tell whether that is much for this model"
    room = STANDARD_ERRORS * spread / math.sqrt(n)
    if abs(value - typical) <= room:
        return f"focus on the question {value:.2f}, n={n}: cannot tell it from the median layer's {typical:.2f}"
    side = "above" if value > typical else "below"
    return f"focus on the question {value:.2f}, n={n}: {side} the median layer's {typical:.2f}"
