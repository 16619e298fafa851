"""Latency and memory of the variants: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitzones.analysis.plan import Decided
from bitzones.schema.record import Figure
from bitzones.stats.intervals import Estimate

__all__ = [
    "LatencyFigures",
    "MemoryFigures",
    "PlanTime",
    "ShapeFigures",
    "SlowPath",
    "UnitLatencyFigures",
]


class SlowPath(Decided):
    """Why a variant is told to be slower than the reference."""

    code: Literal["unpacked", "slow_kernel"]
    """``unpacked``: weights are unpacked at every product, for want of a fused kernel; ``slow_kernel``: quantized kernels are slower than
    the dense one."""
    times: float
    """Median time by the reference's."""
    modules: int
    """Modules computed in that way."""
    of: int
    """Modules of the variant."""
    kernels: tuple[str, ...]
    """Names of the kernels that compute them."""


class LatencyFigures(Decided):
    """One phase at one shape by one variant, over its raw rounds."""

    variant: str
    format: str
    phase: str
    batch: int
    prompt_tokens: int
    tokens: int
    """Tokens that one round processes (prefill) or produces (decode)."""
    rounds: int
    median_s: float
    """Seconds per round."""
    p95_s: float
    """95th percentile of the rounds, seconds; of 20 rounds that is nearly the slowest."""
    low_quartile_s: float
    high_quartile_s: float
    ratio: Estimate | None
    """Median by the reference's median at the same shape, bootstrap interval over rounds; null for the reference."""
    kernels: dict[str, int]
    """What computed the quantized products: name to number of modules."""
    kernels_by_group: dict[str, dict[str, int]] = Field(default_factory=dict)
    """The same for each group of modules, over all layers."""
    compiled: bool = False
    """Decoded through torch.compile."""
    device_median_s: float | None = None
    """Median of the rounds by the device's own clock; null where it has none."""
    roofline_s: float | None = None
    """Decode: the least that a round can take: bytes that its steps have to read, by the bandwidth of a large copy in the same run."""
    times_roofline: float | None = None
    """Median over roofline."""
    slow_path: SlowPath | None = None
    """Set where the interval of ``ratio`` lies above 1 and the kernels are a likely reason."""
    times_compiled: float | None = None
    """Median by that of the same decoding through torch.compile; null where one of the two was not timed."""
    joules_per_token: Figure | None = None
    """Energy of the GPU above idle; null where nothing was decoded for it."""
    static_cache_refused: str | None = None
    """Why decoding ran on a growing key-value cache though the model claims to have one of a fixed size."""
    warmup_stable: bool | None = None
    """Whether rounds had become alike before timing began; false where warming up ended at its bound."""
    contended: tuple[str, ...] = ()
    """What makes these times doubtful, as the GPU's driver saw it."""
    asked_batch: int | None = None
    """The profile's batch, where memory was enough for a smaller one only."""


class ShapeFigures(Decided):
    """The products of one sort of unit in one format, over its raw rounds."""

    shapes: tuple[tuple[int, int], ...]
    """Output and input features of its modules."""
    units: int
    """How many units of the model are of this sort."""
    format: str
    rounds: int
    median_s: float
    """Seconds of one unit in one decode step."""
    low_quartile_s: float
    high_quartile_s: float
    ratio: Estimate | None
    """Median by the reference's, bootstrap interval over rounds; null for the reference."""


class PlanTime(Decided):
    """The products of all units in one decode step, by one assignment of formats."""

    name: str
    """A format for all, or ``plan``."""
    seconds: Estimate
    ratio: Estimate | None
    """By the reference's; null for the reference."""


class UnitLatencyFigures(Decided):
    """Decode time by format, on the device of the run."""

    batch: int
    shapes: tuple[ShapeFigures, ...]
    totals: tuple[PlanTime, ...]
    """The reference, each format for all units, and the plan where there is one."""
    slower: tuple[str, ...]
    """Formats whose products are told to take longer than the reference's: there bits do not buy time."""


class MemoryFigures(Decided):
    """Bytes of one variant."""

    variant: str
    format: str
    stored_bytes: int
    """The whole model as stored: packed data, scales, shifts and what is not quantized, read off the tensors."""
    stored_bytes_by_format: dict[str, int]
    share_of_reference: float | None
    """Stored bytes by the reference's; null where the reference was not measured."""
    weight_bytes: int | None = None
    """All weights as they lie in memory to be computed with; null in an older run."""
    cache_bytes: int | None = None
    """Keys and values of the largest decoding of the latency grid."""
    process: dict[str, Figure]
    """What the operating system and the device say of the process; null with a status where they could not."""
