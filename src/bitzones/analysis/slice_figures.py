"""Plans by task or text domain: records of `bitzones.analysis.results.Analysis`.

A slice is one task, or one source of the sensitivity set. Null in place of a slice's name stands for all together: in ``made_for`` for the
plan for all, which is the run's recommended plan, or the searched one where that is tuned or was rounded in another way; in
``measured_on`` for the held-out sequences of all slices.
"""

from __future__ import annotations

from typing import Literal

from bitzones.analysis.decision import Decision
from bitzones.analysis.plan import Decided, ZoneWord
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

__all__ = [
    "Crossed",
    "CrossedAccuracy",
    "GainWord",
    "LayerBySlice",
    "LayerShare",
    "SliceGain",
    "SliceOutcome",
    "SliceReading",
    "SlicesReading",
]

GainWord = Literal["better", "worse", "inconclusive", "same"]
"""A slice's plan against the plan for all; ``same`` where both are one plan."""


SliceOutcome = Literal["gains", "for all", "not told", "loses", "same", "not measured"]


class SliceGain(Decided):
    """A slice's plan against the plan for all, on the same held-out sequences."""

    difference: Estimate
    """KL of the slice's plan minus that of the plan for all, nats per token: below 0 the slice's plan is better."""
    ratio: Estimate | None
    """KL of the slice's plan by that of the plan for all; null where the latter is 0."""
    p_value: float | None
    """Two-sided, of no difference, from resamples of the sequences; null for the same plan, and with too few sequences."""
    p_adjusted: float | None
    """After Holm's correction: over the plans on their own text, over the plans on the text of others, or over the plans on all text; the
    word uses it."""
    tests: int
    """Number of comparisons in the correction."""
    word: GainWord


class Crossed(Decided):
    """One plan on the held-out sequences of one slice."""

    made_for: str | None
    measured_on: str | None
    stored_bytes: int
    kl: Estimate
    """KL(reference || plan), nats per token."""
    against: SliceGain | None
    """Null for the plan for all."""


class CrossedAccuracy(Decided):
    """One plan on the items of one task."""

    made_for: str | None
    task: str
    metric: str
    k: int
    """Items right."""
    n: int
    share: Interval
    """Accuracy with its Wilson interval."""
    lost: int = 0
    """Items that the plan for all has right and this one wrong."""
    gained: int = 0
    """Items that the plan for all has wrong and this one right."""
    difference: Interval | None = None
    """This plan minus the plan for all, as a share of the items; null for the plan for all."""
    p_adjusted: float | None = None
    """Exact McNemar test after Holm's correction, over own tasks or over the others; null for the plan for all."""
    verdict: Verdict | None = None
    """Against the plan for all; null for the plan for all."""


class LayerShare(Decided):
    """A layer's share of one slice's sensitivity against its share of that of the other slices."""

    slice: str
    share: float
    """Of the sum over layers of the slice's separate sensitivities at the lowest format."""
    ratio: Estimate | None
    """Share of this slice by the share of all other slices together; null where one of them is 0."""
    p_value: float | None
    """Two-sided, of equal shares, by permuting which slice a sequence is of; null with too few sequences."""
    p_adjusted: float | None
    """After Holm's correction over all layers and slices."""
    told: bool
    """Whether the adjusted p-value is below 5% and the interval of the ratio excludes 1."""


class LayerBySlice(Decided):
    """The zones of one layer by slice."""

    layer: int
    zone_for_all: ZoneWord
    zones: dict[str, ZoneWord]
    """Slice to zone."""
    shares: tuple[LayerShare, ...]
    """A share for each slice; empty where the layer could not be measured at the lowest format. With two slices the contrast of the second
    is that of the first the other way round, and is counted once in the correction."""
    depends: bool
    """Whether the zone depends on the slice: a slice of which a share is told apart has another zone than another slice."""


class SliceReading(Decided):
    """One slice: its sequences, and the plan made for it."""

    name: str
    sequences: int
    """Its sensitivity sequences with a scored token."""
    tokens: int
    held_out_sequences: int
    held_out_tokens: int
    same_as: str | None
    """Null where its plan is one of its own; else the slice that has the same plan, or "" for the plan for all."""
    decision: Decision
    """Zones and plan from its own sequences; the plan's KL is on its own held-out sequences."""
    outcome: SliceOutcome
    """``gains``: its plan measured better than the plan for all on its own held-out sequences, and not worse in accuracy on its own task;
    ``for all`` where it measured better on all sequences together too, so that nothing is special about it; ``not told``; ``loses``;
    ``same`` where it is the plan for all, and ``not measured``."""


class SlicesReading(Decided):
    """Every slice, and every plan on the text of every slice."""

    by: Literal["task", "domain"]
    slices: tuple[SliceReading, ...]
    layers: tuple[LayerBySlice, ...]
    crossed: tuple[Crossed, ...]
    """Plans by slices, the plan for all first; without plans that gave NaN or infinity."""
    for_all: str
    """Name of the plan for all in the run's comparison of plans."""
    accuracy: tuple[CrossedAccuracy, ...]
    """Plans by tasks, the plan for all first, which is missing where it answered no task."""
    tests: int
    """Number of contrasts of shares in the correction over layers and slices."""

    @property
    def recommended(self) -> tuple[str, ...]:
        """Slices for which a plan of their own is recommended; with none, one plan serves all."""
        return tuple(item.name for item in self.slices if item.outcome == "gains")

    @property
    def depending(self) -> tuple[int, ...]:
        """Layers whose zone depends on the slice."""
        return tuple(item.layer for item in self.layers if item.depends)

    def crossing(self, made_for: str | None, measured_on: str | None) -> Crossed | None:
        """A plan on the text of a slice, or of all; None where it was not measured."""
        return next((item for item in self.crossed if (item.made_for, item.measured_on) == (made_for, measured_on)), None)
