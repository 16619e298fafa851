"""Whole plans, the search, the Fisher proxy and the rules of thumb: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitzones.analysis.plan import Decided, PlanBudget
from bitzones.schema.plan_cells import PlanOrigin, Rounded
from bitzones.stats.intervals import Estimate, Interval

__all__ = [
    "Compared",
    "Disagreement",
    "FisherReading",
    "PlanReading",
    "PlansReading",
    "RuleAudit",
    "RuleReading",
    "RuleReason",
    "RuleVerdict",
    "SearchEnd",
    "SearchReading",
    "SearchStep",
]

RuleVerdict = Literal["holds", "does not hold", "inconclusive", "nothing to test", "not measured"]

RuleReason = Literal[
    "no_sensitivity",
    "no_statistic",
    "flags_none",
    "flags_all",
    "constant_statistic",
    "few_sequences",
    "few_layers",
    "none_critical",
    "all_critical",
    "equal_sensitivity",
    "mostly_not_critical",
    "mostly_missed",
    "worse_than_random",
    "not_told_from_random",
    "mostly_not_critical_here",
    "mostly_missed_here",
    "better_than_random",
    "correlation_too_low",
    "correlation_not_told",
    "correlation_may_be_slight",
    "top_layers_at_random",
    "correlation_useful",
]
"""Why a rule has its verdict (`bitzones.analysis.heuristics`)."""

SearchEnd = Literal["no_rounds", "rounds_done", "stopped", "nothing_proposed", "no_improvement"]
"""Why a search ended: none was asked for, all allowed rounds ran, it stopped before that, a round proposed nothing, or nothing better."""


class Compared(Decided):
    """The searched plan against another on the same held-out sequences."""

    difference: Estimate
    """KL of the searched plan minus that of the other, nats per token: below 0 the searched plan is better."""
    ratio: Estimate | None
    """KL of the searched plan by that of the other: below 1 the searched plan is better; null where the other's is 0."""
    word: Literal["better", "worse", "inconclusive"]
    """Verdict on the searched plan; not inconclusive only if the paired 95% interval of the difference excludes 0."""


class PlanReading(Decided):
    """One whole plan on held-out sequences."""

    name: str
    origin: PlanOrigin
    """How it was made; a ``frontier`` plan is the additive plan at another budget."""
    stored_bytes: int
    average_bits: float | None
    """Stored bits per weight; null where the units' sizes were not recorded."""
    within_budget: bool
    measured: Estimate | None
    """KL(reference || plan) on held-out sequences, nats per token; null where the model gave NaN or infinity."""
    predicted: Estimate | None
    """Sum of separate sensitivities on the sensitivity sequences, nats per token; null where one was not measured."""
    fisher: Estimate | None
    """Second-order estimate with all interactions, mean((sum of the units' scores)^2) / 2, sensitivity sequences, nats per token; null
    where a score was not measured."""
    ratio: Estimate | None
    """Measured by predicted; two sets of sequences, resampled apart. Null where either is missing or a prediction is 0."""
    searched: Compared | None
    """The searched plan against this one; null for itself and where one of them was not measured. If this plan is ``rounded`` alone, it
    is compared with the searched plan rounded alone."""
    rounded: Rounded | None = None
    """How its calibrated formats were rounded; null where it has none."""


class PlansReading(Decided):
    """Whole plans compared on held-out sequences."""

    sequences_sha256: str
    """Of the held-out sequences."""
    sequences: int
    """Held-out sequences with a scored token."""
    tokens: int
    budget_bytes: int
    latency_budget_ns: int | None = None
    """For a budget of time: nanoseconds of the units' matrix products in a decode step; else null."""
    plans: tuple[PlanReading, ...]
    searched: str
    """Name of the plan that the search found."""
    beaten_by: tuple[str, ...]
    """Plans within the budget that are better than the searched one."""
    not_told: tuple[str, ...]
    """Plans within the budget that cannot be told from the searched one."""
    recommended: str | None
    """The searched plan, unless a plan within the budget is better; then the one with the lowest KL. Null where no plan within the budget
    was measured."""

    def named(self, name: str) -> PlanReading:
        """The plan of a name.

        Raises:
            KeyError: there is none.
        """
        return {item.name: item for item in self.plans}[name]


