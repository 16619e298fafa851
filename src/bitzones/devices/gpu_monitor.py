"""Samples a GPU while a cell runs: peak memory use, other processes, and throttled clocks, which make times doubtful.

A thread queries the driver every `PERIOD_S`, and once more at each end. Anything between two samples is missed, so every peak is recorded
together with the sampling period, the number of samples and their coverage.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from types import TracebackType

from bitzones.devices.nvml import Gpu, missing
from bitzones.schema.performance_cells import GpuWatch
from bitzones.schema.record import Figure

__all__ = ["PERIOD_S", "Watch"]

PERIOD_S = 0.05
"""The driver updates its counters every 20 to 100 ms, and a query takes well under a millisecond."""

HELD_SHARE = 0.05
"""Share of samples with throttled clocks above which a cell's times are doubtful. One sample in twenty does not move a median."""


class Watch:
    """Samples a GPU inside a ``with`` block; `reading` returns the result afterwards.

    If the GPU cannot be queried, no thread is started and every figure holds the reason.

    Args:
        gpu: the GPU to sample.
        period_s: seconds between two samples.
    """

    def __init__(self, gpu: Gpu, period_s: float = PERIOD_S) -> None:
        self._gpu, self._period_s, self._pid = gpu, period_s, os.getpid()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bitzones-gpu-watch", daemon=True)
        self._times: list[float] = []
        self._peaks: dict[str, Figure] = {}
        self._held: Counter[str] = Counter()
        self._held_any, self._clock_samples, self._clock_status = 0, 0, gpu.status

    def __enter__(self) -> Watch:
        self._sample()
        if self._gpu.handle is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._sample()

    def _sample(self) -> None:
        gpu, pid = self._gpu, self._pid
        for name, figure in (("used", gpu.used_bytes()), ("process", gpu.process_bytes(pid)), ("others", gpu.other_processes(pid))):
            before = self._peaks.get(name)
            if before is None or before.value is None or (figure.value is not None and figure.value > before.value):
                self._peaks[name] = figure
        held = gpu.clocks_held()
        if isinstance(held, str):
            self._clock_status = held
        else:
            self._clock_samples += 1
            self._held_any += bool(held)
            self._held.update(held)
        self._times.append(time.perf_counter())

    def reading(self) -> GpuWatch:
        """The result. A peak is the largest sample, and is given if at least one sample succeeded."""
        asked = self._gpu.handle is not None
        clocks = (
            Figure(value=self._held_any / self._clock_samples, unit="share", status="ok")
            if self._clock_samples
            else missing("share", self._clock_status)
        )
        held = {reason: count / self._clock_samples for reason, count in sorted(self._held.items())}
        others = self._peaks["others"]
        contended = [f"{reason} in {share:.0%} of {self._clock_samples} samples" for reason, share in held.items() if share > HELD_SHARE]
        if others.value:
            contended.append(f"{others.value:.0f} other process{'es' if others.value > 1 else ''} on the GPU")
        return GpuWatch(
            device_used_peak=self._peaks["used"],
            process_used_peak=self._peaks["process"],
            other_processes=others,
            clocks_held_share=clocks,
            clocks_held=held,
            contended=tuple(contended),
            period_s=self._period_s,
            samples=len(self._times) if asked else 0,
            coverage=self._coverage() if asked else None,
        )

    def _coverage(self) -> float | None:
        """Share of the time covered by gaps of at most two periods: a starved thread leaves longer gaps."""
        gaps = [later - earlier for earlier, later in zip(self._times, self._times[1:], strict=False)]
        whole = sum(gaps)
        return sum(gap for gap in gaps if gap <= 2 * self._period_s) / whole if whole > 0 else None
