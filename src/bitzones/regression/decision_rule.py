"""How a measured change becomes a status: one rule for times, accuracies and KLs, corrected for the number of tests.

A change is ``worse`` if the hypothesis that it is within the tolerance is rejected, ``better`` if the hypothesis that it is no better than
the tolerance is rejected, ``same`` if its 95% interval excludes a deterioration above the tolerance, else ``inconclusive``. A run has
hundreds of such tests, so p-values are corrected (Holm) within each of three families (times, accuracies, KLs), and each family gets a
third of the 5%: two runs of the same thing show any ``worse`` in at most 5% of comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from bitzones.regression.comparison import Metric, Status
from bitzones.stats.intervals import ALPHA
from bitzones.stats.significance import POWER, holm

__all__ = ["FAMILIES", "Draft", "Family", "decided", "normal_p", "samples_needed", "settled"]

Family = Literal["time", "accuracy", "kl"]
FAMILIES: tuple[Family, ...] = ("time", "accuracy", "kl")

FAMILY_ALPHA = ALPHA / len(FAMILIES)
"""Of each family: a Bonferroni share, so that hundreds of KLs do not take the times' power away."""


@dataclass(frozen=True)
class Draft:
    """A metric before the correction; with ``family`` None it is decided already.

    ``p_worse`` and ``p_better`` are one-sided. ``within`` says that the interval excludes a change for the worse above the tolerance.
    ``spread`` is the standard error of the change and ``margin`` the tolerance, on one scale: they say how many units would do. No number
    of units takes the ``floor`` out of the spread, and ``doubt`` says so where that is too much.
    """

    metric: Metric
    family: Family | None = None
    p_worse: float = 1.0
    p_better: float = 1.0
    within: bool = False
    spread: float = field(default=0.0)
    margin: float = field(default=0.0)
    floor: float = field(default=0.0)
    doubt: str = ""


def settled(metric: Metric) -> Draft:
    """A metric that needs no test: exact, missing or incomparable."""
    return Draft(metric)


def normal_p(estimate: float, spread: float) -> float:
    """One-sided p-value of a quantity being 0 or less, from its estimate and standard error; 0 or 1 where it has no spread.

    >>> round(normal_p(1.96, 1.0), 3)
    0.025
    """
    if spread <= 0 or not math.isfinite(estimate / spread):
        return 0.0 if estimate > 0 else 1.0
    return math.erfc(estimate / spread / math.sqrt(2)) / 2


def samples_needed(n: int, spread: float, margin: float, tests: int, floor: float = 0.0) -> int | None:
    """Units with which a change of twice the tolerance would be called with 80% power: its error falls with their square root.

    It does not fall below ``floor``. None where no number does: without a tolerance, or beyond any that could be measured.
    """
    if margin <= 0 or spread <= 0:
        return None
    wanted = margin / (NormalDist().inv_cdf(1 - FAMILY_ALPHA / tests) + NormalDist().inv_cdf(POWER))
    if wanted <= floor:
        return None
    count = n * (spread**2 - floor**2) / (wanted**2 - floor**2)
    return max(n + 1, math.ceil(count)) if count < 1e9 else None


def decided(drafts: Iterable[Draft]) -> list[Metric]:
    """Every draft as a metric with its word, in the order given."""
    found = list(drafts)
    metrics: list[Metric] = [draft.metric for draft in found]
    for family in FAMILIES:
        rows = [row for row, draft in enumerate(found) if draft.family == family]
        worse = holm([found[row].p_worse for row in rows])
        better = holm([found[row].p_better for row in rows])
        for row, p_worse, p_better in zip(rows, worse, better, strict=True):
            metrics[row] = _decided(found[row], p_worse, p_better, len(rows))
    return metrics


def _decided(draft: Draft, p_worse: float, p_better: float, tests: int) -> Metric:
    word: Status = "inconclusive"
    if p_worse < FAMILY_ALPHA:
        word = "worse"
    elif p_better < FAMILY_ALPHA:
        word = "better"
    elif draft.within:
        word = "same"
    metric = draft.metric.model_copy(update={"status": word, "p": p_worse})
    if word != "inconclusive":
        return metric
    needed = samples_needed(metric.n or 0, draft.spread, draft.margin, tests, draft.floor)
    doubt = draft.doubt if needed is None else ""
    said = metric.reason or doubt or f"the spread of {metric.n} {metric.units} is too large to see the tolerance"
    more = f"; about {needed:,} {metric.units} would be needed" if needed is not None else ""
    return metric.model_copy(update={"needed": needed, "reason": f"{said}{more}"})
