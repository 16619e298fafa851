"""Whole plans of a session, measured: the search on the sensitivity set, and the comparison with baselines on the held-out set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from bitzones.allocation.baselines import Baseline
from bitzones.backends.backend_protocol import Weight
from bitzones.data import sequences
from bitzones.data.sequences import SequenceSet
from bitzones.devices import oom_retry
from bitzones.models import structure
from bitzones.schema.errors import BitzonesError
from bitzones.schema.formats import is_calibrated
from bitzones.schema.plan_cells import PlansCell, SearchCell, Trial
from bitzones.schema.profile import PLAN, TUNED
from bitzones.schema.progress import Progress
from bitzones.schema.slices_cell import SlicesCell
from bitzones.search import goals, held_out, local_search
from bitzones.search.local_search import Workbench

if TYPE_CHECKING:
    from bitzones.run.session import Batches, Session

__all__ = ["compare_plans", "search_plan", "workbench"]


def workbench(session: Session, batches: Batches, on: SequenceSet) -> Workbench:
    """Measures plans of the session's units on a set of sequences."""
    return local_search.workbench(
        session.variants, session.sweep(), batches, len(on.sequences), session.times, session.profile.sensitivity.head
    )


def search_plan(session: Session, progress: Progress) -> SearchCell:
    """The plan of the profile's budget, searched on the sensitivity set."""
    profile = session.profile

    def searched(batches: Batches) -> SearchCell:
        bench = workbench(session, batches, session.sensitivity_set)
        return goals.search_cell(bench, session.sweep(), profile.budget, session.variants.uniform, profile.plans.rounds, progress)

    return session.on(session.sensitivity_set, searched)


def compare_plans(session: Session, progress: Progress) -> PlansCell:
    """The plan that was found beside its baselines, on the held-out set."""
    stock, whole = _without_calibration(session), dict[str, Mapping[str, Weight]]()

    def compared(batches: Batches) -> PlansCell:
        bench = workbench(session, batches, session.held_out)
        profile, found = session.profile, session.search()
        baselines = held_out.comparison_plans(bench, session.sweep(), found, profile.plans, profile.seed, stock)
        baselines += _tuned(session, bench)
        if (slices := _slices(session)) is not None:
            baselines = held_out.with_slices(bench, baselines, slices)
        if not session.variants.is_streamed:  # else plans are measured with every module rounded alone, and the record says so
            whole.update(_whole_weights(session, bench, [item for item in baselines if item[0] not in whole]))
        return held_out.plans_cell(bench, baselines, session.held_out, found, whole, progress)

    return session.on(session.held_out, compared)


def _tuned(session: Session, bench: Workbench) -> list[Baseline]:
    """The plan as tuned, where the profile tunes it; none where that failed, which has a cell of its own."""
    if session.profile.tuning is None:
        return []
    with suppress(BitzonesError):
        session.tune()
        return [(TUNED, "tuned", bench.choice(session.search().found.units))]
    return []


def _slices(session: Session) -> SlicesCell | None:
    """The plans by task or domain; None where the profile has none, or where that failed, which has a cell of its own."""
    if session.profile.plans.by is None:
        return None
    with suppress(BitzonesError):
        return session.slices()
    return None


def _without_calibration(session: Session) -> Trial | None:
    """The plan that the search would find without calibrated formats; None if the profile has none."""
    budget, profile, chosen = session.search().limit, session.profile, session.sensitivity_set

    def searched(size: int) -> Trial | None:
        bench = workbench(session, lambda: sequences.batches(chosen, size, session.device), chosen)
        return goals.without_calibration(bench, session.sweep(), budget, profile.plans.rounds)

    return oom_retry.halving(profile.sensitivity.batch, searched, session.device)[0]


def _whole_weights(session: Session, bench: Workbench, baselines: Iterable[Baseline]) -> Iterator[tuple[str, Mapping[str, Weight]]]:
    """Name and weights of each plan with calibrated formats: these are rounded layer after layer, so they depend on the whole plan."""
    variants, units = session.variants, session.units
    every = {name for unit in units for name in unit.modules}
    covered = set(structure.quantizable_modules(variants.reference)) <= every
    known = {f"uniform {name}": variant for variant, name in variants.uniform.items() if covered} | {PLAN: PLAN, TUNED: TUNED}
    for name, origin, choice in baselines:
        formats, alone = bench.named(choice), local_search.weights_of(bench, choice)
        if name != TUNED and (origin not in held_out.AS_APPLIED or not any(map(is_calibrated, formats.values()))):
            continue
        if name in known:
            dense = {key.removesuffix(".weight"): values.to(variants.compute_dtype) for key, values in variants.dense(known[name]).items()}
            yield name, {**variants.whole(known[name]), **dense}
        else:
            chosen = {module: formats[unit.name] for unit in units for module in unit.modules if module in alone}
            yield name, {**alone, **variants.in_sequence(name, chosen).weights}
