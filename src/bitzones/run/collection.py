"""Collection of cells: which tests are cells, their parameters, and their order.

Imports nothing heavy, because the plugin is loaded into every test suite of an environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bitzones.schema.profile import Profile

__all__ = ["in_order", "is_cell", "mark", "parametrize"]

CELL_FIXTURES = frozenset({"bitzones_session", "bitzones_cell", "bitzones_duet"})
"""A test that uses one of these is a cell: it is parametrized by the profile and sorted into the run's order."""

VARIANTS = ("variant", "answering", "quantized", "compared", "dueling")
"""Arguments that hold a variant's ID."""

NONE = "none"
"""Placeholder for an argument without a value in the profile, such as a task: pytest would show such a test as skipped; it is dropped."""

COLLECTED = pytest.StashKey[int]()
"""A test's position among those of the plugin before other plugins reorder them; in the config's stash, their number."""


def is_cell(test: pytest.Item | pytest.Metafunc) -> bool:
    """Whether a test is a cell."""
    return not CELL_FIXTURES.isdisjoint(getattr(test, "fixturenames", ()))


def mark(item: pytest.Item) -> None:
    """Mark a test that uses a fixture of the plugin, and remember its position."""
    if any(name.startswith("bitzones_") for name in getattr(item, "fixturenames", ())):
        item.add_marker("bitzones")
        item.stash[COLLECTED] = item.config.stash.get(COLLECTED, 0)
        item.config.stash[COLLECTED] = item.stash[COLLECTED] + 1


def parametrize(metafunc: pytest.Metafunc, chosen: Profile) -> None:
    """Parametrize a cell's arguments with the profile's values, except those that the test parametrizes itself."""
    own = {name for item in metafunc.definition.iter_markers("parametrize") for name in _argument_names(item)}
    dueling = metafunc.config.getoption("bitzones_duet", None) is not None
    for name, values in _parameters(chosen, dueling=dueling).items():  # in this order, so that IDs start with the variant: w4-science_mini
        if name in metafunc.fixturenames and name not in own:
            metafunc.parametrize(name, values or [NONE])


def _argument_names(item: pytest.Mark) -> list[str]:
    names = item.args[0] if item.args else item.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _parameters(chosen: Profile, *, dueling: bool) -> dict[str, Sequence[str]]:
    """Argument of a cell -> its values."""
    from bitzones.schema import profile, slices

    variants, tuned = list(profile.variant_formats(chosen)), [] if chosen.tuning is None else [profile.TUNED]
    return {
        "variant": [*variants, profile.PLAN],
        "answering": [*variants, profile.PLAN, *tuned, *chosen.plans.accuracy, *slices.variants(chosen)],
        "quantized": [*variants[1:], profile.PLAN],
        "compared": [*variants[1:], profile.PLAN, *tuned, *chosen.plans.as_variants],
        "tuned": tuned,
        "by": [chosen.plans.by] if chosen.plans.by else [],
        "dueling": variants if dueling else [],
        "domain": [domain.name for domain in chosen.domains],
        "task": [task.name for task in chosen.tasks],
        "timing": list(chosen.latency.timings()),
    }


def in_order(items: Sequence[pytest.Item], chosen: Profile) -> list[pytest.Item]:
    """Sort cells by variant, so that each is quantized once; then cells that need all variants, plans, and last the cells of single plans.

    Only cells move, among the positions of cells, so a plugin that shuffles tests does not change their order. Cells for which the profile
    has no value are dropped.
    """
    order, kept = _order(chosen), [item for item in items if not _is_empty(item)]
    cells = iter(sorted(filter(is_cell, kept), key=lambda item: (order(item), item.stash[COLLECTED])))
    return [next(cells) if is_cell(item) else item for item in kept]


def _is_empty(item: pytest.Item) -> bool:
    return is_cell(item) and any(value is NONE for value in _params(item).values())


def _params(item: pytest.Item) -> Mapping[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _order(chosen: Profile) -> Callable[[pytest.Item], int]:
    from bitzones.schema import profile, slices

    order = {name: number for number, name in enumerate(profile.variant_formats(chosen))}
    plans = (profile.PLAN, profile.TUNED, *chosen.plans.as_variants, *slices.variants(chosen))
    single = {name: len(order) + 2 + number for number, name in enumerate(plans)}

    def place(item: pytest.Item) -> int:
        params = _params(item)
        variant = next((str(params[name]) for name in VARIANTS if name in params), "")
        if variant in single:
            return single[variant]
        return len(order) + 1 if item.get_closest_marker("bitzones_plans") else order.get(variant, len(order))

    return place
