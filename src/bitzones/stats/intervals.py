"""Estimates with their 95% intervals, and the intervals of proportions in closed form."""

from __future__ import annotations

import math
from statistics import NormalDist

from pydantic import ConfigDict, model_validator

from bitzones.schema.record import Record

__all__ = [
    "ALPHA",
    "CONFIDENCE",
    "MIN_SEQUENCES",
    "Estimate",
    "Interval",
    "Statistic",
    "normal_quantile",
    "paired_difference",
    "wilson_interval",
]

CONFIDENCE = 0.95
"""Confidence level of every interval: the one that readers assume if none is named."""

ALPHA = 1 - CONFIDENCE
"""A difference is significant if its two-sided p-value is below this: the same 5% that the intervals leave out."""

MIN_SEQUENCES = 20
"""Below this many samples a percentile bootstrap covers clearly less than its nominal level (Davison & Hinkley 1997, ch. 5)."""


class Statistic(Record):
    """A record whose field docstrings become descriptions in the JSON schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Estimate(Statistic):
    """An estimate with its 95% interval, in the unit of its field. Both ends are null if there are too few samples for an interval."""

    value: float
    """The estimate from all the data."""
    low: float | None
    """Lower end of the 95% interval; null below `MIN_SEQUENCES` samples."""
    high: float | None
    """Upper end of the 95% interval; null below `MIN_SEQUENCES` samples."""

    @model_validator(mode="after")
    def _both_ends(self) -> Estimate:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends or none")
        return self

    @property
    def interval(self) -> Interval | None:
        """This estimate as an `Interval`; None if it has no ends."""
        return None if self.low is None or self.high is None else Interval(value=self.value, low=self.low, high=self.high)


class Interval(Estimate):
    """An estimate with its 95% interval, in the unit of the field that holds it."""

    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end of the 95% interval."""


def normal_quantile(probability: float) -> float:
    """The z-score below which a standard normal variable falls with this probability."""
    return NormalDist().inv_cdf(probability)


def wilson_interval(k: int, n: int) -> Interval:
    """Share k/n with its Wilson score 95% interval (Wilson 1927, JASA 22:209), which behaves at 0 and at 1.

    Raises:
        ValueError: n is not positive or k is not in 0..n.

    >>> interval = wilson_interval(8, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.49, 0.943)
    """
    if n <= 0 or not 0 <= k <= n:
        raise ValueError(f"k={k} of n={n} is not a share")
    share, z = k / n, normal_quantile(1 - ALPHA / 2)
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Interval(value=share, low=max(0.0, center - half) if k else 0.0, high=min(1.0, center + half) if k < n else 1.0)


def paired_difference(lost: int, gained: int, n: int) -> Interval:
    """Difference of two paired shares, (gained - lost)/n, with the adjusted Wald 95% interval of Bonett & Price (2012, JEBS 37:479).

    The interval is centred on (gained - lost)/(n + 2), which is why the estimate need not lie in its middle.
    """
    p_gained, p_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    center = p_gained - p_lost
    half = normal_quantile(1 - ALPHA / 2) * math.sqrt((p_gained + p_lost - center * center) / (n + 2))
    return Interval(value=(gained - lost) / n, low=max(-1.0, center - half), high=min(1.0, center + half))
