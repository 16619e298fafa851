"""Energy of a GPU per token, over a window long enough for the driver's counter to be read, what it draws when idle subtracted.

The counter is of the whole GPU, in millijoules, and renews every 20 to 100 ms; other processes on the GPU are in it. This module does not
know what runs; it gives null where the driver does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bitzones.devices.nvml import Gpu, missing
from bitzones.schema.performance_cells import Energy
from bitzones.schema.record import Figure

__all__ = ["IDLE_S", "WINDOW_S", "idle_watts", "per_token"]

WINDOW_S = 2.0
"""Twenty times the counter's slowest period: its steps are then at most a twentieth of what is read."""

IDLE_S = 1.0
"""Of doing nothing, with the models in memory, to know what the GPU draws anyway."""


def idle_watts(gpu: Gpu, window_s: float = IDLE_S) -> Figure:
    """Mean power of the GPU while nothing is given to it."""
    before, began = gpu.energy_joules(), time.perf_counter()
    if before.value is None:
        return missing("W", before.status)
    time.sleep(window_s)
    after = gpu.energy_joules()
    if after.value is None:
        return missing("W", after.status)
    return Figure(value=(after.value - before.value) / (time.perf_counter() - began), unit="W", status="ok")


def per_token(gpu: Gpu, idle: Figure, run: Callable[[], None], tokens: int, window_s: float = WINDOW_S) -> Energy:
    """Joules per token above idle.

    Args:
        gpu: whose counter is read.
        idle: watts, of `idle_watts`.
        run: makes ``tokens`` tokens and waits for the device; repeated until the window is full.
        tokens: made by one ``run``.
        window_s: how long to go on at least.
    """
    before = gpu.energy_joules()
    if before.value is None or idle.value is None:
        return Energy(per_token=missing("J/token", idle.status if before.value is not None else before.status), idle=idle)
    began, made = time.perf_counter(), 0
    while (took := time.perf_counter() - began) < window_s or not made:
        run()
        made += tokens
    after = gpu.energy_joules()
    if after.value is None:
        return Energy(per_token=missing("J/token", after.status), idle=idle)
    above = after.value - before.value - idle.value * took
    if above <= 0:  # a token costs something: the window did not show it
        return Energy(per_token=missing("J/token", "not seen above idle"), idle=idle, window_s=took, tokens=made)
    return Energy(per_token=Figure(value=above / made, unit="J/token", status="ok"), idle=idle, window_s=took, tokens=made)
