"""Times one call: the time that passed, and the part of it in which another process had the core.

Linux counts for every thread how long it was ready to run and waited for a core (``schedstat``, the second number, in nanoseconds). On a
shared machine that is most of the time that passes and all of its bursts; sleeping and waiting for locks or disks is not in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter
from typing import NamedTuple

__all__ = ["Called", "queued_ns", "timed_call"]

STATISTICS = "/proc/thread-self/schedstat"


class Called(NamedTuple):
    """Seconds that passed, and the part of them in which the thread waited for a core."""

    wall_s: float
    queued_s: float


def queued_ns() -> int:
    """Nanoseconds for which this thread has waited for a core so far; 0 where the system does not count."""
    with suppress(OSError, ValueError, IndexError):
        handle = os.open(STATISTICS, os.O_RDONLY)
        try:
            return int(os.read(handle, 128).split()[1])
        finally:
            os.close(handle)
    return 0


def timed_call(call: Callable[[], object]) -> Called:
    """Call, and time it."""
    queued, began = queued_ns(), perf_counter()
    call()
    wall = perf_counter() - began
    return Called(wall, min(wall, (queued_ns() - queued) / 1e9))
