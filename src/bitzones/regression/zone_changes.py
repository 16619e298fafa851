"""Which layers have another zone than before.

Zones are solved again from both runs, by the same code, so that a change of bitzones itself moves nothing. They belong to the bootstrap,
and a layer at the edge of its zone may move by chance: what moved is told beside the gate, and closes it only when asked to. This module
does not know what else became worse.
"""

from __future__ import annotations

from bitzones.allocation.time_cost import timed_menu
from bitzones.analysis.budget import budget_of
from bitzones.analysis.marginal_costs import costs_of
from bitzones.analysis.plan import LayerZone
from bitzones.analysis.reader import RunFile
from bitzones.regression.comparison import Moved
from bitzones.schema.errors import PlanError
from bitzones.schema.profile import REFERENCE_NAMES, variant_formats
from bitzones.schema.records import SearchCell, SensitivityCell, UnitLatencyCell

__all__ = ["moved_zones"]

RESAMPLES = 200
"""Plans solved on either side: a share of 90% is then known to 2 points, and both sides take a second or two instead of ten times that."""


def moved_zones(old: RunFile, new: RunFile) -> tuple[tuple[Moved, ...] | None, str | None]:
    """The layers that moved, or why that cannot be told."""
    before, after = (next(iter(run.of(SensitivityCell)), None) for run in (old, new))
    if before is None or after is None:
        return None, f"the {'old' if before is None else 'new'} run has no sweep"
    settings = [_asked(run) for run in (old, new)]
    if settings[0] != settings[1]:
        return None, "the runs have other budgets, formats or agreements"
    if before == after and _search(old) == _search(new):
        return (), None  # the same numbers give the same zones
    try:
        was, now = (_zones(run, cell) for run, cell in ((old, before), (new, after)))
    except PlanError as error:
        return None, str(error)
    shared = [layer for layer in now if layer in was]
    return tuple(
        Moved(layer=layer, old=was[layer].zone, new=now[layer].zone) for layer in shared if was[layer].zone != now[layer].zone
    ), None


def _asked(run_file: RunFile) -> tuple[object, ...]:
    profile = run_file.run.profile
    return profile.budget, profile.formats, profile.zones.agreement


def _zones(run_file: RunFile, cell: SensitivityCell) -> dict[int, LayerZone]:
    from bitzones.allocation import knapsack  # noqa: PLC0415 (a solver, of use only where a sweep has changed)
    from bitzones.analysis import layer_sensitivity, zones

    profile = run_file.run.profile
    formats = tuple(variant_formats(profile).values())[1:]
    measured = layer_sensitivity.measured_of(cell, formats, RESAMPLES, profile.seed)
    menu = knapsack.menu_of(cell, formats, REFERENCE_NAMES[profile.model.dtype])
    search = _search(run_file)
    if profile.budget.latency is not None:
        menu = timed_menu(menu, next(iter(run_file.of(UnitLatencyCell)), None))
    budget = budget_of(measured, menu, run_file.run, search).limit
    costs = costs_of(measured, menu, search, budget)
    choices = costs.plans(measured.weights[: min(RESAMPLES, profile.zones.resamples)], budget)
    return {item.layer: item for item in zones.layer_zones(measured, menu, costs.plan(budget), choices, profile.zones.agreement)}


def _search(run_file: RunFile) -> SearchCell | None:
    return next(iter(run_file.of(SearchCell)), None)
