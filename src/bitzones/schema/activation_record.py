"""activations.json: what the thresholds of a run's rules of thumb say about a model in use."""

from __future__ import annotations

from bitzones.schema.record import Count, Finite, Record, Share

__all__ = ["LayerCrossing", "RuleWatch", "ThresholdReading"]


class LayerCrossing(Record):
    """A layer whose statistic lies on the other side of a rule's threshold than in the run."""

    layer: Count
    run: Finite
    served: Finite
    low: Finite
    high: Finite


class RuleWatch(Record):
    """One rule of thumb with a threshold, beside the audit's verdict on it. ``crossed`` has layers whose interval excludes the threshold;
    ``flagged`` and ``flagged_in_run`` are the layers beyond the threshold."""

    rule: str
    statistic: str
    threshold: Finite
    verdict: str
    flagged_in_run: tuple[Count, ...]
    flagged: tuple[Count, ...]
    crossed: tuple[LayerCrossing, ...]


class ThresholdReading(Record):
    """The thresholds of activations on ``sampled`` of the passes of a model in memory; ``failed`` ones had NaN or infinity in them."""

    at: str
    rate: Share
    passes: Count
    sampled: Count
    failed: Count = 0
    rules: tuple[RuleWatch, ...] = ()
