"""Budgets in bytes, time or KL as goals of a search, and the record of the plan that it found.

A budget in bits is arithmetic, and an impossible one is refused before anything is measured. A tolerated KL must be measured, and is
searched in two stages: first among the plans with the least sum of sensitivities, then around the plan found, where slack in KL is turned
into fewer bytes. `local_search` has the search itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformers import PreTrainedModel

from bitzones.allocation.knapsack import Menu, budget_bytes, solve
from bitzones.allocation.time_cost import budget_ns, timed_menu
from bitzones.backends.backend_protocol import Staying
from bitzones.backends.quantizing import expected_bytes
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import SearchCell, Trial
from bitzones.schema.profile_sections import Budget
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.search.local_search import Integers, LeastKl, Workbench, proposals, search, summed, total, trials

__all__ = ["FewestBytes", "check_budget", "expected_menu", "search_cell", "search_within", "smallest", "tolerated", "without_calibration"]

BUDGET_STEPS = 8
"""Bisections of the range of budgets: 1/256 of the range from 2 to 16 bits, or a twentieth of a bit, is below the resolution of a KL."""

SHRINKING_STEPS = 6
"""Bisections per round of a search for fewer bytes, of the range below the current plan: also a twentieth of a bit for 2 to 5 bits."""


def expected_menu(
    model: PreTrainedModel, units: Sequence[Unit], formats: Sequence[str], reference: str, staying: Staying | None = None
) -> Menu:
    """The menu that a sweep will offer, computed before anything is quantized, so that an impossible budget fails within seconds."""
    stays = np.array([[set(unit.modules) <= set((staying or {}).get(name, {})) for name in (*formats, reference)] for unit in units])
    stored = np.zeros(stays.shape, dtype=np.int64)
    for row, unit in enumerate(units):
        stored[row, :-1] = [_unit_bytes(model, unit, name, (staying or {}).get(name, {})) for name in formats]
        stored[row, -1] = unit.reference_bytes
    names = tuple(unit.name for unit in units)
    return Menu(names, (*formats, reference), stored, ~stays, sum(unit.parameters for unit in units), stays=stays)


def _unit_bytes(model: PreTrainedModel, unit: Unit, format_name: str, staying: Mapping[str, str]) -> int:
    weights = {module: model.get_parameter(f"{module}.weight") for module in unit.modules}
    return sum(
        weight.nbytes if module in staying else expected_bytes(weight.shape[0], weight.shape[1], model.dtype, format_name)
        for module, weight in weights.items()
    )


def check_budget(menu: Menu, budget: Budget, times: UnitLatencyCell | None) -> None:
    """Refuse a budget below every plan of a menu, before any sensitivity is measured.

    Args:
        menu: the expected menu.
        budget: the profile's budget; a tolerance can always be met, by the reference.
        times: required for a budget of time.

    Raises:
        PlanError: no plan meets the budget; the message gives the possible range.
    """
    if budget.average_bits is not None:
        budget_bytes(menu, budget.average_bits)
    elif budget.latency is not None and times is not None:
        budget_ns(timed_menu(menu, times), budget.latency)


@dataclass(frozen=True)
class FewestBytes:
    """A `local_search.Goal`: the fewest stored bytes with a KL of at most ``tolerance`` nats over all sequences, then the least KL.

    A lower KL at the same bytes is slack that the next round can turn into fewer bytes.
    """

    tolerance: float

    def tried(self, bench: Workbench, at: Trial, around: Sequence[UnitSensitivity], progress: Progress) -> list[Trial]:
        """As `local_search.Goal`: plans with the current number of bytes, and with fewer and fewer while one is within the tolerance."""
        same = LeastKl(at.stored_bytes).tried(bench, at, around, lambda share: progress(share / 2))
        fewer = smallest(
            bench,
            at.stored_bytes,
            self.tolerance,
            lambda budget: proposals(bench, at, around, budget),
            SHRINKING_STEPS,
            lambda share: progress((1 + share) / 2),
        )
        return same + fewer

    def key(self, trial: Trial) -> tuple[float, ...]:
        """As `local_search.Goal`."""
        return (trial.stored_bytes, total(trial)) if total(trial) <= self.tolerance else (float("inf"), total(trial))


def smallest(
    bench: Workbench,
    most: int,
    tolerance: float,
    propose: Callable[[int], Sequence[Integers]],
    steps: int,
    progress: Progress = silent,
) -> list[Trial]:
    """Measured whole plans with fewer and fewer bytes, by bisecting the budget.

    Args:
        bench: a workbench on the sensitivity set.
        most: stored bytes of a plan within the tolerance.
        tolerance: nats over all sequences.
        propose: plans for a budget in bytes; may return none.
        steps: number of bisections.
        progress: receives the share that is done.
    """
    low, high, found = bench.menu.least_bytes, most, list[Trial]()
    for step in range(steps):
        if high <= low:
            break
        middle = (low + high) // 2
        measured = trials(bench, propose(middle))
        kept = [trial.stored_bytes for trial in measured if total(trial) <= tolerance]
        low, high = (low, min(kept)) if kept else (middle + 1, high)
        found += measured
        progress((step + 1) / steps)
    return found


def tolerated(bench: Workbench, cell: SensitivityCell, budget: Budget, uniform: Mapping[str, str]) -> tuple[float, list[Trial]]:
    """The tolerance of a budget in nats over all sequences, and plans within it: the reference, and the variant that the budget names.

    Args:
        bench: a workbench on the sensitivity set.
        cell: the separate sensitivities.
        budget: a budget with a tolerance.
        uniform: variant ID -> format.

    Raises:
        PlanError: some unit could not be measured in the variant that the tolerance names.
    """
    stays = np.full(len(bench.units), len(bench.menu.formats) - 1, dtype=np.int64)
    if budget.like is None:
        assert isinstance(budget.tolerance, float)
        return budget.tolerance * sum(cell.sequence_tokens), trials(bench, [stays])
    column = bench.menu.formats.index(uniform[budget.like])
    if (everywhere := bench.menu.everywhere(column)) is None:
        raise PlanError(f"budget.tolerance = like:{budget.like}: not every unit could be measured at {uniform[budget.like]}")
    known = trials(bench, [stays, everywhere])
    return total(known[1]), known


def without_calibration(bench: Workbench, cell: SensitivityCell, budget: int, rounds: int, progress: Progress = silent) -> Trial | None:
    """The plan that `local_search.search` finds among formats that are not calibrated: what the budget gives without calibration.

    Args:
        bench: a workbench on the sensitivity set.
        cell: the separate sensitivities.
        budget: in the unit of the menu, stored bytes or nanoseconds.
        rounds: rounds of the search.
        progress: receives the share that is done.

    Returns:
        None if the menu does not have both kinds of formats, or if no plan of stock formats meets the budget.
    """
    calibrated = np.array([is_calibrated(name) for name in bench.menu.formats])
    if not calibrated.any() or calibrated[:-1].all():
        return None
    menu = replace(bench.menu, offered=bench.menu.offered & ~calibrated)
    if budget < menu.least_size:
        return None
    among = replace(bench, menu=menu)
    (start,) = trials(among, [solve(menu, summed(among, cell), budget)])
    return search(among, start, LeastKl(budget), rounds, progress).found


def search_within(bench: Workbench, cell: SensitivityCell, searched: SearchCell, rounds: int, progress: Progress = silent) -> SearchCell:
    """The record of a search on other sequences within the budget that another search had, or within the bytes that it found.

    Args:
        bench: a workbench on the sequences of ``cell``.
        cell: the separate sensitivities on these sequences.
        searched: the other search.
        rounds: rounds of the search.
        progress: receives the share that is done.
    """
    (start,) = trials(bench, [solve(bench.menu, summed(bench, cell), searched.limit)])
    made = search(bench, start, LeastKl(searched.limit), rounds, progress)
    return SearchCell(
        variant=cell.variant,
        sequences_sha256=cell.sequences_sha256,
        sequence_tokens=cell.sequence_tokens,
        budget_bytes=searched.budget_bytes,
        budget_ns=searched.budget_ns,
        start=made.start,
        rounds=made.rounds,
        around=made.around,
    )


def search_cell(
    bench: Workbench, cell: SensitivityCell, budget: Budget, uniform: Mapping[str, str], rounds: int, progress: Progress = silent
) -> SearchCell:
    """The record of `local_search.search` from the plan with the least sum of sensitivities, or the smallest within a tolerance.

    Raises:
        PlanError: no plan meets the budget, or as `tolerated`.
    """
    separate, tolerance, time = summed(bench, cell), None, None
    if budget.tolerance is None:
        if budget.latency is not None:
            time, most = budget_ns(bench.menu, budget.latency), bench.menu.most_bytes
        else:
            most = budget_bytes(bench.menu, budget.average_bits or 0.0)
        limit = most if time is None else time
        (start,) = trials(bench, [solve(bench.menu, separate, limit)])
        made = search(bench, start, LeastKl(limit), rounds, progress)
    else:
        tolerance, known = tolerated(bench, cell, budget, uniform)
        goal = FewestBytes(tolerance)
        enough = min(known, key=goal.key).stored_bytes
        known += smallest(bench, enough, tolerance, lambda bytes_: [solve(bench.menu, separate, bytes_)], BUDGET_STEPS)
        made = search(bench, min(known, key=goal.key), goal, rounds, progress)
        most = made.found.stored_bytes
    return SearchCell(
        variant=cell.variant,
        sequences_sha256=cell.sequences_sha256,
        sequence_tokens=cell.sequence_tokens,
        budget_bytes=most,
        tolerance_nats=tolerance,
        budget_ns=time,
        start=made.start,
        rounds=made.rounds,
        around=made.around,
    )
