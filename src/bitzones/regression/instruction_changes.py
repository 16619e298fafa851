"""Whether a command of the deciding side executes more instructions than before. Counts nearly repeat, so no test is needed."""

from __future__ import annotations

from statistics import median

from bitzones.regression.comparison import Metric, Status
from bitzones.regression.decision_rule import Draft, settled
from bitzones.schema.instructions_cell import InstructionsCell

__all__ = ["instructions"]


def instructions(old: InstructionsCell, new: InstructionsCell, tolerance: float) -> Draft:
    """The one metric of a cell: worse or better where all counts of both sides agree that it changed by more than the tolerance."""
    if (old.counter, old.run_sha256) != (new.counter, new.run_sha256):
        what = f"counted by {new.counter} now and by {old.counter} before" if old.counter != new.counter else "counted on another run file"
        return settled(Metric(name="instructions", unit="instructions", status="incomparable", reason=what))
    least, most = min(new.counts) / max(old.counts), max(new.counts) / min(old.counts)
    status, reason = _word(least, most, tolerance)
    return settled(
        Metric(
            name="instructions",
            unit="instructions",
            status=status,
            old=float(median(old.counts)),
            new=float(median(new.counts)),
            as_ratio=True,
            n=min(len(old.counts), len(new.counts)),
            units="processes",
            tolerance=tolerance,
            reason=reason,
        )
    )


def _word(least: float, most: float, tolerance: float) -> tuple[Status, str]:
    if least > 1 + tolerance:
        return "worse", ""
    if most < 1 - tolerance:
        return "better", ""
    if 1 - tolerance <= least and most <= 1 + tolerance:
        return "same", ""
    return "inconclusive", f"processes do not agree: {least - 1:+.2%} to {most - 1:+.2%}"
