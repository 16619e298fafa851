"""Whole plans for tests, with a planted answer: units that lie side by side at 2 bits do each other harm.

Separate sensitivities do not see that, so their plan can be improved by exchanging two units, and the search here does so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bitzones.allocation.knapsack import Menu, budget_bytes, menu_of, solve
from bitzones.analysis.layer_sensitivity import measured_of
from bitzones.schema.plan_cells import NamedTrial, PlanOrigin, PlansCell, SearchCell, SearchRound, Trial
from bitzones.schema.profile import PLAN
from bitzones.schema.sensitivity_cells import FisherCell, SensitivityCell, UnitScores, UnitSensitivity

TOGETHER = 0.5
"""What each pair of neighbours at 2 bits adds to the KL of a plan, as a share of the sum of all units."""

NARROW = "qint2:hqq"


def together(sweep: SensitivityCell, units: dict[str, str]) -> float:
    """How much more a whole plan does than its units one by one."""
    at = [units[unit.name] == NARROW for unit in sweep.units]
    return 1 + TOGETHER * sum(a and b for a, b in pairwise(at))


def trial(sweep: SensitivityCell, units: dict[str, str], sequence_tokens: Sequence[int], seed: int) -> Trial:
    """A plan, measured: the sum of its units per token, times `together`, on sequences of their own; noise is that of the sequences."""
    tokens, noise = np.array(sequence_tokens), np.random.default_rng(seed).lognormal(0, 0.3, len(sequence_tokens))
    of = {(item.unit, item.format): item for item in sweep.measurements}
    chosen = [(unit, of.get((unit.name, units[unit.name]))) for unit in sweep.units]
    nats = sum(sum(item.kl_nats or ()) for _, item in chosen if item is not None) / sum(sweep.sequence_tokens)
    stored = sum(unit.reference_bytes if item is None else item.stored_bytes for unit, item in chosen)
    kl = nats * together(sweep, units) * tokens * noise
    return Trial(units=dict(units), stored_bytes=stored, kl_nats=tuple(kl.tolist()))


def fisher(sweep: SensitivityCell, samples: int = 2) -> FisherCell:
    """Scores whose mean square is twice the measured KL, with the spread of few samples."""
    rng = np.random.default_rng(11)
    scores = []
    for item in sweep.measurements:
        root = np.sqrt(2 * np.array(item.kl_nats or (0.0,) * len(sweep.sequence_tokens)))
        drawn = root * rng.choice((-1.0, 1.0), (samples, len(root))) * rng.lognormal(-0.02, 0.2, (samples, len(root)))
        scores.append(UnitScores(unit=item.unit, format=item.format, nats=tuple(drawn.ravel().tolist())))
    return FisherCell(
        variant="bf16",
        sequences_sha256=sweep.sequences_sha256,
        sequence_tokens=sweep.sequence_tokens,
        samples=samples,
        units=sweep.units,
        scores=tuple(scores),
    )


def _menu(sweep: SensitivityCell, bits: float) -> tuple[Menu, int, dict[str, str]]:
    """What is offered, the budget, and the plan of least sum."""
    formats = tuple(dict.fromkeys(item.format for item in sweep.measurements))
    menu = menu_of(sweep, formats, "bf16")
    budget = budget_bytes(menu, bits)
    choice = solve(menu, measured_of(sweep, formats, 20, 0).mean, budget)
    return menu, budget, {unit: menu.formats[index] for unit, index in zip(menu.units, choice, strict=True)}


def around(sweep: SensitivityCell, at: Trial) -> tuple[UnitSensitivity, ...]:
    """The plan, measured with one unit in another format, for every unit and every other format that was measured."""
    return tuple(
        item.model_copy(update={"group_sizes": (), "weight_error": None, "kl_nats": changed.kl_nats})
        for item in sweep.measurements
        if item.format != at.units[item.unit] and item.kl_nats is not None
        for changed in [trial(sweep, at.units | {item.unit: item.format}, sweep.sequence_tokens, 5)]
    )


def searched(sweep: SensitivityCell, bits: float = 4.0, rounds: int = 2) -> SearchCell:
    """Each round exchanges two units so that fewer neighbours share 2 bits, as long as that measures lower."""
    _, budget, units = _menu(sweep, bits)
    start = at = trial(sweep, units, sweep.sequence_tokens, 5)
    offered = {(item.unit, item.format) for item in sweep.measurements if item.kl_nats is not None}
    done: list[SearchRound] = []
    for _ in range(rounds):
        names = list(at.units)
        pairs = [(a, b) for a in names for b in names if at.units[a] == NARROW != at.units[b]]
        swaps = [(a, b) for a, b in pairs if {(a, at.units[b]), (b, NARROW)} <= offered]
        found = [trial(sweep, {**at.units, a: at.units[b], b: NARROW}, sweep.sequence_tokens, 5) for a, b in swaps]
        found.sort(key=lambda item: sum(item.kl_nats or ()))
        better = bool(found) and sum(found[0].kl_nats or ()) < sum(at.kl_nats or ())
        done.append(SearchRound(around=around(sweep, at), trials=tuple(found[:3]), accepted=0 if better else None))
        if not better:
            break
        at = found[0]
    return SearchCell(
        variant="bf16",
        sequences_sha256=sweep.sequences_sha256,
        sequence_tokens=sweep.sequence_tokens,
        budget_bytes=budget,
        start=start,
        rounds=tuple(done),
        around=around(sweep, at) if done and done[-1].accepted is not None else None,
    )


def held_out(sweep: SensitivityCell, search: SearchCell, sequences: int = 30, bits: float = 4.0, randoms: int = 5) -> PlansCell:
    """The searched plan beside its baselines, each different plan once."""
    tokens = np.random.default_rng(13).integers(20, 60, sequences).tolist()
    menu, _, additive = _menu(sweep, bits)
    named: list[tuple[str, PlanOrigin, dict[str, str]]] = [(PLAN, "search", search.found.units), ("additive", "additive", additive)]
    for column, name in enumerate(menu.formats[:-1]):
        if menu.offered[:, column].all():
            named.append((f"uniform {name}", "uniform", dict.fromkeys(additive, name)))
    for number in range(randoms):
        names = np.random.default_rng(number).permutation(list(additive.values())).tolist()
        named.append((f"random {number + 1}", "random", dict(zip(additive, names, strict=True))))
    named += [(f"{other:g} bits", "frontier", _menu(sweep, other)[2]) for other in (3.0, 5.0, 6.0)]
    seen: list[dict[str, str]] = []
    plans = []
    unmeasured = {(item.unit, item.format) for item in sweep.measurements if item.kl_nats is None}
    for name, origin, units in named:
        if units not in seen and not unmeasured & set(units.items()):
            seen.append(units)
            plans.append(NamedTrial(name=name, origin=origin, **trial(sweep, units, tokens, 17).model_dump()))
    return PlansCell(
        variant="bf16",
        sequences_sha256="h" * 64,
        sequence_tokens=tuple(tokens),
        budget_bytes=search.budget_bytes,
        plans=tuple(plans),
    )
