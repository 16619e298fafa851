"""Plans found by measuring plans: separate sensitivities do not add up at 2 bits, so a plan made from them is only where the search starts.

Around the plan at hand every unit is tried in every other format, all others as they are (`sweep.exact` on a base). From these
marginal costs the planner proposes new plans, from bold (every swap that pays) to timid (the few that pay most); each is measured, and one
is accepted only if it comes nearer to the goal than all others and the plan at hand. This is re-linearization with a trust region whose
size is chosen by measurement (Nocedal & Wright 2006, ch. 4). The search ends with a sweep around the plan that it found, so that the
deciding side can tell how firmly each unit stands. What is accepted was judged on the sensitivity set alone: how good it is has to be
measured on other sequences. This module decides nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bitzones.allocation.knapsack import Menu, menu_of, solve
from bitzones.allocation.time_cost import timed_menu
from bitzones.data.sequences import Batch
from bitzones.models import structure
from bitzones.schema.index import index_of
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import SearchRound, Trial
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.sensitivity import sweep
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
"""Proposals per round: each halves the gain that a swap has to bring, from the largest down to 1/128 of it, and the last asks for none."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Workbench:
    """What a search works on.

    Args:
        model: the reference.
        layers: its decoder layers.
        units: what is decided separately, in the order of the menu.
        menu: formats and bytes, or times where the budget is one of time; its last format is the reference.
        weights: format -> module -> quantized weight; the reference's format is absent.
        batches: makes the sequences anew for every pass.
        sequences: how many they are.
    """

    model: torch.nn.Module
    layers: Sequence[torch.nn.Module]
    units: Sequence[Unit]
    menu: Menu
    weights: Mapping[str, Mapping[str, torch.Tensor]]
    batches: Callable[[], Iterable[Batch]]
    sequences: int

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
) -> Workbench:
    """A workbench of what a sweep has measured, on the sensitivity set or on any other sequences; with ``times`` budgets count time."""
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
    )


def summed(bench: Workbench, cell: SensitivityCell) -> Floats:
    """The separate sensitivities, nats over all sequences: shape (units, formats), 0 for the reference and where there is none."""
    found, rows = np.zeros(bench.menu.offered.shape), index_of(unit.name for unit in bench.units)
    for item in cell.measurements:
        found[rows[item.unit], bench.menu.formats.index(item.format)] = sum(item.kl_nats or ())
    return found


def weights_of(bench: Workbench, choice: Integers) -> dict[str, torch.Tensor]:
    """The quantized weights of a whole plan, by module; modules that stay as they are are absent."""
    formats = bench.named(choice)
    return {
        module: bench.weights[formats[unit.name]][module]
        for unit in bench.units
        if formats[unit.name] in bench.weights
        for module in unit.modules
        if module in bench.weights[formats[unit.name]]  # else it stays in the reference's format in this one
    }


def trials(bench: Workbench, choices: Sequence[Integers], progress: Progress = silent) -> list[Trial]:
    """Every plan as a whole, measured."""
    return as_made(bench, [(choice, weights_of(bench, choice)) for choice in choices], progress)


def as_made(bench: Workbench, made: Sequence[tuple[Integers, Mapping[str, torch.Tensor]]], progress: Progress = silent) -> list[Trial]:
    """Every plan as a whole, measured with weights of its own, by module: those of calibrated formats depend on the rest of the plan."""
    choices, candidates = [choice for choice, _ in made], [Candidate(0, weights) for _, weights in made]
    found = sweep.exact(bench.model, bench.layers, candidates, bench.batches(), bench.sequences, progress).candidates
    return [
        Trial(units=bench.named(choice), stored_bytes=bench.bytes_of(choice), kl_nats=None if kl is None else tuple(kl))
        for choice, kl in zip(choices, found, strict=True)
    ]


class Goal(Protocol):
    """What a search is for."""

    def tried(self, bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], progress: Progress) -> list[Trial]:
        """Plans proposed from a sweep around the plan at hand, measured."""

    def key(self, trial: Trial) -> tuple[float, ...]:
        """Less is better."""


