"""What a budget allows, in bytes, and the record of the plan that was searched within it.

A budget in bits is a matter of arithmetic, and is refused before anything is measured where it is impossible; one for a tolerated KL has to
be measured. How a plan is searched is `search`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from transformers import PreTrainedModel

from bitzones.decide.planner import Menu, budget_bytes, solve
from bitzones.errors import PlanError
from bitzones.measure import quantizers
from bitzones.measure.progress import Progress, silent
from bitzones.measure.search import Floats, Workbench, search, summed, total, trials
from bitzones.profile import Budget
from bitzones.records import Part, SearchCell, SensitivityCell

__all__ = ["allowed", "check_budget", "expected_menu", "fewest_bytes", "search_cell"]

BUDGET_STEPS = 8
"""Halvings of the range of budgets: of 2 to 16 bits a 256th, a twentieth of a bit, which is finer than what a plan's KL tells apart."""


def expected_menu(model: PreTrainedModel, parts: Sequence[Part], formats: Sequence[str], reference: str) -> Menu:
    """The menu that a sweep will offer, before anything is quantized: an impossible budget is found in seconds and not at the end."""
    stored = np.zeros((len(parts), len(formats) + 1), dtype=np.int64)
    for row, part in enumerate(parts):
        shapes = [model.get_parameter(f"{module}.weight").shape for module in part.modules]
        stored[row, :-1] = [sum(quantizers.expected_bytes(*shape, model.dtype, name) for shape in shapes) for name in formats]
        stored[row, -1] = part.reference_bytes
    offered = np.ones(stored.shape, dtype=np.bool_)
    return Menu(tuple(part.name for part in parts), (*formats, reference), stored, offered, sum(part.parameters for part in parts))


def check_budget(menu: Menu, average_bits: float) -> None:
    """Refuse a budget below every plan of a menu.

    Raises:
        PlanError: the message gives the range that can be met.
    """
    budget_bytes(menu, average_bits)


def fewest_bytes(bench: Workbench, separate: Floats, tolerance: float) -> int:
    """The fewest bytes, to `BUDGET_STEPS` halvings of the range, whose plan of least sum measures at most ``tolerance`` nats in all.

    Separate sensitivities do not add up, so what a budget costs is measured, once for each halving; the reference, at 0, is always enough.
    """
    low, high = bench.menu.least_bytes, int(bench.menu.stored_bytes[:, -1].sum())
    for _ in range(BUDGET_STEPS):
        middle = (low + high) // 2
        (measured,) = trials(bench, [solve(bench.menu, separate, middle)])
        low, high = (low, measured.stored_bytes) if total(measured) <= tolerance else (middle, high)
        if high <= low:
            break
    return high


def allowed(bench: Workbench, cell: SensitivityCell, budget: Budget, uniform: Mapping[str, str]) -> tuple[int, float | None]:
    """The bytes that a budget allows, and the tolerance in nats over all sequences that they were found for, if any.

    Args:
        bench: on the calibration sequences.
        cell: the separate sensitivities.
        budget: as in the profile.
        uniform: variant id -> format.

    Raises:
        PlanError: no plan is that small, or the variant that the tolerance names was not measured everywhere.
    """
    if budget.average_bits is not None:
        return budget_bytes(bench.menu, budget.average_bits), None
    if budget.like is None:
        assert isinstance(budget.tolerance, float)
        tolerance = budget.tolerance * sum(cell.sequence_tokens)
    else:
        column = bench.menu.formats.index(uniform[budget.like])
        if not bench.menu.offered[:, column].all():
            raise PlanError(f"budget.tolerance = like:{budget.like}: not every part could be measured at {uniform[budget.like]}")
        (measured,) = trials(bench, [np.full(len(bench.parts), column, dtype=np.int64)])
        tolerance = total(measured)
    return fewest_bytes(bench, summed(bench, cell), tolerance), tolerance


def search_cell(
    bench: Workbench, cell: SensitivityCell, budget: Budget, uniform: Mapping[str, str], rounds: int, progress: Progress = silent
) -> SearchCell:
    """The record of `search` from the plan of the separate sensitivities.

    Raises:
        PlanError: as `allowed`.
    """
    most, tolerance = allowed(bench, cell, budget, uniform)
    first, done = search(bench, solve(bench.menu, summed(bench, cell), most), most, rounds, progress)
    return SearchCell(
        variant=cell.variant,
        calibration_sha256=cell.calibration_sha256,
        sequence_tokens=cell.sequence_tokens,
        budget_bytes=most,
        tolerance_nats=tolerance,
        start=first,
        rounds=tuple(done),
    )
