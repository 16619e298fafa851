"""The four verdicts on a change, and the one rule that reaches them: worse, non-inferior, better, inconclusive."""

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

Word = Literal["worse", "non-inferior", "better", "inconclusive"]

MeasureUnit = Literal["share", "nats per token"]


class Verdict(Statistic):
    """One of four fixed answers: ``worse``, ``non-inferior`` with a margin, ``better``, ``inconclusive``."""

    word: Word
    """The answer."""
    within: float | None = None
    """The largest loss that the data do not exclude, in ``unit``; only with 'non-inferior'."""
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

    ``worse`` and ``better`` need p below `ALPHA`; ``non-inferior`` with margin X needs the 95% interval of the difference to exclude any
    loss above ``margin``, and X is the largest loss it does not exclude; everything else is ``inconclusive``.

    Args:
        lost: items.
        gained: items.
        n: items.
        margin: a share.
        p_value: McNemar's, corrected for the family of tests that it belongs to (`holm`); that of this test alone where None.

    >>> str(verdict(lost=40, gained=5, n=500)), str(verdict(lost=2, gained=1, n=500)), str(verdict(lost=2, gained=0, n=20))
    ('worse', 'non-inferior (margin 1.1 points)', 'inconclusive')
    """
    if (mcnemar_exact(lost, gained) if p_value is None else p_value) < ALPHA:
        return Verdict(word="worse" if lost > gained else "better")
    largest_loss = max(0.0, -paired_difference(lost, gained, n).low)
    return Verdict(word="non-inferior", within=largest_loss) if largest_loss <= margin else Verdict(word="inconclusive")


def verdict_nats(difference: Estimate, p_value: float, margin: float = NON_INFERIORITY_NATS) -> Verdict:
    """The same four answers about a rise of negative log-likelihood, in nats per answer token.

    Args:
        difference: variant minus reference; without an interval the answer is ``inconclusive``.
        p_value: of no difference (`bootstrap_p`), corrected for the family of tests that it belongs to.
        margin: nats per token.

    >>> from bitzones.stats.intervals import Interval
    >>> str(verdict_nats(Interval(value=0.01, low=-0.005, high=0.0201), 0.3))
    'non-inferior (margin 0.021 nats/token)'
    """
    if difference.high is None:
        return Verdict(word="inconclusive", unit="nats per token")
    if p_value < ALPHA:
        return Verdict(word="worse" if difference.value > 0 else "better", unit="nats per token")
    largest_loss = max(0.0, difference.high)
    if largest_loss <= margin:
        return Verdict(word="non-inferior", within=largest_loss, unit="nats per token")
    return Verdict(word="inconclusive", unit="nats per token")
