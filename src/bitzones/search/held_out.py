"""Measures the plan and its baselines on the held-out set, in one pass over the reference. `bitzones.analysis` recommends one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from bitzones.allocation import baselines
from bitzones.allocation.baselines import Baseline
from bitzones.allocation.knapsack import budget_bytes, solve
from bitzones.backends.backend_protocol import Weight
from bitzones.data.sequences import SequenceSet
from bitzones.schema import slices
from bitzones.schema.errors import PlanError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.plan_cells import NamedTrial, PlansCell, Rounded, SearchCell, Trial
from bitzones.schema.profile import PLAN, TUNED
from bitzones.schema.profile_sections import Plans as Settings
from bitzones.schema.progress import Progress, silent
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.schema.slices_cell import SlicesCell
from bitzones.search import local_search
from bitzones.search.local_search import Integers, Workbench

__all__ = ["AS_APPLIED", "SEPARATE", "WITHOUT_CALIBRATION", "baseline", "comparison_plans", "plans_cell", "with_slices"]

WITHOUT_CALIBRATION = "without calibration"
"""Name of the best plan among quanto's own formats with the same bytes."""

SEPARATE = "plan, modules rounded alone"
"""Name of the plan's formats with each module rounded alone, for a fair comparison with baselines that are rounded the same way."""

AS_APPLIED = frozenset({"search", "additive", "uniform", "frontier", "tuned", "slice"})
"""Origins of plans that a user might apply: their calibrated formats are rounded layer by layer, which takes a while for each plan."""


def comparison_plans(
    bench: Workbench, cell: SensitivityCell, searched: SearchCell, settings: Settings, seed: int, stock: Trial | None = None
) -> list[Baseline]:
    """The plan and its baselines, without duplicates; ``stock`` is the plan that was searched among quanto's own formats."""
    menu, budget, separate = bench.menu, searched.limit, local_search.summed(bench, cell)
    found: list[Baseline] = [
        (PLAN, "search", bench.choice(searched.found.units)),
        ("additive", "additive", solve(menu, separate, budget)),
    ]
    for column, name in enumerate(menu.formats[:-1]):
        if (choice := baselines.uniform(menu, column)) is not None:
            found.append((f"uniform {name}", "uniform", choice))
    if stock is not None:
        found.append((WITHOUT_CALIBRATION, "stock", bench.choice(stock.units)))
    found.append(("contiguous", "contiguous", baselines.contiguous(menu, budget)))
    rng = np.random.default_rng(seed)
    found += [(f"random {number + 1}", "random", baselines.random_plan(menu, budget, rng)) for number in range(settings.random)]
    by_bytes = replace(menu, nanoseconds=None)
    for bits in settings.frontier:
        try:
            found.append((f"{bits:g} bits", "frontier", solve(by_bytes, separate, budget_bytes(menu, bits))))
        except PlanError:  # no plan is that small
            continue
    return list(baselines.distinct(found))


def with_slices(bench: Workbench, chosen: Sequence[Baseline], cell: SlicesCell) -> list[Baseline]:
    """The plans of slices after the others, without those that are another one as a user would apply it: nothing is measured twice."""
    seen = {choice.tobytes() for _, origin, choice in chosen if origin in AS_APPLIED}
    found = list(chosen)
    for item in cell.slices:
        choice = bench.choice(item.search.found.units)
        if choice.tobytes() not in seen:
            seen.add(choice.tobytes())
            found.append((slices.variant(item.name), "slice", choice))
    return found


def plans_cell(
    bench: Workbench,
    chosen: Sequence[Baseline],
    sequence_set: SequenceSet,
    searched: SearchCell,
    whole: Mapping[str, Mapping[str, Weight]],
    progress: Progress = silent,
) -> PlansCell:
    """The record of whole plans.

    Args:
        bench: a workbench on the held-out set.
        chosen: the plans to measure.
        sequence_set: the held-out set.
        searched: the search, for its budget.
        whole: plan -> its weights as applied, if they differ from the workbench's. The searched plan is then also measured with the
            workbench's weights: the difference is the gain of rounding in sequence, and baselines are not rounded that way.
        progress: receives the share that is done.
    """

    def rounded(name: str, choice: Integers) -> Rounded | None:
        if not any(is_calibrated(format_) for format_ in bench.named(choice).values()):
            return None
        return "in sequence" if name in whole else "alone"

    def made(name: str, choice: Integers) -> Rounded | None:
        return "tuned" if name == TUNED else rounded(name, choice)

    if PLAN in whole:
        chosen = [*chosen, *((SEPARATE, "separate", choice) for name, _, choice in chosen if name == PLAN)]
    measured = local_search.as_made(
        bench, [(choice, whole.get(name) or local_search.weights_of(bench, choice)) for name, _, choice in chosen], progress
    )
    return PlansCell(
        variant=searched.variant,
        sequences_sha256=sequence_set.sha256,
        sequence_tokens=sequence_set.sequence_tokens,
        passed_over=sequence_set.passed_over,
        budget_bytes=searched.budget_bytes,
        budget_ns=searched.budget_ns,
        plans=tuple(
            NamedTrial(name=name, origin=origin, rounded=made(name, choice), **trial.model_dump())
            for (name, origin, choice), trial in zip(chosen, measured, strict=True)
        ),
    )


def baseline(cell: PlansCell, name: str) -> NamedTrial | None:
    """The plan of an origin with the least measured KL; None if none was measured."""
    return cell.best_of(name)
