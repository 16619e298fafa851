"""The plan beside its rivals on held-out sequences, in one pass over the reference: what it is recommended for, or not.

This module measures; which plan is recommended is for the deciding side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bitzones.decide.planner import budget_bytes, solve
from bitzones.errors import PlanError
from bitzones.measure import plans, search
from bitzones.measure.calibration import Calibration
from bitzones.measure.plans import Rival
from bitzones.measure.progress import Progress, silent
from bitzones.measure.search import Workbench
from bitzones.profile import PLAN
from bitzones.profile import Plans as Settings
from bitzones.records import NamedTrial, PlansCell, SearchCell, SensitivityCell

__all__ = ["plans_cell", "rival", "rivals"]


def rivals(bench: Workbench, cell: SensitivityCell, searched: SearchCell, settings: Settings, seed: int) -> list[Rival]:
    """The plan, and what it is to be compared with, each different plan once."""
    menu, budget, separate = bench.menu, searched.budget_bytes, search.summed(bench, cell)
    found: list[Rival] = [
        (PLAN, "search", bench.choice(searched.found.parts)),
        ("additive", "additive", solve(menu, separate, budget)),
    ]
    for column, name in enumerate(menu.formats[:-1]):
        if (choice := plans.uniform(menu, column)) is not None:
            found.append((f"uniform {name}", "uniform", choice))
    found.append(("contiguous", "contiguous", plans.contiguous(menu, budget)))
    rng = np.random.default_rng(seed)
    found += [(f"random {number + 1}", "random", plans.random_plan(menu, budget, rng)) for number in range(settings.random)]
    for bits in settings.frontier:
        try:
            found.append((f"{bits:g} bits", "frontier", solve(menu, separate, budget_bytes(menu, bits))))
        except PlanError:  # a point that no plan reaches is no point of the frontier
            continue
    return list(plans.distinct(found))


def plans_cell(
    bench: Workbench, chosen: Sequence[Rival], calibration: Calibration, searched: SearchCell, progress: Progress = silent
) -> PlansCell:
    """The record of whole plans.

    Args:
        bench: on the held-out sequences.
        chosen: what to measure.
        calibration: the held-out sequences.
        searched: says within which budget.
        progress: told how far it is.
    """
    measured = search.trials(bench, [choice for _, _, choice in chosen], progress)
    return PlansCell(
        variant=searched.variant,
        calibration_sha256=calibration.sha256,
        sequence_tokens=calibration.sequence_tokens,
        budget_bytes=searched.budget_bytes,
        plans=tuple(
            NamedTrial(name=name, origin=origin, **trial.model_dump()) for (name, origin, _), trial in zip(chosen, measured, strict=True)
        ),
    )


def rival(cell: PlansCell, name: str) -> NamedTrial | None:
    """The plan of an origin, the one of least KL where there are several; None where none was measured, or only under another name."""
    found = [plan for plan in cell.plans if plan.origin == name and plan.kl_nats is not None]
    return min(found, key=search.total, default=None)
