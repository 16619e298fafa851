"""A cell, or the record of why there is none."""

from __future__ import annotations

from collections.abc import Callable

from bitzones.schema.cells import Cell, FailedCell
from bitzones.schema.errors import NotMeasuredError

__all__ = ["attempted", "reason_of"]

LONGEST_REASON = 300
"""Characters of an exception's message in a file."""


def attempted(of: str, variant: str, detail: str, make: Callable[[], Cell]) -> Cell:
    """What ``make`` measures, or a failed cell with its reason: whatever a release raises is a result."""
    try:
        return make()
    except NotMeasuredError as error:
        return FailedCell(variant=variant, of=of, detail=detail, status="not measured", reason=str(error))
    except Exception as error:  # noqa: BLE001 (a release may fail in any way, which is the result)
        return FailedCell(variant=variant, of=of, detail=detail, reason=reason_of(error))


def reason_of(error: Exception) -> str:
    """The kind of an error and its message in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}"