@dataclass(frozen=True)
class LeastKl:
    """The least KL within ``budget``, in what the menu counts: stored bytes or nanoseconds."""

    budget: int

    def tried(self, bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], progress: Progress) -> list[Trial]:
        """As `Goal`."""
        return trials(bench, proposals(bench, at, around, self.budget), progress)

    def key(self, trial: Trial) -> tuple[float, ...]:
        """As `Goal`."""
        return (total(trial),)


@dataclass(frozen=True)
class Searched:
    """What a search did: the measured start, the rounds, the plan found, and the sweep around it where no round made one."""

    start: Trial
    rounds: tuple[SearchRound, ...]
    found: Trial
    around: tuple[UnitSensitivity, ...] | None


def search(bench: Workbench, start: Trial, goal: Goal, rounds: int, progress: Progress = silent) -> Searched:
    """Improve a plan by measurement.

    Args:
        bench: the model, the units and the sequences.
        start: a measured plan.
        goal: what is better, and what is worth trying.
        rounds: how often to sweep around the plan and try others; it ends earlier where a round brings nothing.
        progress: told how far it is.

    Returns:
        The plan found is the ``accepted`` trial of the last round that has one, else the start. A last round without one swept around that
        plan; else one more sweep does, unless no round was asked for.
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
    """KL over all sequences, nats; infinite where it could not be measured."""
    return float("inf") if measured.kl_nats is None else sum(measured.kl_nats)


def _around(bench: Workbench, at: Trial, progress: Progress) -> list[UnitSensitivity]:
    """The whole model's KL when one unit of the plan takes another format, for every unit and every other format."""
    choice = bench.choice(at.units)
    swaps = [
        (row, column)
        for row, now in enumerate(choice)
        for column in range(len(bench.menu.formats) - 1)
        if column != now and bench.menu.offered[row, column]
    ]
    candidates = [Candidate(bench.units[row].layer, _weights(bench, row, column)) for row, column in swaps]
    base = weights_of(bench, choice)
    found = sweep.exact(bench.model, bench.layers, candidates, bench.batches(), bench.sequences, progress, base).candidates
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


def _weights(bench: Workbench, row: int, column: int) -> dict[str, torch.Tensor]:
    """Module -> quantized weight of a unit that changes to a format, dense where it stays in the reference's in that one.

    A swap around a plan has to undo what the plan made of a module.
    """
    found = bench.weights[bench.menu.formats[column]]
    return {
        name: found[name] if name in found else bench.model.get_parameter(f"{name}.weight").detach() for name in bench.units[row].modules
    }


def proposals(bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], budget: int) -> list[Integers]:
    """Different plans within a budget, from the boldest to the most timid, none of them the plan at hand.

    Args:
        bench: says what is offered.
        at: the plan at hand, measured.
        around: the sweep around it.
        budget: in what the menu counts, stored bytes or nanoseconds; the plan at hand may take more.
    """
    choice = bench.choice(at.units)
    known, marginal = _marginal(bench, choice, around, total(at))
    swap = np.ones(marginal.shape)
    swap[np.arange(len(choice)), choice] = 0.0
    largest = float(np.abs(marginal[np.isfinite(marginal)]).max(initial=0.0))
    found: dict[bytes, Integers] = {choice.tobytes(): choice}
    if budget < known.least_size:  # a format that could not be measured around this plan is not offered
        return []
    for price in (0.0, *(largest / 2**step for step in reversed(range(TIMID_STEPS - 1)))):
        costs = np.where(known.offered, marginal + price * swap, 0.0)
        costs = costs - costs.min(axis=1, keepdims=True)  # the planner minimizes sums of what is not negative
        plan = solve(known, costs, budget)
        found.setdefault(plan.tobytes(), plan)
    return list(found.values())[1:]


def _marginal(bench: Workbench, choice: Integers, around: Sequence[UnitSensitivity], at: float) -> tuple[Menu, Floats]:
    """What is offered around a plan, and what each swap adds to its KL, nats over all sequences; infinite where it is not offered."""
    menu = bench.menu
    rows = index_of(unit.name for unit in bench.units)
    marginal = np.full(menu.offered.shape, np.inf)
    marginal[np.arange(len(choice)), choice] = 0.0
    for item in around:
        if item.kl_nats is not None:
            marginal[rows[item.unit], menu.formats.index(item.format)] = sum(item.kl_nats) - at
    return replace(menu, offered=np.isfinite(marginal)), marginal
