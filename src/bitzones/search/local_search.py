"""Searches plans by measuring whole plans: at 2 bits separate sensitivities do not add up, so their best plan is only the start.

Around the current plan, every unit is measured in every other format with the other units unchanged (`sweep.exact` on a base). From these
marginal costs the planner proposes new plans, from bold (every swap that pays) to timid (only the swaps that pay most). Each is measured,
and the best is accepted if it is better than the current plan. This is re-linearization with a trust region whose size is chosen by
measurement (Nocedal & Wright 2006, ch. 4). The search ends with a sweep around the plan that it found, from which the analysis derives how
stable each unit's format is. Plans are accepted on the sensitivity set alone, so the result must be evaluated on other sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu, menu_of, solve
from bitzones.allocation.partial_sweep import kl_of
from bitzones.allocation.time_cost import timed_menu
from bitzones.backends.backend_protocol import Weight
from bitzones.data.sequences import Batch
from bitzones.models import structure
from bitzones.schema.index import index_of
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import SearchRound, Trial
from bitzones.schema.profile_sections import HeadUse
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.sensitivity import streamed, sweep
from bitzones.sensitivity.sweep import Candidate
from bitzones.sensitivity.variants import Variants

__all__ = [
    "Goal",
    "LeastKl",
    "Searched",
    "Workbench",
    "as_made",
    "proposals",
    "search",
    "summed",
    "total",
    "trials",
    "weights_of",
    "workbench",
]

TIMID_STEPS = 8
"""Proposals per round. Each halves the gain required of a swap, starting from the largest gain; the boldest requires none."""

Exact: TypeAlias = Callable[..., sweep.Sweep]
"""Arguments as those of `sweep.exact`."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Workbench:
    """Everything that is needed to measure plans.

    Args:
        model: the reference.
        layers: its decoder layers.
        units: the units of decision, in the order of the menu.
        menu: formats and bytes, or times for a budget of time; its last format is the reference's.
        weights: format -> module -> quantized weight, without the reference's format.
        batches: returns the batches anew for every pass.
        sequences: total number of sequences.
        head: of sweeps around a plan (`sweep.exact`); plans are always measured with the whole head.
        exact: the sweep that measures: `streamed.exact` for a model whose layers are streamed.
    """

    model: torch.nn.Module
    layers: Sequence[torch.nn.Module]
    units: Sequence[Unit]
    menu: Menu
    weights: Mapping[str, Mapping[str, Weight]]
    batches: Callable[[], Iterable[Batch]]
    sequences: int
    head: HeadUse = "whole"
    exact: Exact = sweep.exact

    def bytes_of(self, choice: Integers) -> int:
        """Stored bytes of a plan's units."""
        return int(self.menu.stored_bytes[np.arange(len(choice)), choice].sum())

    def choice(self, units: Mapping[str, str]) -> Integers:
        """Format index of every unit, from unit -> format."""
        return np.array([self.menu.formats.index(units[unit.name]) for unit in self.units], dtype=np.int64)

    def named(self, choice: Integers) -> dict[str, str]:
        """Unit -> format."""
        return {unit.name: self.menu.formats[index] for unit, index in zip(self.units, choice, strict=True)}


def workbench(
    variants: Variants,
    cell: SensitivityCell,
    batches: Callable[[], Iterable[Batch]],
    sequences: int,
    times: UnitLatencyCell | None = None,
    head: HeadUse = "whole",
) -> Workbench:
    """A workbench for the units of a sweep, on the sensitivity set or any other sequences; with ``times``, budgets are in time."""
    formats = tuple(variants.uniform.values())
    menu = menu_of(cell, formats, variants.formats[variants.reference_id])
    return Workbench(
        variants.reference,
        list(structure.decoder_layers(variants.reference).values()),
        cell.units,
        menu if times is None else timed_menu(menu, times),
        {name: variants.packed(variant) for variant, name in variants.uniform.items()},
        batches,
        sequences,
        head,
        streamed.exact if variants.is_streamed else sweep.exact,
    )


