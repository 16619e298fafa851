"""Runs by task for tests, valid by construction, with planted answers, no torch.

Units add up: the KL of a plan on a sequence is the sum of its units there. So a search can only find the additive plan, and what the plan
for one task gains on its own and costs on the other follows from what is planted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from make_run import BITS, HARM, PARAMETERS, accuracy, profile
from make_search import around, searched

from bitzones.schema import slices as named
from bitzones.schema.plan_cells import NamedTrial, PlanOrigin, PlansCell, SearchCell, Trial
from bitzones.schema.profile import PLAN, Profile
from bitzones.schema.profile_sections import Budget, Plans
from bitzones.schema.record import Record
from bitzones.schema.sensitivity_cells import SensitivityCell, Unit, UnitSensitivity
from bitzones.schema.slices_cell import Slice, SlicesCell

LAYERS, EACH = 6, 40
TASKS = ("science_mini", "word_problems_mini")
APART: Mapping[str, Sequence[float]] = {
    "science_mini": (20.0, 1.0, 1.0, 0.05, 0.05, 0.2),
    "word_problems_mini": (0.2, 1.0, 1.0, 0.05, 0.05, 20.0),
}
"""Task -> how sensitive each layer is: the first layer matters to one task, the last to the other."""

ALIKE: Mapping[str, Sequence[float]] = dict.fromkeys(TASKS, (20.0, 1.0, 1.0, 0.05, 0.05, 0.2))
"""The same for both tasks."""

BITS_OF_THE_BUDGET = 4.0


def harm(
    planted: Mapping[str, Sequence[float]], owners: Sequence[str], tokens: Sequence[int], seed: int, spread: float = 0.5
) -> np.ndarray:
    """Nats of every layer at a harm of 1, on every sequence; sequences differ in all layers together, and layers a little besides."""
    rng = np.random.default_rng(seed)
    factors = np.array([planted[owner] for owner in owners]).T
    every = rng.lognormal(0, spread, len(owners))
    return np.asarray(factors * every * np.array(tokens) * rng.lognormal(0, 0.2, factors.shape))


def sweep_of(nats: np.ndarray, tokens: Sequence[int]) -> SensitivityCell:
    units = tuple(
        Unit(name=f"layers.{n}", layer=n, modules=(f"model.layers.{n}.q_proj",), parameters=PARAMETERS, reference_bytes=2 * PARAMETERS)
        for n in range(len(nats))
    )
    measurements = tuple(
        UnitSensitivity(
            unit=unit.name,
            format=name,
            stored_bytes=int(bits * PARAMETERS / 8),
            group_sizes=(None,) if name == "qint8" else (96,),
            kl_nats=tuple((HARM[name] * nats[n]).tolist()),
        )
        for n, unit in enumerate(units)
        for name, bits in BITS.items()
    )
    return SensitivityCell(
        variant="bf16", method="exact", sequences_sha256="c" * 64, sequence_tokens=tuple(tokens), units=units, measurements=measurements
    )


def trial(sweep: SensitivityCell, units: Mapping[str, str], nats: np.ndarray) -> Trial:
    """A plan on sequences of which ``nats`` is the harm: the sum of its units."""
    stored = {(item.unit, item.format): item.stored_bytes for item in sweep.measurements}
    size = sum(stored.get((unit.name, units[unit.name]), unit.reference_bytes) for unit in sweep.units)
    kl = sum(HARM.get(units[f"layers.{n}"], 0.0) * row for n, row in enumerate(nats))
    return Trial(units=dict(units), stored_bytes=size, kl_nats=tuple(np.asarray(kl).tolist()))


def search_of(sweep: SensitivityCell, nats: np.ndarray) -> SearchCell:
    """The additive plan, which no round improves; the sweep around it is that of sums."""
    start = trial(sweep, searched(sweep, BITS_OF_THE_BUDGET, rounds=0).start.units, nats)
    swept = tuple(
        item.model_copy(update={"kl_nats": trial(sweep, start.units | {item.unit: item.format}, nats).kl_nats})
        for item in around(sweep, start)
    )
    found = searched(sweep, BITS_OF_THE_BUDGET, rounds=0)
    return found.model_copy(update={"start": start, "rounds": (), "around": swept})


def owners_of(tasks: Sequence[str], each: int) -> list[str]:
    """Sequences from each task in turn."""
    return [tasks[n % len(tasks)] for n in range(each * len(tasks))]


def sliced(
    planted: Mapping[str, Sequence[float]] = APART,
    each: int = EACH,
    by: Literal["task", "domain"] = "task",
    right: Mapping[tuple[str, str], int] | None = None,
) -> list[Record]:
    """The cells of a run with a plan for each slice of ``planted``; ``right`` maps variant and task to items right, of 500."""
    tasks, owners = list(planted), owners_of(list(planted), each)
    tokens = np.random.default_rng(3).integers(20, 60, len(owners)).tolist()
    nats, judged = harm(planted, owners, tokens, 1), harm(planted, owners, tokens, 2)
    sweep = sweep_of(nats, tokens)
    search, places = search_of(sweep, nats), {task: tuple(n for n, owner in enumerate(owners) if owner == task) for task in tasks}
    slices = SlicesCell(
        variant="bf16",
        by=by,
        sequences_sha256=sweep.sequences_sha256,
        held_out_sha256="h" * 64,
        slices=tuple(
            Slice(
                name=task,
                sensitivity=places[task],
                held_out=places[task],
                held_out_sha256=task[0] * 64,
                search=search_of(sweep.of_sequences(places[task], task[0] * 64), nats[:, places[task]]),
            )
            for task in tasks
        ),
    )
    plans: list[tuple[str, PlanOrigin, Mapping[str, str]]] = [(PLAN, "search", search.found.units)]
    for item in slices.slices:
        if all(units != item.search.found.units for _, _, units in plans):
            plans.append((named.variant(item.name), "slice", item.search.found.units))
    compared = PlansCell(
        variant="bf16",
        sequences_sha256="h" * 64,
        sequence_tokens=tuple(tokens),
        budget_bytes=search.budget_bytes,
        plans=tuple(NamedTrial(name=name, origin=origin, **trial(sweep, units, judged).model_dump()) for name, origin, units in plans),
    )
    answers = [accuracy(task, variant, k, chance=0.25 if task == "science_mini" else 0.0) for (variant, task), k in (right or {}).items()]
    return [sweep, search, slices, compared, *answers]


def sliced_profile(by: Literal["task", "domain"] = "task", **changes: Any) -> Profile:
    return profile(**{"plans": Plans(by=by, rounds=0), "budget": Budget(average_bits=BITS_OF_THE_BUDGET), **changes})
