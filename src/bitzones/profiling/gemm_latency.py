"""Times the matrix products of units in every format, so that a plan's cost can be time.

Units with the same shapes take the same time, so each set of shapes is timed once and not in every layer. A model reads every weight once
per token, from memory and not from a cache, so a round goes through all units with these shapes, or through enough of them to exceed every
cache. Formats alternate round by round, so that a slowdown of the machine affects all of them. Inputs are random, because the time does not
depend on them. An expert is timed as if it received every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from bitzones.backends import weights
from bitzones.backends.quantizing import stand_ins
from bitzones.devices import device as devices
from bitzones.models import offload, structure
from bitzones.schema import latency_grid
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.performance_cells import ShapeTimes, UnitLatencyCell
from bitzones.schema.sensitivity_cells import Unit
from bitzones.sensitivity.variants import Variants

__all__ = ["COLD_BYTES", "ProductBench", "alike", "measure", "product_benches"]

COLD_BYTES = 2**27
"""Fewest bytes of weights per round: more than the last-level cache of a CPU core or a GPU (32 MB and 50 MB on machines seen so far)."""

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ProductBench:
    """Units with the same shapes in one format: the modules of each copy, and their inputs."""

    format: str
    copies: list[list[torch.nn.Module]]
    inputs: list[torch.Tensor]

    def round(self) -> float:
        """Seconds for the products of all copies."""
        device = self.inputs[0].device
        devices.synchronize(device)
        started = perf_counter()
        for modules in self.copies:
            for module, given in zip(modules, self.inputs, strict=True):
                module(given)
        devices.synchronize(device)
        return perf_counter() - started


def measure(variants: Variants, units: Sequence[Unit], shape: latency_grid.Latency, seed: int) -> UnitLatencyCell:
    """Time units of all shapes in every format of the run and in the reference, with one token per sequence of the first ``shape.batch``.

    Raises:
        NotMeasuredError: a format has no kernel here, or this machine lacks the one that unpacks its weights.
    """
    times: list[ShapeTimes] = []
    for shapes, sort in alike(variants, units).items():
        times += _timed(shapes, product_benches(variants, sort, shape.batch[0], seed), shape)
        devices.free(variants.device)
    return UnitLatencyCell(
        variant=variants.reference_id,
        batch=shape.batch[0],
        warmup_rounds=shape.warmup_rounds,
        units={unit.name: _shapes(variants, unit) for unit in units},
        times=tuple(times),
    )


def alike(variants: Variants, units: Sequence[Unit]) -> dict[Shapes, list[Unit]]:
    """Units by their shapes, (output, input) features of each module."""
    sorts: dict[Shapes, list[Unit]] = {}
    for unit in units:
        sorts.setdefault(_shapes(variants, unit), []).append(unit)
    return sorts


def _near(variants: Variants, sort: Sequence[Unit]) -> list[Unit]:
    """The units whose weights are on the run's device.

    Raises:
        NotMeasuredError: there are none.
    """
    layers = list(structure.decoder_layers(variants.reference).values())
    near = [unit for unit in sort if unit.layer is None or not offload.lies_elsewhere(layers[unit.layer])]
    if not near:
        raise NotMeasuredError(f"no unit like {sort[0].name} is on {variants.device}, so its matrix products cannot be timed there")
    return near


def _shapes(variants: Variants, unit: Unit) -> Shapes:
    weights = [variants.reference.get_parameter(f"{name}.weight") for name in unit.modules]
    return tuple((weight.shape[0], weight.shape[1]) for weight in weights)


def product_benches(variants: Variants, sort: Sequence[Unit], batch: int, seed: int) -> list[ProductBench]:
    """Of units with the same shapes: the reference, which uses the model's own modules, and every format, on separately quantized copies.

    Raises:
        NotMeasuredError: none of the units is on the run's device, or as `measure`.
    """
    sort = _near(variants, sort)
    dense = [[variants.reference.get_submodule(name) for name in unit.modules] for unit in sort]
    generator = torch.Generator().manual_seed(seed)
    inputs = [
        torch.randn(batch, 1, module.get_parameter("weight").shape[1], generator=generator).to(variants.device, variants.compute_dtype)
        for module in dense[0]
    ]
    found = [ProductBench(variants.formats[variants.reference_id], dense[: _copies(dense[0], len(sort))], inputs)]
    for name in variants.uniform.values():
        first = _stand_in(variants, sort[0], name)
        if (why := weights.untimed(first)) is not None:
            raise NotMeasuredError(why)
        others = [_stand_in(variants, unit, name) for unit in sort[1 : _copies(first, len(sort))]]
        found.append(ProductBench(name, [first, *others], inputs))
    return found


def _stand_in(variants: Variants, unit: Unit, name: str) -> list[torch.nn.Module]:
    taken = variants.taken_by(unit, name)
    quantized = [variants.loaded.model.get_submodule(module) for module in taken]
    made = dict(zip(taken, stand_ins(quantized, name, variants.compute_dtype) if taken else [], strict=True))
    return [made.get(module) or variants.reference.get_submodule(module) for module in unit.modules]


def _copies(modules: Sequence[torch.nn.Module], units: int) -> int:
    used = sum(weights.stored_bytes(module.get_parameter("weight")) for module in modules)
    return max(1, min(units, -(-COLD_BYTES // used)))


@torch.no_grad()
def _timed(shapes: Shapes, benches: Sequence[ProductBench], shape: latency_grid.Latency) -> list[ShapeTimes]:
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
            kernels=weights.kernels(bench.copies[0]),
        )
        for bench, took in zip(benches, rounds, strict=True)
    ]
