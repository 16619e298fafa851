"""What each variant costs: time per round with its spread, and bytes.

This module does not know how a round was timed, nor what a byte count means on which device: it carries every figure with its status.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitzones.decide.analysis import LatencyFigures, MemoryFigures
from bitzones.decide.sensitivity import INTERVAL_RESAMPLES
from bitzones.records import LatencyCell, MemoryCell
from bitzones.stats import ratio_of_medians

__all__ = ["latencies", "memories"]


def _shape(cell: LatencyCell) -> tuple[str, int, int, int]:
    return cell.phase, cell.batch, cell.prompt_tokens, cell.tokens


def latencies(cells: Iterable[LatencyCell], variants: dict[str, str], reference: str, seed: int) -> tuple[LatencyFigures, ...]:
    """Median, spread and ratio to the reference at the same shape, of every latency cell; one shape after the other."""
    cells = tuple(cells)
    shapes = [_shape(cell) for cell in cells]
    cells = tuple(sorted(cells, key=lambda cell: shapes.index(_shape(cell))))
    references = {_shape(cell): cell for cell in cells if cell.variant == reference}
    return tuple(_latency(cell, references.get(_shape(cell)), variants, seed) for cell in cells)


def _latency(cell: LatencyCell, reference: LatencyCell | None, variants: dict[str, str], seed: int) -> LatencyFigures:
    low, median, high, p95 = np.quantile(np.asarray(cell.rounds_s), [0.25, 0.5, 0.75, 0.95])
    ratio = None
    if reference is not None and reference.variant != cell.variant:
        ratio = ratio_of_medians(cell.rounds_s, reference.rounds_s, INTERVAL_RESAMPLES, seed)
    return LatencyFigures(
        variant=cell.variant,
        format=variants.get(cell.variant, cell.variant),
        phase=cell.phase,
        batch=cell.batch,
        prompt_tokens=cell.prompt_tokens,
        tokens=cell.tokens,
        rounds=len(cell.rounds_s),
        median_s=float(median),
        p95_s=float(p95),
        low_quartile_s=float(low),
        high_quartile_s=float(high),
        ratio=ratio,
        kernels=dict(sorted(cell.kernels.items())),
    )


def memories(cells: Iterable[MemoryCell], variants: dict[str, str], reference: str) -> tuple[MemoryFigures, ...]:
    """Stored bytes of every variant beside the reference's, and what the machine said of the process."""
    cells = tuple(cells)
    whole = next((cell.stored_bytes for cell in cells if cell.variant == reference), None)
    return tuple(
        MemoryFigures(
            variant=cell.variant,
            format=variants.get(cell.variant, cell.variant),
            stored_bytes=cell.stored_bytes,
            stored_bytes_by_format=dict(sorted(cell.stored_bytes_by_format.items())),
            share_of_reference=cell.stored_bytes / whole if whole else None,
            process={
                "rss": cell.process_rss,
                "peak_rss": cell.process_peak_rss,
                "device_allocated": cell.device_allocated,
                "device_used": cell.device_used,
            },
        )
        for cell in cells
    )
