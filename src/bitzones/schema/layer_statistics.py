"""Activation and attention statistics of the reference, one record per layer."""

from __future__ import annotations

from typing import Literal

from bitzones.schema.record import Count, Finite, Layers, Measured, NonNegative, Record, Share

__all__ = ["AttentionStatistics", "LayerStatistics", "LayersCell"]


class AttentionStatistics(Record):
    """Attention of one layer, over heads and the query positions of non-padding tokens.

    ``entropy_nats`` is the mean entropy; ``head_specialization`` is 1 - H/ln(visible keys), averaged over positions with at least two
    visible keys; ``reasoning_focus`` is the share of the answer position's attention on the question's content, without the first token;
    null if no sequence has such content.
    """

    entropy_nats: NonNegative
    entropy_nats_by_head: tuple[NonNegative, ...]
    head_specialization: Share
    reasoning_focus: Share | None
    reasoning_focus_std: NonNegative | None
    reasoning_focus_sequences: Count


class LayerStatistics(Record):
    """One layer's output over scored tokens: ``sparsity`` is the share of |x| < 0.01 std, ``kurtosis`` is 3 for a normal distribution."""

    layer: Layers
    mean: Finite
    std: NonNegative
    magnitude: NonNegative
    peak: NonNegative
    sparsity: Share
    kurtosis: NonNegative
    attention: AttentionStatistics | None


class LayersCell(Measured):
    """Activation and attention statistics of every layer."""

    kind: Literal["layers"] = "layers"
    sequences: Count
    tokens: Count
    layers: tuple[LayerStatistics, ...]
