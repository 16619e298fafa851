"""Whether a cell was timed beside other work or under a power or thermal limit, so that its times are not comparable."""

from __future__ import annotations

import numpy as np

from bitzones.schema.performance_cells import LatencyCell

__all__ = ["contended_by"]

GPU_SPREAD = 0.03
"""Most spread of the middle 80% of a GPU cell's rounds, by the median. On an H200, compiled decoding and full prompts stayed within 1.2%;
CPU-bound decoding spread by 5% to 57%, and its median moved by half between two runs."""


def contended_by(cell: LatencyCell) -> tuple[str, ...]:
    """Reasons to doubt a cell's times: what the driver reported, and on a GPU a large spread of the rounds."""
    seen = cell.gpu.contended if cell.gpu is not None else ()
    if cell.device_rounds_s is None:
        return seen
    low, middle, high = np.quantile(np.asarray(cell.rounds_s), [0.1, 0.5, 0.9])
    if high - low <= GPU_SPREAD * middle:
        return seen
    return (*seen, f"the middle 80% of {len(cell.rounds_s)} rounds spread by {(high - low) / middle:.0%}, more than kernels alone do")
