"""The identity of a cell: what it measures, whatever its benchmark is called. Two cells of one key measure the same thing."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CellKey"]


class CellKey(NamedTuple):
    """Kind, variant and detail of a cell; a failed cell has the key of the result that it stands for.

    >>> str(CellKey("latency", "w4", "decode-b1-p64-n16")), str(CellKey("memory", "w4"))
    ('latency w4 decode-b1-p64-n16', 'memory w4')
    """

    kind: str
    variant: str
    detail: str = ""
    """What tells cells of one kind and variant apart: the task, or the name of the shape that was timed (`profile.Timing.name`)."""

    def __str__(self) -> str:
        return " ".join(step for step in self if step)
