"""The five verdicts on a change, and the one rule that reaches them: worse, equivalent, non-inferior, better, inconclusive."""

from __future__ import annotations

import math
from typing import Literal

from bitzones.stats.intervals import ALPHA, Estimate, Statistic, paired_difference
from bitzones.stats.significance import mcnemar_exact

__all__ = ["NON_INFERIORITY_MARGIN", "NON_INFERIORITY_NATS", "Verdict", "verdict", "verdict_nats"]

NON_INFERIORITY_MARGIN = 0.03
"""'Non-inferior' is said only where a loss above 3 points is excluded: a wider statement would excuse losses that users notice."""

NON_INFERIORITY_NATS = 0.03
"""The same margin for the likelihood of right answers: exp(-0.03) is 3% less probability per answer token."""

Word = Literal["worse", "equivalent", "non-inferior", "better", "inconclusive"]

MeasureUnit = Literal["share", "nats per token"]


class Verdict(Statistic):
    """One of five fixed answers: ``worse``, ``equivalent`` or ``non-inferior`` with a margin, ``better``, ``inconclusive``."""

    word: Word
    """The answer."""
    within: float | None = None
    """The largest loss that the data do not exclude, in ``unit``, or the largest change either way; only with 'non-inferior' and with
    'equivalent'."""
    unit: MeasureUnit = "share"
    """Of ``within``: a share of the items (0.012 is 1.2 points), or nats per answer token."""

    def __str__(self) -> str:
        if self.within is None:
            return self.word
        if self.unit == "share":
            return f"{self.word} (margin {math.ceil(self.within * 1000 - 1e-9) / 10:.1f} points)"
        return f"{self.word} (margin {math.ceil(self.within * 1000 - 1e-9) / 1000:.3f} nats/token)"


def verdict(lost: int, gained: int, n: int, margin: float = NON_INFERIORITY_MARGIN, p_value: float | None = None) -> Verdict:
    """What n paired items can say about a change: items that were right and are now wrong (lost), and the reverse (gained).

    ``worse`` and ``better`` need p below `ALPHA`. ``equivalent`` with margin X needs the 95% interval of the difference to exclude any loss
    and any gain above ``margin``, and X is the largest of them that it does not exclude: two one-sided tests (Schuirmann 1987, J.
    Pharmacokin. Biopharm. 15:657), each at half of `ALPHA`. ``non-inferior`` with margin X asks the same of losses only. Everything else is
    ``inconclusive``.

    Args:
        lost: items.
        gained: items.
        n: items.
        margin: a share.
        p_value: McNemar's, corrected for the family of tests that it belongs to (`holm`); that of this test alone where None.

    >>> str(verdict(lost=40, gained=5, n=500)), str(verdict(lost=2, gained=1, n=500)), str(verdict(lost=2, gained=0, n=20))
    ('worse', 'equivalent (margin 1.1 points)', 'inconclusive')
    >>> str(verdict(lost=6, gained=11, n=400))
    'non-inferior (margin 0.9 points)'
    """
    if (mcnemar_exact(lost, gained) if p_value is None else p_value) < ALPHA:
        return Verdict(word="worse" if lost > gained else "better")
    difference = paired_difference(lost, gained, n)
    return _within(-difference.low, difference.high, margin, "share")


def _within(loss: float, gain: float, margin: float, unit: MeasureUnit) -> Verdict:
    """What the largest loss and the largest gain that the data do not exclude say."""
    largest_loss, largest_change = max(0.0, loss), max(0.0, loss, gain)
    if largest_change <= margin:
        return Verdict(word="equivalent", within=largest_change, unit=unit)
    if largest_loss <= margin:
        return Verdict(word="non-inferior", within=largest_loss, unit=unit)
    return Verdict(word="inconclusive", unit=unit)


def verdict_nats(difference: Estimate, p_value: float, margin: float = NON_INFERIORITY_NATS) -> Verdict:
    """The same five answers about a rise of negative log-likelihood, in nats per answer token.

    Args:
        difference: variant minus reference; without an interval the answer is ``inconclusive``.
        p_value: of no difference (`bootstrap_p`), corrected for the family of tests that it belongs to.
        margin: nats per token.

    >>> from bitzones.stats.intervals import Interval
    >>> str(verdict_nats(Interval(value=0.01, low=-0.005, high=0.0201), 0.3))
    'equivalent (margin 0.021 nats/token)'
    >>> str(verdict_nats(Interval(value=-0.02, low=-0.05, high=0.0101), 0.3))
    'non-inferior (margin 0.011 nats/token)'
    """
    if difference.low is None or difference.high is None:
        return Verdict(word="inconclusive", unit="nats per token")
    if p_value < ALPHA:
        return Verdict(word="worse" if difference.value > 0 else "better", unit="nats per token")
    return _within(difference.high, -difference.low, margin, "nats per token")
