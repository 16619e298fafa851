"""What tuning the plan bought: on the validation split, on held-out sequences, and by domain, each paired with the plan before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bitzones.analysis.domain_figures import DomainReading, DomainsReading
from bitzones.analysis.domains import word_of
from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.plan_verdicts import PlansReading
from bitzones.analysis.tuning_figures import TuningGain, TuningReading
from bitzones.schema import text_sources
from bitzones.schema.profile import PLAN, TUNED
from bitzones.schema.run_record import Run
from bitzones.schema.tuning_cells import TuningCell
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

__all__ = ["read_tuning"]

VALIDATION_SEED = 3
"""Added to the seed, so that validation sequences are resampled independently of the other sets."""


def read_tuning(run: Run, cell: TuningCell, plans: PlansReading | None, domains: DomainsReading | None) -> TuningReading:
    """The gain of a tuning wherever both the plan and the tuned plan were measured."""
    return TuningReading(
        weights=cell.weights,
        parameters=cell.parameters,
        validation=_validation(run, cell),
        gains=(*_held_out(plans), *(gain for item in (domains.domains if domains else ()) for gain in _domain(run, item))),
    )


def _validation(run: Run, cell: TuningCell) -> TuningGain:
    tokens = np.asarray(cell.sequence_tokens, dtype=np.float64)
    before, after = (np.asarray(nats, dtype=np.float64) for nats in (cell.before_nats, cell.after_nats))
    weights = resample_weights(len(tokens), INTERVAL_RESAMPLES, run.profile.seed + VALIDATION_SEED)
    found = [bootstrap_ratio(weights, nats, tokens) for nats in (before, after, after - before)]
    return TuningGain(
        text="validation split",
        tuned_on=True,
        unseen=False,
        n=len(tokens),
        before=found[0],
        after=found[1],
        difference=found[2],
        word=word_of(found[2]),
    )


def _held_out(plans: PlansReading | None) -> Iterator[TuningGain]:
    made = {item.name: item for item in plans.plans} if plans else {}
    if plans is None or TUNED not in made or plans.searched not in made:
        return
    before, after = made[plans.searched].measured, made[TUNED].measured
    against = made[TUNED].searched
    if before is None or after is None or against is None:
        return
    difference = _negative(against.difference)
    yield TuningGain(
        text="held out",
        tuned_on=True,
        unseen=False,
        n=plans.sequences,
        before=before,
        after=after,
        difference=difference,
        word=word_of(difference),
    )


def _domain(run: Run, item: DomainReading) -> Iterator[TuningGain]:
    before, after = item.of(PLAN), item.of(TUNED)
    difference = next(iter(_differences(item)), None)
    if before is None or after is None or difference is None:
        return
    known = {source.source for source in text_sources.sources(run.profile, "tuning")} if run.profile.tuning else set()
    yield TuningGain(
        text=item.name,
        tuned_on=item.source in known,
        unseen=item.unseen,
        n=item.windows,
        before=before.kl,
        after=after.kl,
        difference=difference,
        word=word_of(difference),
    )


def _differences(item: DomainReading) -> Iterator[Estimate]:
    """KL of the tuned plan minus that of the plan before, whichever of the two the domain compares with all others."""
    for row in item.compared:
        if item.subject == TUNED and row.variant == PLAN:
            yield row.difference
        elif item.subject == PLAN and row.variant == TUNED:
            yield _negative(row.difference)


def _negative(found: Estimate) -> Estimate:
    ends = None if found.low is None or found.high is None else (-found.high, -found.low)
    return Estimate(value=-found.value, low=ends[0] if ends else None, high=ends[1] if ends else None)
