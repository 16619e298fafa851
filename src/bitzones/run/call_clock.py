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

TRIES = 100
"""Readings of both clocks until none falls on another side of a wait than the other: one or two, unless the machine is very busy."""


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
    queued, began = _both_clocks()
    call()
    until, ended = _both_clocks()
    return Called(ended - began, max(0.0, min(ended - began, (until - queued) / 1e9)))


def _both_clocks() -> tuple[int, float]:
    """Nanoseconds waited so far and the time, between which the thread did not wait."""
    queued, now, again = queued_ns(), perf_counter(), queued_ns()
    for _ in range(TRIES):
        if again == queued:
            break
        queued, now, again = again, perf_counter(), queued_ns()
    return again, now
