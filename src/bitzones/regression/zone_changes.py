"""Which layers changed their zone.

Zones are computed again from both runs with the same code, so that a change of bitzones itself moves nothing. Zones come from a bootstrap,
so a layer near a boundary may move by chance: changes are reported next to the gate, and fail it only on request.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitzones.allocation.time_cost import timed_menu
from bitzones.analysis.budget import budget_of
from bitzones.analysis.marginal_costs import costs_of
from bitzones.analysis.plan import Around, ZoneWord
from bitzones.analysis.reader import RunFile
from bitzones.regression.comparison import Moved
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import REFERENCE_NAMES
from bitzones.schema.performance_cells import UnitLatencyCell
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.profile import variant_formats
from bitzones.schema.sensitivity_cells import SensitivityCell

__all__ = ["ZoneChanges", "moved_zones"]

RESAMPLES = 200
"""Plans solved on either side: a share of 90% is then known to 2 points, and both sides take a second or two instead of ten times that."""


@dataclass(frozen=True)
class ZoneChanges:
    """The layers that moved, or why that is ``unknown``; ``around`` says what the zones of both runs were drawn around, null where they
    were not drawn."""

    moved: tuple[Moved, ...] | None
    unknown: str | None = None
    around: Around | None = None


def moved_zones(old: RunFile, new: RunFile) -> ZoneChanges:
    """The layers that moved, told from zones of one basis.

    Zones around a plan that a search found and zones of separate sensitivities are not comparable: where one run has no search, both are
    drawn from separate sensitivities.
    """
    before, after = (next(iter(run.of(SensitivityCell)), None) for run in (old, new))
    if before is None or after is None:
        return ZoneChanges(None, f"the {'old' if before is None else 'new'} run has no sweep")
    settings = [_asked(run) for run in (old, new)]
    if settings[0] != settings[1]:
        return ZoneChanges(None, "the runs have other budgets, formats or agreements")
    searches = [next(iter(run.of(SearchCell)), None) for run in (old, new)]
    if before == after and searches[0] == searches[1]:
        return ZoneChanges(())  # the same numbers give the same zones
    try:
        was, now = (_drawn(*each) for each in zip((old, new), (before, after), searches, strict=True))
        if was.around != now.around:
            was, now = _drawn(old, before, None), _drawn(new, after, None)
    except PlanError as error:
        return ZoneChanges(None, str(error))
    others = [layer for layer in now.zones if layer in was.zones and was.zones[layer] != now.zones[layer]]
    moved = tuple(Moved(layer=layer, old=was.zones[layer], new=now.zones[layer]) for layer in others)
    return ZoneChanges(moved, around=now.around)


def _asked(run_file: RunFile) -> tuple[object, ...]:
    profile = run_file.run.profile
    return profile.budget, profile.formats, profile.zones.agreement


@dataclass(frozen=True)
class _Drawn:
    """The zones of one run, and what they were drawn around."""

    around: Around
    zones: dict[int, ZoneWord]


def _drawn(run_file: RunFile, cell: SensitivityCell, search: SearchCell | None) -> _Drawn:
    # A solver, of use only where a sweep has changed.
    from bitzones.allocation import knapsack  # noqa: PLC0415
    from bitzones.analysis import layer_sensitivity, zones  # noqa: PLC0415

    profile = run_file.run.profile
    formats = tuple(variant_formats(profile).values())[1:]
    measured = layer_sensitivity.measured_of(cell, formats, RESAMPLES, profile.seed)
    menu = knapsack.menu_of(cell, formats, REFERENCE_NAMES[profile.model.dtype])
    if profile.budget.latency is not None:
        menu = timed_menu(menu, next(iter(run_file.of(UnitLatencyCell)), None))
    budget = budget_of(measured, menu, run_file.run, search).limit
    costs = costs_of(measured, menu, search, budget)
    choices = costs.plans(measured.weights[: min(RESAMPLES, profile.zones.resamples)], budget)
    layers = zones.layer_zones(measured, menu, costs.plan(budget), choices, profile.zones.agreement)
    return _Drawn(costs.around, {item.layer: item.zone for item in layers})
