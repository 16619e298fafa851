"""Whether a release quantizes the requested modules, and whether its saved models can be loaded: yes or no, so there is nothing to test."""

from __future__ import annotations

from collections.abc import Sequence

from bitzones.regression.comparison import Metric, Status
from bitzones.regression.decision_rule import Draft, settled
from bitzones.schema.cells import ReleaseCell

__all__ = ["AS_ASKED", "RELOADED", "as_asked", "judge", "reloaded"]

AS_ASKED, RELOADED = "quantized as asked", "saved and loaded"
"""The metrics of such a cell."""


def judge(old: ReleaseCell, new: ReleaseCell) -> list[Draft]:
    """Both questions, each with what the new release does."""
    return [
        _draft(AS_ASKED, not (old.unasked or old.missed), not (new.unasked or new.missed), as_asked(new)),
        _draft(RELOADED, old.reload == "same", new.reload == "same", reloaded(new)),
    ]


def _draft(name: str, before: bool, now: bool, said: str) -> Draft:
    status: Status = "same" if before == now else "better" if now else "worse"
    return settled(Metric(name=name, unit="share", status=status, reason=said))


def as_asked(cell: ReleaseCell) -> str:
    """Which modules came out quantized, beside those that were asked for."""
    wrong = [*_some(cell.missed, "left as it was"), *_some(cell.unasked, "quantized unasked")]
    return f"{cell.modules} modules asked for" + "".join(f", {text}" for text in wrong)


def _some(names: Sequence[str], what: str) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{names[0]}{more} {what}"] if names else []


def reloaded(cell: ReleaseCell) -> str:
    """What a saved model is after it was loaded."""
    return "computes the same" if cell.reload == "same" else f"{cell.reload}: {cell.reason}"
