"""Whether a cell was timed beside other work, or under a power or thermal limit: such times judge nothing."""

from __future__ import annotations

import numpy as np

from bitzones.schema.records import LatencyCell

__all__ = ["contended_by"]

GPU_SPREAD = 0.03
"""Of the median, for the middle 80% of a GPU cell's rounds. Kernels repeat themselves: compiled decoding and full prompts on an H200 lay
within 1.2%, what waits for the processor between 5% and 57% apart, and such a median moved by half between two runs."""


def contended_by(cell: LatencyCell) -> tuple[str, ...]:
    """What makes a cell's times doubtful: what the run itself saw, and on a GPU rounds that differ, for its kernels repeat themselves."""
    seen = cell.gpu.contended if cell.gpu is not None else ()
    if cell.device_rounds_s is None:
        return seen
    low, middle, high = np.quantile(np.asarray(cell.rounds_s), [0.1, 0.5, 0.9])
    if high - low <= GPU_SPREAD * middle:
        return seen
    return (*seen, f"the middle 80% of {len(cell.rounds_s)} rounds differ by {(high - low) / middle:.0%}, as kernels alone do not")
