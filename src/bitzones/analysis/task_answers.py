"""What the variants answered, as it was decided: how tasks were asked, accuracy, and the likelihood of right answers.

Unit of `analysis.Analysis`. This module does not know how anything is decided or shown.
"""

from __future__ import annotations

from bitzones.analysis.plan import Decided
from bitzones.schema.records import SpecialTokens
from bitzones.stats.intervals import Estimate, Interval, Verdict

__all__ = ["NORMALIZED", "Accuracy", "Asked", "Likelihood", "Paired", "PairedLikelihood"]

NORMALIZED = "acc_norm"
"""The metric that stands beside ``acc``: the same items answered by log-likelihood per character. A headline leaves it out."""


class Asked(Decided):
    """How one task was asked: of all variants alike."""

    task: str
    version: int
    sha256: str
    """Of the items."""
    origin: str
    """Where the items came from."""
    fewshot: int
    """Solved items before every question."""
    chat_template: bool
    n: int
    """Items asked."""
    dropped: int
    """Items of the data set that were not asked because they are malformed."""
    passed_over: int = 0
    """Items that were not asked because this tokenizer merges one of their answers with the end of the prompt."""
    special_tokens: SpecialTokens | None = None
    """What the tokenizer puts around a text, and what of it the prompts were given; null of older run files."""
    least_chance: float
    """Of an item being right by guessing, the least over the items; 0 where answers are generated."""
    most_chance: float


class Paired(Decided):
    """A variant against the reference on the same items."""

    lost: int
    """Items that the reference has right and the variant wrong."""
    gained: int
    """Items that the reference has wrong and the variant right."""
    changed: int
    """Items that both have wrong, with another answer: what accuracy does not show."""
    p_value: float
    """Two-sided, exact McNemar test."""
    p_adjusted: float
    """After Holm's correction for the variants of the same task and metric; the verdict's."""
    tests: int
    """Variants that were corrected for together."""
    difference: Interval
    """Variant minus reference, as a share of the items."""
    minimum_detectable_effect: float | None
    """The smallest true loss, as a share, that these items would have shown at 80% power in the first step of Holm's method (5% by
    ``tests``); null where they could have shown none, or where the reference has fewer right than that."""
    verdict: Verdict
    """What follows, in fixed words."""


class Accuracy(Decided):
    """One task by one variant."""

    task: str
    variant: str
    format: str
    metric: str
    """``acc`` (multiple choice by log-likelihood), ``acc_norm`` (the same by characters of the choice) or ``exact_match`` (greedy
    generation)."""
    k: int
    """Items right."""
    n: int
    """Items asked."""
    share: Interval
    """k/n with its Wilson interval."""
    chance: float
    """Expected share right by guessing, the mean over the items."""
    above_chance_p: float | None
    """One-sided p-value of k or more right by guessing; null where nothing can be guessed."""
    tokens: int
    """Tokens processed."""
    seconds_s: float
    """Wall time of the whole task."""
    tokens_per_s: float | None
    """Tokens by wall time; null where the time is 0."""
    against: Paired | None
    """Against the reference; null for the reference itself and where the reference was not measured."""


class PairedLikelihood(Decided):
    """How much less likely a variant finds the right answers than the reference, on the same items."""

    difference: Estimate
    """Variant minus reference, nats per answer token: above 0 is worse."""
    p_value: float | None
    """Two-sided, from the same resamples as the interval; null with too few items."""
    p_adjusted: float | None
    """After Holm's correction for the variants of the same task; the verdict's."""
    tests: int
    """Variants that were corrected for together."""
    verdict: Verdict
    """What follows, in fixed words."""


class Likelihood(Decided):
    """Negative log-likelihood of the right answers of one task under one variant."""

    task: str
    variant: str
    format: str
    n: int
    """Items whose answer has a token."""
    tokens: int
    """Tokens of their answers."""
    nll: Estimate
    """Nats per answer token, bootstrap interval over items."""
    against: PairedLikelihood | None
    """Against the reference; null for the reference itself and where the reference was not measured."""
