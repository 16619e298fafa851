"""The profile's budget in bytes or nanoseconds, whether it is given in bits, as a tolerance, or as a share of time."""

from __future__ import annotations

import numpy as np

from bitzones.allocation.knapsack import Menu, budget_bytes, cheapest
from bitzones.allocation.time_cost import budget_ns
from bitzones.analysis.layer_sensitivity import Measured
from bitzones.analysis.plan import PlanBudget, PlanLatency
from bitzones.schema.errors import PlanError
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.profile import variant_formats
from bitzones.schema.run_record import Run

__all__ = ["budget_of", "uniform_within"]


def budget_of(measured: Measured, menu: Menu, run: Run, search: SearchCell | None = None) -> PlanBudget:
    """The budget. A tolerance becomes the bytes that the search found for it, or else those of the additive plan that keeps it.

    Raises:
        PlanError: no plan meets it; the message gives the feasible range.
    """
    asked = run.profile.budget
    if asked.average_bits is not None:
        return PlanBudget(average_bits=asked.average_bits, stored_bytes=budget_bytes(menu, asked.average_bits))
    if asked.latency is not None:
        time = PlanLatency(nanoseconds=budget_ns(menu, asked.latency), share=asked.latency)
        return PlanBudget(average_bits=menu.most_bytes * 8 / menu.parameters, stored_bytes=menu.most_bytes, latency=time)
    tokens = float(measured.tokens.sum())
    if search is not None and search.tolerance_nats is not None:
        stored, tolerance = search.budget_bytes, search.tolerance_nats / tokens
        if stored < menu.least_bytes:
            raise PlanError(f"the search's budget of {stored} bytes is below the {menu.least_bytes} that the smallest plan takes")
    else:
        tolerance = _tolerance(measured, menu, run)
        choice = cheapest(menu, measured.mean, tolerance)
        stored = int(menu.stored_bytes[np.arange(len(choice)), choice].sum())
    return PlanBudget(average_bits=stored * 8 / menu.parameters, stored_bytes=stored, tolerance=tolerance)


def uniform_within(menu: Menu, budget: PlanBudget) -> dict[str, bool]:
    """Format -> whether a model wholly in it is within the budget; only formats that were measured everywhere."""
    limit = budget.latency.nanoseconds if budget.latency is not None else budget.stored_bytes
    choices = {name: menu.everywhere(column) for column, name in enumerate(menu.formats)}
    rows = np.arange(len(menu.sizes))
    return {name: int(menu.sizes[rows, choice].sum()) <= limit for name, choice in choices.items() if choice is not None}


def _tolerance(measured: Measured, menu: Menu, run: Run) -> float:
    """Nats per token: as given, or the sum of separate sensitivities at the format of the variant that it names."""
    asked = run.profile.budget
    if isinstance(asked.tolerance, float):
        return asked.tolerance
    column = menu.formats.index(variant_formats(run.profile)[str(asked.like)])
    total = float(measured.mean[:, column].sum())
    if menu.everywhere(column) is None or total <= 0:
        raise PlanError(f"budget.tolerance = like:{asked.like}: not every unit could be measured at {menu.formats[column]}")
    return total
