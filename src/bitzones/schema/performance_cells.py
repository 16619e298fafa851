"""Cells that say what a variant costs: latency, energy and memory."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bitzones.schema.latency_grid import Timing
from bitzones.schema.record import NOT_RECORDED, Count, Figure, Measured, NonNegative, Positive, Record, Share

__all__ = ["Energy", "GpuWatch", "KernelKind", "LatencyCell", "MemoryCell", "ShapeTimes", "UnitLatencyCell"]

KernelKind = Literal["dense", "fused", "unpacked"]


class GpuWatch(Record):
    """What the driver (NVML) said of the GPU while a cell ran, sampled on a thread every ``period_s``.

    ``coverage`` is the share of the cell's time in which samples stood no further apart than twice the period. ``clocks_held`` names what
    held the clocks down, with the share of samples in which it did; ``contended`` says in words what makes the cell's times doubtful.
    """

    device_used_peak: Figure
    process_used_peak: Figure
    other_processes: Figure
    clocks_held_share: Figure
    clocks_held: dict[str, Share] = {}
    contended: tuple[str, ...] = ()
    period_s: NonNegative
    samples: Count
    coverage: Share | None = None


class Energy(Record):
    """Energy of the whole GPU per generated token above idle, over ``window_s`` of pure decoding."""

    per_token: Figure
    idle: Figure
    window_s: NonNegative = 0.0
    tokens: Count = 0


class LatencyCell(Measured):
    """Raw rounds of one phase at one shape; ``tokens`` is what one round processes (prefill) or produces (decode).

    ``rounds_s`` is wall time with the device synchronized at the end, ``device_rounds_s`` the device's own clock over the same rounds; null
    where it has none. ``weight_bytes`` and ``cache_bytes`` are what one step of decoding has to read, as it lies in memory (the keys and
    values at the middle of the round): by ``bandwidth``, that of a large copy in the same run, they give the roofline of its time.
    ``static_cache_refused`` says why a model that claims to decode on a cache of a fixed size was not timed on one.
    ``warmup_stable`` is false where warming up ended at its bound. ``kernel_kinds`` says of each name in ``kernels`` whether it multiplies
    weights as they are (``dense``), reads them packed (``fused``) or unpacks them at every product (``unpacked``).
    """

    kind: Literal["latency"] = "latency"
    phase: Literal["prefill", "decode"]
    batch: Positive
    prompt_tokens: Positive
    tokens: Positive
    warmup_rounds: Count
    rounds_s: tuple[NonNegative, ...] = Field(min_length=1)
    kernels: dict[str, Count]
    kernels_by_group: dict[str, dict[str, Count]] = {}
    kernel_kinds: dict[str, KernelKind] = {}
    compiled: bool = False
    cache: Literal["static", "dynamic"] = "dynamic"
    static_cache_refused: str | None = None
    warmup_stable: bool | None = None
    device_rounds_s: tuple[NonNegative, ...] | None = None
    weight_bytes: Count | None = None
    cache_bytes: Count | None = None
    bandwidth: Figure | None = None
    energy: Energy | None = None
    gpu: GpuWatch | None = None

    @property
    def asked_batch(self) -> int:
        """The batch of the profile, before memory ran out."""
        return self.shortages[0].batch if self.shortages else self.batch

    @property
    def timing(self) -> Timing:
        """The cell of the latency grid: the batch that was asked for, and the new tokens of each sequence."""
        new = self.tokens // self.batch if self.phase == "decode" else 0
        return Timing(self.phase, self.asked_batch, self.prompt_tokens, new, self.compiled)

    @property
    def _detail(self) -> str:
        return self.timing.name

    @model_validator(mode="after")
    def _same_rounds(self) -> LatencyCell:
        if self.device_rounds_s is not None and len(self.device_rounds_s) != len(self.rounds_s):
            raise ValueError("rounds_s and device_rounds_s differ in length")
        return self


class ShapeTimes(Record):
    """Raw rounds of the matrix products of units with the same shapes in one format: ``shapes`` are (output, input) features per module.

    One round computes the products of ``repeats`` such units one after another, each with its own weights.
    """

    shapes: tuple[tuple[int, int], ...]
    format: str
    repeats: Positive
    rounds_s: tuple[NonNegative, ...] = Field(min_length=1)
    kernels: dict[str, Count]

    @property
    def rounds_per_unit_s(self) -> tuple[float, ...]:
        """Seconds of one unit, round by round."""
        return tuple(took / self.repeats for took in self.rounds_s)


class UnitLatencyCell(Measured):
    """Times of every unit's matrix products in one decode step of ``batch`` sequences on the run's device, per format.

    ``units`` maps a unit to its shapes; units with the same shapes are timed once. Round n of every format ran next to round n of the
    others. ``variant`` is the reference, which is timed too.
    """

    kind: Literal["unit_latency"] = "unit_latency"
    batch: Positive
    warmup_rounds: Count
    units: dict[str, tuple[tuple[int, int], ...]]
    times: tuple[ShapeTimes, ...]

    @model_validator(mode="after")
    def _every_shape_is_timed(self) -> UnitLatencyCell:
        timed = [(item.shapes, item.format) for item in self.times]
        if len(set(timed)) < len(timed):
            raise ValueError("shapes occur twice at one format")
        wanted = {(shapes, name) for shapes in self.units.values() for name in {item.format for item in self.times}}
        if wanted != set(timed) or not timed:
            raise ValueError("not every unit is timed in every format")
        if len({len(item.rounds_s) for item in self.times}) > 1:
            raise ValueError("formats differ in their number of rounds")
        return self


class MemoryCell(Measured):
    """Bytes of one variant: as stored, read off the tensors, and as the running process uses them.

    Figures of the device are peaks over one decoding of ``batch`` sequences up to ``positions`` tokens, whose keys and values take
    ``cache_bytes`` in addition to ``weight_bytes``. ``device_used`` and ``process_used`` come from the driver (NVML), allocated and
    reserved from torch. The reference is in memory too.
    """

    kind: Literal["memory"] = "memory"
    stored_bytes: Count
    stored_bytes_by_format: dict[str, Count]
    process_rss: Figure
    process_peak_rss: Figure
    device_allocated: Figure
    device_used: Figure
    device_reserved: Figure = NOT_RECORDED
    process_used: Figure = NOT_RECORDED
    weight_bytes: Count | None = None
    cache_bytes: Count | None = None
    batch: Count | None = None
    positions: Count | None = None
    gpu: GpuWatch | None = None
