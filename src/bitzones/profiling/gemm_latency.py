"""What the products of a unit take in each format, so that time can be what a plan costs.

Units of the same shapes take the same time, so each sort of unit is timed once and not each of its layers. A model reads every weight once
per token, from memory and not from a cache: so a round goes through all units of that sort, or through as many as no cache
holds. Formats are timed in turns, round by round, so that a machine that slows down slows all of them. Inputs are random: the time does
not depend on them. An expert is timed as if every token visited it. This module does not judge times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from bitzones.backends.quanto import extensions, kernels, packing, quantizers
from bitzones.devices import device as devices
from bitzones.models import offload, structure
from bitzones.schema import latency_grid
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.formats import format_bits
from bitzones.schema.performance_cells import ShapeTimes, UnitLatencyCell
from bitzones.schema.sensitivity_cells import Unit
from bitzones.sensitivity.variants import Variants

__all__ = ["COLD_BYTES", "measure"]

COLD_BYTES = 2**27
"""Weights of a round: above the last-level cache that a processor's core or a GPU reaches (32 MB and 50 MB on those seen)."""

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Bench:
    """One sort of unit in one format: its modules, once for each copy, and what they are given."""

    format: str
    copies: list[list[torch.nn.Module]]
    inputs: list[torch.Tensor]

    def round(self) -> float:
        """Seconds of the products of all copies."""
        device = self.inputs[0].device
        devices.synchronize(device)
        started = perf_counter()
        for modules in self.copies:
            for module, given in zip(modules, self.inputs, strict=True):
                module(given)
        devices.synchronize(device)
        return perf_counter() - started


def measure(variants: Variants, units: Sequence[Unit], shape: latency_grid.Latency, seed: int) -> UnitLatencyCell:
    """Time every sort of unit in every format of the run and in the reference, at one token for each sequence of the first ``shape.batch``.

    Raises:
        NotMeasuredError: the weights would be packed and this machine unpacks them by a stand-in, whose time says nothing.
    """
    failure = extensions.extension_failure()
    if failure is not None and any(format_bits(name) < 8 for name in variants.uniform.values()):
        raise NotMeasuredError(f"latency of packed weights: {failure}")
    sorts: dict[Shapes, list[Unit]] = {}
    for unit in units:
        sorts.setdefault(_shapes(variants, unit), []).append(unit)
    times: list[ShapeTimes] = []
    for shapes, alike in sorts.items():
        times += _timed(shapes, _benches(variants, _near(variants, alike), shape.batch[0], seed), shape)
        devices.free(variants.device)
    return UnitLatencyCell(
        variant=variants.reference_id,
        batch=shape.batch[0],
        warmup_rounds=shape.warmup_rounds,
        units={unit.name: _shapes(variants, unit) for unit in units},
        times=tuple(times),
    )


def _near(variants: Variants, alike: Sequence[Unit]) -> list[Unit]:
    """Those whose weights lie on the run's device.

    Raises:
        NotMeasuredError: there is none.
    """
    layers = list(structure.decoder_layers(variants.reference).values())
    near = [unit for unit in alike if unit.layer is None or not offload.lies_elsewhere(layers[unit.layer])]
    if not near:
        raise NotMeasuredError(f"no unit like {alike[0].name} lies on {variants.device}: what its products take there cannot be timed")
    return near


def _shapes(variants: Variants, unit: Unit) -> Shapes:
    weights = [variants.reference.get_parameter(f"{name}.weight") for name in unit.modules]
    return tuple((weight.shape[0], weight.shape[1]) for weight in weights)


def _benches(variants: Variants, alike: Sequence[Unit], batch: int, seed: int) -> list[_Bench]:
    """The reference, from the model's own modules, and every format, from units quantized apart."""
    dense = [[variants.reference.get_submodule(name) for name in unit.modules] for unit in alike]
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(batch, 1, module.get_parameter("weight").shape[1], generator=generator).to(variants.device, variants.compute_dtype)
        for module in dense[0]
    ]
    found = [_Bench(variants.formats[variants.reference_id], dense[: _copies(dense[0], len(alike))], inputs)]
    for name in variants.uniform.values():
        first = _stand_in(variants, alike[0], name)
        others = [_stand_in(variants, unit, name) for unit in alike[1 : _copies(first, len(alike))]]
        found.append(_Bench(name, [first, *others], inputs))
    return found


def _stand_in(variants: Variants, unit: Unit, name: str) -> list[torch.nn.Module]:
    taken = variants.taken_by(unit, name)
    quantized = [variants.loaded.model.get_submodule(module) for module in taken]
    made = dict(zip(taken, quantizers.stand_in(quantized, name, variants.compute_dtype) if taken else [], strict=True))
    return [made.get(module) or variants.reference.get_submodule(module) for module in unit.modules]


def _copies(modules: Sequence[torch.nn.Module], units: int) -> int:
    used = sum(packing.stored_bytes(module.get_parameter("weight").data) for module in modules)
    return max(1, min(units, -(-COLD_BYTES // used)))


@torch.no_grad()
def _timed(shapes: Shapes, benches: Sequence[_Bench], shape: latency_grid.Latency) -> list[ShapeTimes]:
    rounds: list[list[float]] = [[] for _ in benches]
    for number in range(shape.warmup_rounds + shape.rounds):
        for bench, took in zip(benches, rounds, strict=True):
            seconds = bench.round()
            if number >= shape.warmup_rounds:
                took.append(seconds)
    return [
        ShapeTimes(
            shapes=shapes,
            format=bench.format,
            repeats=len(bench.copies),
            rounds_s=tuple(took),
            kernels=kernels.kernels(bench.copies[0]),
        )
        for bench, took in zip(benches, rounds, strict=True)
    ]
