"""What each variant costs: seconds per round with their spread, and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from bitzones.allocation import time_cost
from bitzones.analysis.contention import contended_by
from bitzones.analysis.cost_figures import LatencyFigures, MemoryFigures, PlanTime, ShapeFigures, SlowPath, UnitLatencyFigures
from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.plan import Plan
from bitzones.schema.performance_cells import LatencyCell, MemoryCell, ShapeTimes, UnitLatencyCell
from bitzones.schema.profile import PLAN
from bitzones.stats.bootstrap import ratio_of_medians

__all__ = ["latencies", "memories", "roofline_s", "slow_path", "unit_latency"]

SLOW = 1.5
"""A quantized kernel that takes half as long again as the dense product is worth a warning."""


def slow_path(cell: LatencyCell, slower: float | None) -> SlowPath | None:
    """Why a variant is slower than the reference, where its kernels are a likely reason: no fused one, or slow ones; else None.

    Args:
        cell: the variant's.
        slower: its median time by the reference's; None where the interval does not lie above 1.

    >>> from bitzones.schema.performance_cells import LatencyCell
    >>> cell = LatencyCell(
    ...     variant="w2", phase="decode", batch=1, prompt_tokens=8, tokens=4, warmup_rounds=3, rounds_s=[1.0], kernels={"plain": 84},
    ...     kernel_kinds={"plain": "unpacked"},
    ... )
    >>> slow_path(cell, 3.1)
    SlowPath(code='unpacked', times=3.1, modules=84, of=84, kernels=('plain',))
    """
    if slower is None or slower <= 1:
        return None
    unpacked = sorted(name for name in cell.kernels if cell.kernel_kinds.get(name) == "unpacked")
    if unpacked and cell.phase == "decode":  # a prompt is long enough to make unpacking cheap
        return _slow_path("unpacked", cell, slower, unpacked)
    quantized = sorted(name for name in cell.kernels if cell.kernel_kinds.get(name) in ("fused", "unpacked"))
    return _slow_path("slow_kernel", cell, slower, quantized) if quantized and slower >= SLOW else None


def _slow_path(code: Literal["unpacked", "slow_kernel"], cell: LatencyCell, slower: float, names: list[str]) -> SlowPath:
    modules = sum(cell.kernels[name] for name in names)
    return SlowPath(code=code, times=slower, modules=modules, of=sum(cell.kernels.values()), kernels=tuple(names))


def roofline_s(cell: LatencyCell) -> float | None:
    """The least seconds that a round of decoding takes: the bytes that its steps read, by memory bandwidth.

    None for prefill, which is compute-bound, and where bytes or bandwidth were not measured.
    """
    if cell.phase != "decode" or cell.weight_bytes is None or cell.bandwidth is None or not cell.bandwidth.value:
        return None
    steps = cell.tokens / cell.batch
    return steps * (cell.weight_bytes + (cell.cache_bytes or 0)) / cell.bandwidth.value


def latencies(cells: Iterable[LatencyCell], variants: dict[str, str], reference: str, seed: int) -> tuple[LatencyFigures, ...]:
    """Median, spread and ratio to the reference at the same shape, for every latency cell, shape by shape."""
    cells = tuple(cells)
    shapes = [cell.timing for cell in cells]
    cells = tuple(sorted(cells, key=lambda cell: shapes.index(cell.timing)))
    of_reference = sorted((cell for cell in cells if cell.variant == reference), key=lambda cell: len(cell.shortages), reverse=True)
    references = {cell.timing: cell for cell in of_reference}  # of two cells at one shape, the one whose batch was asked for wins
    compiled = {(cell.variant, cell.timing): cell for cell in cells if cell.compiled}
    return tuple(
        _latency(cell, references.get(cell.timing), compiled.get((cell.variant, replace(cell.timing, compiled=True))), variants, seed)
        for cell in cells
    )


def _latency(
    cell: LatencyCell, reference: LatencyCell | None, compiled: LatencyCell | None, variants: dict[str, str], seed: int
) -> LatencyFigures:
    low, median, high, p95 = np.quantile(np.asarray(cell.rounds_s), [0.25, 0.5, 0.75, 0.95])
    ratio = None
    if reference is not None and reference.variant != cell.variant:
        ratio = ratio_of_medians(cell.rounds_s, reference.rounds_s, INTERVAL_RESAMPLES, seed)
    roofline = roofline_s(cell)
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
        kernels_by_group=cell.kernels_by_group,
        compiled=cell.compiled,
        times_compiled=None if cell.compiled or compiled is None else float(median / np.median(compiled.rounds_s)),
        device_median_s=None if cell.device_rounds_s is None else float(np.median(cell.device_rounds_s)),
        roofline_s=roofline,
        times_roofline=float(median) / roofline if roofline else None,
        slow_path=slow_path(cell, ratio.value if ratio and ratio.low is not None and ratio.low > 1 else None),
        joules_per_token=cell.energy.per_token if cell.energy else None,
        static_cache_refused=cell.static_cache_refused,
        warmup_stable=cell.warmup_stable,
        contended=contended_by(cell),
        asked_batch=cell.asked_batch if cell.shortages else None,
    )


def unit_latency(cell: UnitLatencyCell, plan: Plan | None, formats: Iterable[str], reference: str, seed: int) -> UnitLatencyFigures:
    """Times of every sort of unit in every format, their sums over the model, and the formats that are slower than the reference."""
    timed = {item.format for item in cell.times}
    uniform = [name for name in (reference, *formats) if name in timed]
    chosen = {name: dict.fromkeys(cell.units, name) for name in uniform}
    if plan is not None and set(plan.units) <= set(cell.units) and set(plan.units.values()) <= timed:
        chosen[PLAN] = plan.units
    totals = tuple(
        PlanTime(
            name=name,
            seconds=time_cost.plan_s(cell, units, INTERVAL_RESAMPLES, seed),
            ratio=None if name == reference else time_cost.plan_ratio(cell, units, reference, INTERVAL_RESAMPLES, seed),
        )
        for name, units in chosen.items()
    )
    slower = [item.name for item in totals if item.name != PLAN and item.ratio is not None and (item.ratio.low or 0) > 1]
    counts = Counter(cell.units.values())
    references = {item.shapes: item for item in cell.times if item.format == reference}
    rows = tuple(_shape_figures(item, references.get(item.shapes), counts[item.shapes], seed) for item in cell.times)
    return UnitLatencyFigures(batch=cell.batch, shapes=rows, totals=totals, slower=tuple(slower))


def _shape_figures(item: ShapeTimes, reference: ShapeTimes | None, units: int, seed: int) -> ShapeFigures:
    low, median, high = np.quantile(np.asarray(item.rounds_per_unit_s), [0.25, 0.5, 0.75])
    ratio = None
    if reference is not None and reference is not item:
        ratio = ratio_of_medians(item.rounds_per_unit_s, reference.rounds_per_unit_s, INTERVAL_RESAMPLES, seed)
    return ShapeFigures(
        shapes=item.shapes,
        units=units,
        format=item.format,
        rounds=len(item.rounds_s),
        median_s=float(median),
        low_quartile_s=float(low),
        high_quartile_s=float(high),
        ratio=ratio,
    )


def memories(cells: Iterable[MemoryCell], variants: dict[str, str], reference: str) -> tuple[MemoryFigures, ...]:
    """Stored bytes of every variant with their share of the reference's, and memory figures of the process."""
    cells = tuple(cells)
    whole = next((cell.stored_bytes for cell in cells if cell.variant == reference), None)
    return tuple(
        MemoryFigures(
            variant=cell.variant,
            format=variants.get(cell.variant, cell.variant),
            stored_bytes=cell.stored_bytes,
            stored_bytes_by_format=dict(sorted(cell.stored_bytes_by_format.items())),
            weight_bytes=cell.weight_bytes,
            cache_bytes=cell.cache_bytes,
            share_of_reference=cell.stored_bytes / whole if whole else None,
            process={
                "rss": cell.process_rss,
                "peak_rss": cell.process_peak_rss,
                "device_allocated": cell.device_allocated,
                "device_reserved": cell.device_reserved,
                "device_used": cell.device_used,
                "device_used_by_this_process": cell.process_used,
            },
        )
        for cell in cells
    )
