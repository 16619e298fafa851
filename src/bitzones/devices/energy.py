"""Energy per token of a GPU above idle, over a window that is long compared with the driver's counter.

The counter covers the whole GPU, other processes included, counts millijoules, and is updated every 20 to 100 ms. Figures are null if the
driver has no such counter.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bitzones.devices.nvml import Gpu, missing
from bitzones.schema.performance_cells import Energy
from bitzones.schema.record import Figure

__all__ = ["IDLE_S", "WINDOW_S", "idle_watts", "per_token"]

WINDOW_S = 2.0
"""Twenty times the counter's slowest update: a step is then at most a twentieth of the reading."""

IDLE_S = 1.0
"""Idle window, with the models in memory, to measure what the GPU draws anyway."""


def idle_watts(gpu: Gpu, window_s: float = IDLE_S) -> Figure:
    """Mean power of the idle GPU, in watts."""
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
        gpu: the GPU whose counter is read.
        idle: watts, from `idle_watts`.
        run: generates ``tokens`` tokens and waits for the device; repeated until the window is over.
        tokens: number of tokens that one ``run`` generates.
        window_s: minimum duration in seconds.
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
    if above <= 0:  # a token cannot cost nothing: the window was too short to show it
        return Energy(per_token=missing("J/token", "not seen above idle"), idle=idle, window_s=took, tokens=made)
    return Energy(per_token=Figure(value=above / made, unit="J/token", status="ok"), idle=idle, window_s=took, tokens=made)