class SearchStep(Decided):
    """One round of the search, on sensitivity sequences."""

    swaps: int
    """Single changes of the current plan that were measured."""
    proposals: int
    """Whole plans that were measured."""
    least: Estimate | None
    """The least KL among the proposals, nats per token; null where none has one."""
    accepted: bool
    changed: int
    """Units whose format the accepted plan changes; 0 where none was accepted."""
    kl: Estimate | None
    """KL of the current plan after the round, nats per token."""
    stored_bytes: int = 0
    """Stored bytes of the current plan after the round."""


class SearchReading(Decided):
    """The search from the additive plan to the plan found, on the sensitivity set."""

    sequences: int
    budget_bytes: int
    start: Estimate | None
    """KL of the plan that the search started from, nats per token; null where the model gave NaN or infinity."""
    found: Estimate | None
    """KL of the plan found, nats per token; optimistic, because it was selected on these sequences."""
    ratio: Estimate | None
    """Found by start, paired."""
    changed: int
    """Units whose format differs between the two."""
    steps: tuple[SearchStep, ...]
    ended: SearchEnd
    """Why it ended."""
    tolerance: float | None = None
    """The KL that every accepted plan keeps, nats per token; null where the budget was given in bits."""
    start_bytes: int = 0
    """Stored bytes of the plan that the search started from."""
    found_bytes: int = 0
    """Stored bytes of the plan found."""


class Disagreement(Decided):
    """A unit that proxy and measurement rank differently; rank 1 is the most sensitive."""

    unit: str
    exact_rank: float
    fisher_rank: float


class FisherReading(Decided):
    """The Fisher proxy against the measured KL at one format, over the units that have both."""

    format: str
    units: int
    spearman: Interval | None
    """Rank correlation of proxy and measurement; null with too few units or sequences, or where all values are equal."""
    median_ratio: float | None
    """Median over units of proxy over measurement; null where no unit has a measured KL above 0."""
    disagreements: tuple[Disagreement, ...]
    """The units whose ranks differ most, the largest difference first."""


class RuleReading(Decided):
    """The test of one rule of thumb."""

    rule: str
    """Short name."""
    claim: str
    """What the rule says, in plain words."""
    source: str
    """Its source."""
    statistic: str = ""
    """The statistic it uses."""
    values: dict[int, float] = Field(default_factory=dict)
    """Layer to that statistic, where it was measured and the layer has a sensitivity."""
    layers: int
    """Layers with both the statistic and a measured sensitivity: the n of everything here."""
    critical: int
    """How many of these layers are critical."""
    spearman: Interval | None
    """Correlation of the ranks of the rule's statistic, signed so that more means more sensitive, with those of sensitivity at the format
    with the fewest bits; null where either is the same in all layers, or with too few layers or sequences."""
    p: float | None
    """One-sided: of so high a correlation without any (rules that order), or of so many critical layers among as many random ones (rules
    that name layers: the hypergeometric law, Fisher's exact test); null where there is nothing to test or too little to test it on."""
    p_adjusted: float | None
    """After Holm's correction for all rules that have a p-value."""
    flagged: tuple[int, ...]
    """The layers that the rule takes for critical; of one that orders, its top ones, as many as are critical and those tied with the
    last."""
    precision: Interval | None
    """Share of flagged layers that are critical, Wilson interval; null where none is flagged."""
    recall: Interval | None
    """Share of critical layers that are flagged, Wilson interval; null where none is critical, or where the rule puts no layer first."""
    base_rate: float | None
    """Share of all layers that are critical: the precision of a random set; null without layers."""
    verdict: RuleVerdict
    """The verdict, one of a fixed set."""
    reason: RuleReason
    """Why."""


class RuleAudit(Decided):
    """The rules of thumb, tested on this run."""

    format: str
    """Sensitivity is that of whole layers at this format, the one with the fewest bits."""
    budget: PlanBudget
    """The budget of the resampled plans."""
    agreement: float
    """A layer is critical if at least this share of the resampled plans do not store it wholly at that format."""
    critical: tuple[int, ...]
    rules: tuple[RuleReading, ...]
