"""The machine under a run: its GPU as the driver sees it, the bandwidth of its memory, what it draws when idle; each measured once.

Cells that time or weigh a variant get all of that from here. This module does not know which cells a run has.
"""

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
    """What one run measures on.

    Args:
        variants: the models, of which the caller has seen that they are defined.
        profile: has the shapes that are timed.
    """

    def __init__(self, variants: Variants, profile: Profile) -> None:
        self._variants, self._shapes, self._seed, self._device = variants, profile.latency, profile.seed, variants.device

    @cached_property
    def gpu(self) -> nvml.Gpu:
        """The GPU as its driver sees it, where one computes."""
        return nvml.open_gpu(devices.uuid_of(self._device))

    @cached_property
    def bandwidth(self) -> Figure:
        """Of the device's memory."""
        return devices.copy_bandwidth(self._device)

    @cached_property
    def idle_watts(self) -> Figure:
        """What the GPU draws with the models in memory and nothing to do."""
        return energy.idle_watts(self.gpu)

    @cached_property
    def _groups(self) -> latency.Groups:
        return units.fused_groups(self._variants.loaded.model)

    @property
    def largest_decoding(self) -> Timing:
        """The decoding of the latency grid that needs the most memory."""
        shapes = (shape for shape in self._shapes.timings().values() if shape.phase == "decode" and not shape.compiled)
        return max(shapes, key=lambda shape: shape.batch * (shape.prompt_tokens + shape.new_tokens))

    def ready(self, variant: str, timing: str) -> latency.Ready:
        """A cell of the latency grid, warm; what it is compared with is measured before."""
        _, _ = self.bandwidth, self.idle_watts
        model, shape = self._variants.model(variant), self._shapes.timings()[timing]
        return latency.ready(model, shape, self._seed, self._shapes.warmup_rounds, self.gpu, self._groups)

    def latency_cell(self, variant: str, made: latency.Ready, rounds_s: Sequence[float]) -> LatencyCell:
        """The record of timed rounds; energy is measured when they are read off the device's clock, which runs on."""
        timed = latency.cell(variant, made, rounds_s, self.bandwidth)
        return timed.model_copy(update={"energy": latency.energy_of(made, self.gpu, self.idle_watts)})

    def at_half(self, batch: int, work: Callable[[int], M]) -> M:
        """What ``work`` records at this batch, or at the half of it that memory is enough for, with what ran out."""
        cell, shortages = oom_retry.halving(batch, work, self._device)
        return cell.model_copy(update={"shortages": shortages}) if shortages else cell
