"""The hardware of a run: its GPU, the memory bandwidth and the idle power, each measured once and shared by latency and memory cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TypeVar

from bitzones.devices import device as devices
from bitzones.devices import energy, nvml, oom_retry
from bitzones.models import units
from bitzones.profiling import latency
from bitzones.schema.latency_grid import Timing
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile import Profile
from bitzones.schema.record import Figure, Measured
from bitzones.sensitivity.variants import Variants

__all__ = ["Hardware"]

M = TypeVar("M", bound=Measured)


class Hardware:
    """The hardware that one run measures.

    Args:
        variants: the models; the caller makes sure that a variant is defined.
        profile: defines the latency grid.
    """

    def __init__(self, variants: Variants, profile: Profile) -> None:
        self._variants, self._shapes, self._seed, self._device = variants, profile.latency, profile.seed, variants.device

    @cached_property
    def gpu(self) -> nvml.Gpu:
        """The GPU of the run as its driver reports it, if there is one."""
        return nvml.open_gpu(devices.uuid_of(self._device))

    @cached_property
    def bandwidth(self) -> Figure:
        """Memory bandwidth of the device."""
        return devices.copy_bandwidth(self._device)

    @cached_property
    def idle_watts(self) -> Figure:
        """Power of the idle GPU with the models in memory."""
        return energy.idle_watts(self.gpu)

    @cached_property
    def _groups(self) -> latency.Groups:
        return units.fused_groups(self._variants.loaded.model)

    @property
    def largest_decoding(self) -> Timing:
        """The decoding shape of the latency grid that needs the most memory."""
        shapes = (shape for shape in self._shapes.timings().values() if shape.phase == "decode" and not shape.compiled)
        return max(shapes, key=lambda shape: shape.batch * (shape.prompt_tokens + shape.new_tokens))

    def ready(self, variant: str, timing: str) -> latency.Ready:
        """A warmed-up cell of the latency grid. Bandwidth and idle power, with which it is compared, are measured before."""
        _, _ = self.bandwidth, self.idle_watts
        model, shape = self._variants.model(variant), self._shapes.timings()[timing]
        return latency.ready(model, shape, self._seed, self._shapes.warmup_rounds, self.gpu, self._groups)

    def latency_cell(self, variant: str, made: latency.Ready, rounds_s: Sequence[float]) -> LatencyCell:
        """The record of timed rounds. Energy is measured after the rounds were read off the device's clock, which keeps running."""
        timed = latency.cell(variant, made, rounds_s, self.bandwidth)
        return timed.model_copy(update={"energy": latency.energy_of(made, self.gpu, self.idle_watts)})

    def at_half(self, batch: int, work: Callable[[int], M]) -> M:
        """The cell that ``work`` records at this batch size, or at half of it and so on if memory runs out, with the failed attempts."""
        cell, shortages = oom_retry.halving(batch, work, self._device)
        return cell.model_copy(update={"shortages": shortages}) if shortages else cell
