"""Perplexity and divergence by domain: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from typing import Literal

from bitzones.analysis.plan import Decided
from bitzones.schema.profile import PLAN
from bitzones.stats.intervals import Estimate
from bitzones.stats.verdicts import Verdict

__all__ = [
    "DomainComparison",
    "DomainFigures",
    "DomainOutcome",
    "DomainReading",
    "DomainWord",
    "DomainsReading",
    "PerplexityChange",
    "Quantile",
]

DomainOutcome = Literal["wins", "loses", "inconclusive", "alone"]

DomainWord = Literal["better", "worse", "inconclusive"]


class Quantile(Decided):
    """A quantile over the scored tokens of a domain."""

    share: float
    """Of the tokens that do not exceed it."""
    value: Estimate
    """Interval over windows; null ends where fewer than ten tokens lie beyond it."""


class PerplexityChange(Decided):
    """A variant's perplexity against the reference's on the same tokens."""

    log_ratio: Estimate
    """ln of the ratio of perplexities, which is the rise of negative log-likelihood in nats per token: above 0 is worse."""
    ratio: Estimate
    """Perplexity of the variant by that of the reference."""
    difference: Estimate
    """Perplexity of the variant minus that of the reference."""
    correlation: float | None
    """Of both models' negative log-likelihoods, token by token; null where one of them is constant."""
    p_value: float | None
    """Two-sided, of no change, from the resamples of the interval; null with too few windows."""
    p_adjusted: float | None
    """After Holm's correction over the variants of the domain; the verdict uses it."""
    tests: int
    """Number of variants in the correction."""
    verdict: Verdict
    """On the rise in nats per token."""


class DomainFigures(Decided):
    """One variant on one domain."""

    variant: str
    format: str
    within_budget: bool | None
    """Whether its bytes, or its time, are within the budget of the plan; null where the run does not say."""
    perplexity: Estimate
    change: PerplexityChange
    kl: Estimate
    """Mean KL(reference || variant) over scored tokens, nats."""
    kl_quantiles: tuple[Quantile, ...]
    kl_max: float
    same_top: Estimate
    """Share of scored tokens of which reference and variant find the same one most likely."""
    probability_change: Estimate
    """Mean of the probability that the variant gives the token that follows, minus the reference's."""
    probability_change_rms: Estimate
    """Root of its mean square."""
    probability_change_quantiles: tuple[Quantile, ...]


class DomainComparison(Decided):
    """The plan against another variant on the same windows of a domain."""

    variant: str
    difference: Estimate
    """KL of the plan minus that of the other, nats per token: below 0 the plan is better."""
    word: DomainWord
    """Verdict on the plan; not inconclusive only if the paired 95% interval of the difference excludes 0."""


class DomainReading(Decided):
    """One domain: what was read, and every variant on it."""

    name: str
    source: str
    """As the profile names it."""
    origin: str | None
    """Where the documents came from; null in a run file that does not say."""
    license: str | None
    sha256: str | None
    """Of the documents used, in order."""
    documents: int | None
    unseen: bool
    """Whether no set of the run took documents from its source."""
    windows: int
    tokens: int
    """Scored tokens."""
    window: int
    stride: int
    context: int
    joined: bool
    reference_perplexity: Estimate
    figures: tuple[DomainFigures, ...]
    compared: tuple[DomainComparison, ...]
    """The plan against every other variant; empty where the plan was not measured here."""
    subject: str = PLAN
    """The variant that is the plan: ``tuned`` where the tuned plan is recommended, else the searched one."""
    outcome: DomainOutcome
    """``wins`` where the plan is better than every other variant within the budget, ``loses`` where one of them is better than the plan,
    ``alone`` where none is within the budget."""

    def of(self, variant: str) -> DomainFigures | None:
        """The figures of a variant; None where it was not measured here."""
        return next((item for item in self.figures if item.variant == variant), None)


class DomainsReading(Decided):
    """Every domain of the run."""

    domains: tuple[DomainReading, ...]
    worst: str | None
    """The domain on which the plan's KL is largest; null where the plan was measured on none."""
    recommended_for: tuple[str, ...]
    """Domains where the plan wins."""
    not_for: tuple[str, ...]
    """Domains where another variant within the budget is better."""