def summed(bench: Workbench, cell: SensitivityCell) -> Floats:
    """The separate sensitivities in nats over all sequences, or their estimates, shape (units, formats); 0 for the reference and for
    missing ones."""
    if cell.adaptive is not None:
        return np.asarray(np.maximum(kl_of(cell, bench.menu.formats[:-1]).sum(axis=2), 0.0))
    found, rows = np.zeros(bench.menu.offered.shape), index_of(unit.name for unit in bench.units)
    for item in cell.measurements:
        found[rows[item.unit], bench.menu.formats.index(item.format)] = sum(item.kl_nats or ())
    return found


def weights_of(bench: Workbench, choice: Integers) -> dict[str, Weight]:
    """Module -> quantized weight of a whole plan, without modules in the reference's format."""
    formats = bench.named(choice)
    return {
        module: bench.weights[formats[unit.name]][module]
        for unit in bench.units
        if formats[unit.name] in bench.weights
        for module in unit.modules
        if module in bench.weights[formats[unit.name]]  # else the format does not support the module
    }


def trials(bench: Workbench, choices: Sequence[Integers], progress: Progress = silent) -> list[Trial]:
    """Measure whole plans."""
    return as_made(bench, [(choice, weights_of(bench, choice)) for choice in choices], progress)


def as_made(bench: Workbench, made: Sequence[tuple[Integers, Mapping[str, Weight]]], progress: Progress = silent) -> list[Trial]:
    """Measure whole plans, each with its own module -> weight: weights in calibrated formats depend on the rest of the plan."""
    choices, candidates = [choice for choice, _ in made], [Candidate(0, weights) for _, weights in made]
    found = bench.exact(bench.model, bench.layers, candidates, bench.batches(), bench.sequences, progress).candidates
    return [
        Trial(units=bench.named(choice), stored_bytes=bench.bytes_of(choice), kl_nats=None if kl is None else tuple(kl))
        for choice, kl in zip(choices, found, strict=True)
    ]


class Goal(Protocol):
    """The goal of a search."""

    def tried(self, bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], progress: Progress) -> list[Trial]:
        """Propose plans from a sweep around the current plan, and measure them."""

    def key(self, trial: Trial) -> tuple[float, ...]:
        """Sort key of a trial; smaller is better."""


@dataclass(frozen=True)
class LeastKl:
    """The least KL within ``budget``, in the unit of the menu: stored bytes or nanoseconds."""

    budget: int

    def tried(self, bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], progress: Progress) -> list[Trial]:
        """As `Goal`."""
        return trials(bench, proposals(bench, at, around, self.budget), progress)

    def key(self, trial: Trial) -> tuple[float, ...]:
        """As `Goal`."""
        return (total(trial),)


@dataclass(frozen=True)
class Searched:
    """The result of a search: the measured start, the rounds, the plan found, and the sweep around it if no round has it."""

    start: Trial
    rounds: tuple[SearchRound, ...]
    found: Trial
    around: tuple[UnitSensitivity, ...] | None


def search(bench: Workbench, start: Trial, goal: Goal, rounds: int, progress: Progress = silent) -> Searched:
    """Improve a plan by measurement.

    Args:
        bench: the model, the units and the sequences.
        start: a measured plan.
        goal: what is better, and which plans to try.
        rounds: most rounds of sweeping around the plan and trying others; a round without improvement is the last.
        progress: receives the share that is done.

    Returns:
        The plan found is the ``accepted`` trial of the last round that has one, else the start. If the last round accepted none, its sweep
        is around that plan; otherwise one more sweep is made, unless ``rounds`` is 0.
    """
    at: Trial = start
    done: list[SearchRound] = []
    for number in range(rounds):
        swept = _around(bench, at, lambda share, n=number: progress((n + 0.7 * share) / (rounds + 1)))  # type: ignore[misc]
        measured = goal.tried(bench, at, swept, lambda share, n=number: progress((n + 0.7 + 0.3 * share) / (rounds + 1)))  # type: ignore[misc]
        best = min(range(len(measured)), key=lambda n: goal.key(measured[n]), default=None)
        better = best if best is not None and goal.key(measured[best]) < goal.key(at) else None
        done.append(SearchRound(around=tuple(swept), trials=tuple(measured), accepted=better))
        if better is None:
            break
        at = measured[better]
    last = None
    if done and done[-1].accepted is not None:
        last = tuple(_around(bench, at, lambda share: progress((rounds + share) / (rounds + 1))))
    progress(1.0)
    return Searched(start, tuple(done), at, last)


