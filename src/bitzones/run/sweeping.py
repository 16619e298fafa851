"""The sweep of a session: every unit and format on all sequences, or on as many as the plan and the zones need."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from bitzones.allocation.knapsack import Menu, budget_bytes
from bitzones.allocation.time_cost import budget_ns, timed_menu
from bitzones.data import sequences
from bitzones.devices import oom_retry
from bitzones.models import streamed_weights
from bitzones.schema.errors import NonFiniteError
from bitzones.schema.progress import Progress
from bitzones.schema.record import Shortage
from bitzones.schema.sensitivity_cells import SensitivityCell
from bitzones.search import goals
from bitzones.sensitivity import adaptive, streamed, sweep
from bitzones.sensitivity.sweep import Candidate

if TYPE_CHECKING:
    from bitzones.run.session import Session

__all__ = ["expected_menu", "swept"]


def swept(session: Session, progress: Progress) -> SensitivityCell:
    """The separate sensitivities, with the effort that the profile asks for."""
    if (cluster := session.ray) is not None:
        from bitzones.run import ray_sweep  # only where Ray is asked for: the package is an extra

        return session.hardware.at_half(
            session.profile.sensitivity.batch, lambda batch: ray_sweep.measured(session, batch, cluster, progress)
        )
    if session.profile.sensitivity.effort == "adaptive":
        streamed_weights.refuse(session.variants.reference, 'effort = "adaptive"')
        return _raced(session, progress)
    chosen = session.sensitivity_set
    if session.variants.is_streamed:
        return session.on(
            chosen,
            lambda batches: streamed.exact_cell(session.variants, session.units, session.granularity, chosen, batches(), progress),
        )
    return session.on(
        chosen,
        lambda batches: sweep.exact_cell(
            session.variants, session.units, session.granularity, chosen, batches(), progress, session.profile.sensitivity.head
        ),
    )


def expected_menu(session: Session) -> Menu:
    """What the sweep will offer, the variants' formats in order."""
    variants = session.variants
    formats, reference = tuple(variants.uniform.values()), variants.formats[variants.reference_id]
    return goals.expected_menu(variants.loaded.model, session.units, formats, reference, variants.staying)


def _raced(session: Session, progress: Progress) -> SensitivityCell:
    menu, budget, profile = expected_menu(session), session.profile.budget, session.profile
    if budget.latency is not None:
        timed = timed_menu(menu, session.unit_times())
        raced_for = timed, budget_ns(timed, budget.latency)
    else:
        raced_for = menu, budget_bytes(menu, budget.average_bits or 0.0)
    raced = adaptive.Raced(*raced_for, session.sets.strata("sensitivity"), _uniform(session), profile.seed)
    batches = _Batches(session)
    cell = adaptive.adaptive_cell(
        session.variants, session.units, session.granularity, session.sensitivity_set, raced, batches.measure, progress
    )
    return cell.model_copy(update={"shortages": batches.shortages}) if batches.shortages else cell


def _uniform(session: Session) -> dict[str, Sequence[float]]:
    """Format -> KL of the whole model in it, where there is one: measured anyway, and what estimates start from."""
    found: dict[str, Sequence[float]] = {}
    for variant, name in session.variants.uniform.items():
        with suppress(NonFiniteError):
            found[name] = session.divergence(variant).kl_nats
    return found


class _Batches:
    """Measures candidates on some of the sensitivity sequences, in the batches of the profile or smaller ones that memory is enough for."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._size = session.profile.sensitivity.batch
        self.shortages: tuple[Shortage, ...] = ()

    def measure(self, candidates: Sequence[Candidate], places: Sequence[int]) -> sweep.Sweep:
        """As `adaptive.Measure`."""
        session, chosen = self._session, self._session.sensitivity_set.of(places)

        def swept(size: int) -> sweep.Sweep:
            batches = sequences.batches(chosen, size, session.device)
            head = session.profile.sensitivity.head
            return sweep.exact(session.variants.reference, session.layers, candidates, batches, len(places), head=head)

        found, shortages = oom_retry.halving(self._size, swept, session.device)
        self._size >>= len(shortages)
        self.shortages += shortages
        return found
