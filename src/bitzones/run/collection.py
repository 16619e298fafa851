"""Which tests are cells, what their arguments go through, and in which order they run.

This module imports nothing heavy: it is loaded beside every test suite of an environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bitzones.schema.profile import Profile

__all__ = ["in_order", "is_cell", "mark", "parametrize"]

CELL_FIXTURES = frozenset({"bitzones_session", "bitzones_cell"})
"""A test that uses one of these measures: it is parametrized by the profile and put into the run's order."""

VARIANTS = ("variant", "answering", "quantized", "compared")
"""Arguments that hold a variant's id."""

NONE = "none"
"""Stands for a value where the profile names none, such as a task: pytest would show such a test as skipped, and it is no cell."""

COLLECTED = pytest.StashKey[int]()
"""A test's place among those of the plugin, before any other plugin reorders them; in the config's stash, how many there are."""


def is_cell(test: pytest.Item | pytest.Metafunc) -> bool:
    """Whether a test measures."""
    return not CELL_FIXTURES.isdisjoint(getattr(test, "fixturenames", ()))


def mark(item: pytest.Item) -> None:
    """Give a test that uses a fixture of the plugin its marker, and remember its place."""
    if any(name.startswith("bitzones_") for name in getattr(item, "fixturenames", ())):
        item.add_marker("bitzones")
        item.stash[COLLECTED] = item.config.stash.get(COLLECTED, 0)
        item.config.stash[COLLECTED] = item.stash[COLLECTED] + 1


def parametrize(metafunc: pytest.Metafunc, chosen: Profile) -> None:
    """Have a cell's arguments go through what the profile names, but for those that the test parametrizes itself."""
    own = {name for item in metafunc.definition.iter_markers("parametrize") for name in _argument_names(item)}
    for name, values in _parameters(chosen).items():  # in this order, so that the variant leads the id: w4-science_mini
        if name in metafunc.fixturenames and name not in own:
            metafunc.parametrize(name, values or [NONE])


def _argument_names(item: pytest.Mark) -> list[str]:
    names = item.args[0] if item.args else item.kwargs.get("argnames", ())
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def _parameters(chosen: Profile) -> dict[str, Sequence[str]]:
    """Argument of a cell -> what it goes through."""
    from bitzones.schema import profile

    variants = list(profile.variant_formats(chosen))
    return {
        "variant": [*variants, profile.PLAN],
        "answering": [*variants, profile.PLAN, *chosen.plans.accuracy],
        "quantized": [*variants[1:], profile.PLAN],
        "compared": [*variants[1:], profile.PLAN, *chosen.plans.as_variants],
        "domain": [domain.name for domain in chosen.domains],
        "task": [task.name for task in chosen.tasks],
        "timing": list(chosen.latency.timings()),
    }


def in_order(items: Sequence[pytest.Item], chosen: Profile) -> list[pytest.Item]:
    """Variant by variant, so that each is quantized once; then what needs all of them, then plans, and the cells of single plans last.

    Only cells are moved, among the places that cells have; a plugin that shuffles tests changes nothing about their order. Those that the
    profile has no value for are left out.
    """
    order, kept = _order(chosen), [item for item in items if not _is_empty(item)]
    cells = iter(sorted(filter(is_cell, kept), key=lambda item: (order(item), item.stash[COLLECTED])))
    return [next(cells) if is_cell(item) else item for item in kept]


def _is_empty(item: pytest.Item) -> bool:
    return is_cell(item) and any(value is NONE for value in _params(item).values())


def _params(item: pytest.Item) -> Mapping[str, object]:
    return item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}


def _order(chosen: Profile) -> Callable[[pytest.Item], int]:
    from bitzones.schema import profile

    order = {name: number for number, name in enumerate(profile.variant_formats(chosen))}
    single = {name: len(order) + 2 + number for number, name in enumerate((profile.PLAN, *chosen.plans.as_variants))}

    def place(item: pytest.Item) -> int:
        params = _params(item)
        variant = next((str(params[name]) for name in VARIANTS if name in params), "")
        if variant in single:
            return single[variant]
        return len(order) + 1 if item.get_closest_marker("bitzones_plans") else order.get(variant, len(order))

    return place