def total(measured: Trial) -> float:
    """KL over all sequences in nats; infinite if it could not be measured."""
    return float("inf") if measured.kl_nats is None else sum(measured.kl_nats)


def _around(bench: Workbench, at: Trial, progress: Progress) -> list[UnitSensitivity]:
    """The whole model's KL after changing one unit of the plan to another format, for every unit and every other format."""
    choice = bench.choice(at.units)
    swaps = [
        (row, column)
        for row, now in enumerate(choice)
        for column in range(len(bench.menu.formats) - 1)
        if column != now and bench.menu.offered[row, column]
    ]
    candidates = [Candidate(bench.units[row].layer, _weights(bench, row, column)) for row, column in swaps]
    base = weights_of(bench, choice)
    found = bench.exact(bench.model, bench.layers, candidates, bench.batches(), bench.sequences, progress, base, bench.head).candidates
    return [
        UnitSensitivity(
            unit=bench.units[row].name,
            format=bench.menu.formats[column],
            stored_bytes=int(bench.menu.stored_bytes[row, column]),
            group_sizes=(),
            kl_nats=None if kl is None else tuple(kl),
            failure=sweep.NOT_FINITE if kl is None else None,
        )
        for (row, column), kl in zip(swaps, found, strict=True)
    ]


def _weights(bench: Workbench, row: int, column: int) -> dict[str, Weight]:
    """Module -> weight of a unit that changes to a format; dense for modules that the format does not support.

    A swap around a plan must also undo the plan's format of such a module.
    """
    found = bench.weights[bench.menu.formats[column]]
    return {
        name: found[name] if name in found else bench.model.get_parameter(f"{name}.weight").detach() for name in bench.units[row].modules
    }


def proposals(bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], budget: int) -> list[Integers]:
    """Distinct plans within a budget, from the boldest to the most timid, without the current plan.

    Args:
        bench: the workbench with the menu.
        at: the current plan, measured.
        around: the sweep around it.
        budget: in the unit of the menu, stored bytes or nanoseconds; the current plan may exceed it.
    """
    choice = bench.choice(at.units)
    known, marginal = _marginal(bench, choice, around, total(at))
    swap = np.ones(marginal.shape)
    swap[np.arange(len(choice)), choice] = 0.0
    largest = float(np.abs(marginal[np.isfinite(marginal)]).max(initial=0.0))
    found: dict[bytes, Integers] = {choice.tobytes(): choice}
    if budget < known.least_size:  # formats that could not be measured around this plan are not offered
        return []
    for price in (0.0, *(largest / 2**step for step in reversed(range(TIMID_STEPS - 1)))):
        costs = np.where(known.offered, marginal + price * swap, 0.0)
        costs = costs - costs.min(axis=1, keepdims=True)  # the planner needs non-negative costs
        plan = solve(known, costs, budget)
        found.setdefault(plan.tobytes(), plan)
    return list(found.values())[1:]


def _marginal(bench: Workbench, choice: Integers, around: Sequence[UnitSensitivity], at: float) -> tuple[Menu, Floats]:
    """The menu around a plan, and the KL that each swap adds, in nats over all sequences; infinite if the menu does not offer it."""
    menu = bench.menu
    rows = index_of(unit.name for unit in bench.units)
    marginal = np.full(menu.offered.shape, np.inf)
    marginal[np.arange(len(choice)), choice] = 0.0
    for item in around:
        if item.kl_nats is not None:
            marginal[rows[item.unit], menu.formats.index(item.format)] = sum(item.kl_nats) - at
    return replace(menu, offered=np.isfinite(marginal)), marginal
