"""Which cores a duet runs on: those that do least for others at the moment."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["least_busy", "quiet_cores"]

WATCHED_S = 0.5
IDLE = (3, 4)
"""Columns of /proc/stat: idle, and waiting for a disk."""


def quiet_cores(count: int) -> tuple[int, ...]:
    """This many of the cores that this process may use, least busy first; none where there are no more, or the system cannot pin."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    stat = Path("/proc/stat")
    if count >= len(allowed) or not stat.is_file():
        return tuple(allowed[:count]) if count >= len(allowed) else ()
    before = _busy(stat.read_text(encoding="ascii"))
    time.sleep(WATCHED_S)
    return least_busy(before, _busy(stat.read_text(encoding="ascii")), allowed, count)


def least_busy(before: dict[int, int], after: dict[int, int], allowed: Sequence[int], count: int) -> tuple[int, ...]:
    """The cores whose busy time has grown least."""
    return tuple(sorted(allowed, key=lambda core: (after.get(core, 0) - before.get(core, 0), core))[:count])


def _busy(text: str) -> dict[int, int]:
    """Core -> ticks in which it was not idle, of /proc/stat."""
    found = {}
    for line in text.splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            found[int(name[3:])] = sum(int(tick) for column, tick in enumerate(ticks[:8]) if column not in IDLE)
    return found
