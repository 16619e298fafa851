"""A plan for each task or text domain of a session, searched on its own sequences of the one sweep, within the budget of the plan for
all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bitzones.run import whole_plans
from bitzones.schema import slices
from bitzones.schema.errors import NotMeasuredError
from bitzones.schema.plan_cells import SearchCell
from bitzones.schema.progress import Progress
from bitzones.schema.slices_cell import Slice, SlicesCell
from bitzones.search import goals

if TYPE_CHECKING:
    from bitzones.run.session import Batches, Session

__all__ = ["search_slices", "units_of"]


def search_slices(session: Session, progress: Progress) -> SlicesCell:
    """Which sequences are of which slice, and the plan searched for each.

    A sweep measures every sequence by itself, so a slice's separate sensitivities are read off the run's, and only whole plans are
    measured here: as many sequences in all as the search for the plan for all takes.
    """
    by, made_of, judged_on = session.profile.plans.by, session.sets.by_slice("sensitivity"), session.sets.by_slice("held_out")
    assert by is not None, "the profile makes one plan only"
    found = []
    for number, (name, places) in enumerate(made_of.items()):
        found.append(_searched(session, name, places, judged_on[name], lambda share, n=number: progress((n + share) / len(made_of))))  # type: ignore[misc]
    return SlicesCell(
        variant=session.reference_id,
        by=by,
        sequences_sha256=session.sensitivity_set.sha256,
        held_out_sha256=session.held_out.sha256,
        slices=tuple(found),
    )


def _searched(session: Session, name: str, places: tuple[int, ...], judged_on: tuple[int, ...], progress: Progress) -> Slice:
    own = session.sensitivity_set.of(places)
    sweep = session.sweep().of_sequences(places, own.sha256)

    def searched(batches: Batches) -> SearchCell:
        bench = whole_plans.workbench(session, batches, own)
        return goals.search_within(bench, sweep, session.search(), session.profile.plans.rounds, progress)

    return Slice(
        name=name,
        sensitivity=places,
        held_out=judged_on,
        held_out_sha256=session.held_out.of(judged_on).sha256,
        search=session.on(own, searched),
    )


def units_of(session: Session, variant: str) -> Mapping[str, str]:
    """Unit -> format of the plan of a slice, to be measured as a variant.

    Raises:
        NotMeasuredError: it is another plan of the run under another name, which is measured already.
    """
    name, cell = slices.variants(session.profile)[variant], session.slices()
    if (same := cell.same_as(name, session.search().found.units)) is not None:
        raise NotMeasuredError(f"the plan for {name} is the plan for {same or 'all'}, which is measured as such")
    return next(item.search.found.units for item in cell.slices if item.name == name)
