"""Every plan by task or text domain on the held-out sequences of every task or domain, against the plan for all on the same ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES, Sample, sample_of
from bitzones.analysis.plan_ranking import HELD_OUT_SEED
from bitzones.analysis.slice_figures import Crossed, GainWord, SliceGain
from bitzones.schema import slices as named
from bitzones.schema.plan_cells import NamedTrial, PlansCell
from bitzones.schema.run_record import Run
from bitzones.schema.slices_cell import SlicesCell
from bitzones.stats.bootstrap import bootstrap_p, bootstrap_ratio, estimate, weighted_ratio
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate
from bitzones.stats.significance import holm

__all__ = ["read_crossed"]

FINEST = 10
"""Resamples are so many that the least p-value that they can give is a tenth of what Holm's first step asks of as many comparisons."""

Floats = NDArray[np.float64]
Units = Mapping[str, str]
Key = tuple[str | None, str | None]
"""A plan's slice and the slice whose sequences it is measured on; None is all."""


def read_crossed(run: Run, cell: SlicesCell, plans: PlansCell | None, units: Mapping[str | None, Units]) -> tuple[Crossed, ...]:
    """Plans by slices, the plan for all first.

    Args:
        run: for its seed.
        cell: says which held-out sequences are of which slice.
        plans: what was measured.
        units: slice -> its plan; under None the plan for all.
    """
    trials = {name: trial for name, made in units.items() if (trial := _trial(plans, name, made)) is not None} if plans else {}
    if plans is None or None not in trials:
        return ()
    found, kl = dict[Key, _Compared](), dict[Key, Estimate]()
    columns: dict[str | None, list[int]] = {item.name: list(item.held_out) for item in cell.slices}
    columns[None] = sorted(place for places in columns.values() for place in places)
    resamples = max(INTERVAL_RESAMPLES, math.ceil(FINEST * 2 * len(units) ** 2 / ALPHA))
    for on, places in columns.items():
        sample = sample_of([plans.sequence_tokens[n] for n in places], resamples, run.profile.seed + HELD_OUT_SEED)
        nats = {name: np.asarray(trial.kl_nats)[places][sample.kept] for name, trial in trials.items()}
        for name, values in nats.items():
            kl[name, on] = bootstrap_ratio(sample.weights, values, sample.tokens)
            found[name, on] = _compare(sample, values, nats[None], same=units[name] == units[None])
    gains = {key: gain for family in _families(found) for key, gain in _gains(family).items()}
    return tuple(
        Crossed(made_for=name, measured_on=on, stored_bytes=trial.stored_bytes, kl=kl[name, on], against=gains.get((name, on)))
        for name, trial in trials.items()
        for on in columns
    )


def _trial(plans: PlansCell, name: str | None, units: Units) -> NamedTrial | None:
    """The plan as measured: under its own name, or under that of another plan that it is, rounded as it would be applied if one is."""
    alike = [trial for trial in plans.plans if trial.units == units and trial.kl_nats is not None and trial.rounded != "tuned"]
    alike.sort(key=lambda trial: (name is None or trial.name != named.variant(name), trial.rounded == "alone"))
    return alike[0] if alike else None


@dataclass(frozen=True)
class _Compared:
    """A plan against the plan for all; ``p_value`` is None where there is nothing to test, or too few sequences."""

    difference: Estimate
    ratio: Estimate | None
    p_value: float | None
    same: bool


def _compare(sample: Sample, plan: Floats, for_all: Floats, *, same: bool) -> _Compared:
    tokens, n = sample.tokens, sample.sequences
    ours, theirs = (weighted_ratio(sample.weights, nats, tokens) for nats in (plan, for_all))
    difference = estimate((plan.sum() - for_all.sum()) / tokens.sum(), ours - theirs, n)
    divides = for_all.sum() > 0 and bool((theirs > 0).all())
    ratio = estimate(plan.sum() / for_all.sum(), ours / theirs, n) if divides else None
    return _Compared(difference, ratio, None if same or n < MIN_SEQUENCES else bootstrap_p(ours - theirs), same)


def _families(compared: Mapping[Key, _Compared]) -> Iterator[dict[Key, _Compared]]:
    """Comparisons that are corrected together: gains on own text, costs on the text of others, and both together on all text."""
    plans = {key: made for key, made in compared.items() if key[0] is not None}
    yield {key: made for key, made in plans.items() if key[0] == key[1]}
    yield {key: made for key, made in plans.items() if key[1] not in (key[0], None)}
    yield {key: made for key, made in plans.items() if key[1] is None}


def _gains(compared: Mapping[Key, _Compared]) -> dict[Key, SliceGain]:
    tested = {key: made.p_value for key, made in compared.items() if made.p_value is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {
        key: SliceGain(
            difference=made.difference,
            ratio=made.ratio,
            p_value=made.p_value,
            p_adjusted=adjusted.get(key),
            tests=len(tested),
            word=_word(made, adjusted.get(key)),
        )
        for key, made in compared.items()
    }


def _word(made: _Compared, p_adjusted: float | None) -> GainWord:
    if made.same:
        return "same"
    if p_adjusted is None or p_adjusted >= ALPHA:
        return "inconclusive"
    return "better" if made.difference.value < 0 else "worse"
