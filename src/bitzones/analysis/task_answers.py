"""Task settings, accuracy and the likelihood of right answers: records of `bitzones.analysis.results.Analysis`."""

from __future__ import annotations

from bitzones.analysis.plan import Decided
from bitzones.schema.quality_cells import Harness, SpecialTokens
from bitzones.stats.intervals import Estimate, Interval
from bitzones.stats.verdicts import Verdict

__all__ = ["NORMALIZED", "Accuracy", "Asked", "Likelihood", "Paired", "PairedLikelihood", "TaskPerplexity"]

NORMALIZED = "acc_norm"
"""The second multiple-choice metric: answers by log-likelihood per character. Headlines show ``acc`` only."""


class Asked(Decided):
    """Settings of one task, the same for all variants."""

    task: str
    version: int
    sha256: str
    """Hash of the items."""
    origin: str
    """Source of the items."""
    fewshot: int
    """Few-shot examples before every question."""
    chat_template: bool
    n: int
    """Number of items."""
    dropped: int
    """Items of the data set that were not asked because they are malformed."""
    passed_over: int = 0
    """Items that were not asked because this tokenizer merges one of their answers with the end of the prompt."""
    harness: Harness | None = None
    """How lm-evaluation-harness asked it; null for a task of bitzones itself."""
    special_tokens: SpecialTokens | None = None
    """What the tokenizer puts around a text, and what of it the prompts were given; null of older run files."""
    least_chance: float
    """Chance of guessing right, the least over the items; 0 where answers are generated."""
    most_chance: float


class Paired(Decided):
    """A variant against the reference on the same items."""

    lost: int
    """Items that the reference has right and the variant wrong."""
    gained: int
    """Items that the reference has wrong and the variant right."""
    changed: int
    """Items that both have wrong, with different answers."""
    p_value: float
    """Two-sided, exact McNemar test."""
    p_adjusted: float
    """After Holm's correction over the variants of the task and metric; the verdict uses it."""
    tests: int
    """Number of variants in the correction."""
    difference: Interval
    """Variant minus reference, as a share of the items."""
    minimum_detectable_effect: float | None
    """The smallest true loss, a share of items, detected at 80% power in the first step of Holm's method (5% / ``tests``); null where no
    loss can be detected, or only one larger than the reference's accuracy."""
    verdict: Verdict
    """The verdict, one of a fixed set."""


class Accuracy(Decided):
    """One task by one variant."""

    task: str
    variant: str
    format: str
    metric: str
    """``acc`` (multiple choice by log-likelihood), ``acc_norm`` (the same by characters of the choice), ``exact_match`` (greedy
    generation), or another one of lm-evaluation-harness."""
    k: int
    """Items right."""
    n: int
    """Number of items."""
    share: Interval
    """k/n with its Wilson interval."""
    chance: float
    """Expected share right by guessing, the mean over the items."""
    above_chance_p: float | None
    """One-sided p-value of k or more right by guessing; null where nothing can be guessed."""
    tokens: int
    """Tokens processed."""
    seconds_s: float
    """Wall-clock time of the whole task."""
    tokens_per_s: float | None
    """Tokens by wall-clock time; null where the time is 0."""
    against: Paired | None
    """Against the reference; null for the reference itself and where the reference was not measured."""


class PairedLikelihood(Decided):
    """The likelihood of right answers against the reference on the same items."""

    difference: Estimate
    """Variant minus reference, nats per answer token: above 0 is worse."""
    p_value: float | None
    """Two-sided, from the same resamples as the interval; null with too few items."""
    p_adjusted: float | None
    """After Holm's correction over the variants of the task; the verdict uses it."""
    tests: int
    """Number of variants in the correction."""
    verdict: Verdict
    """The verdict, one of a fixed set."""


class Likelihood(Decided):
    """Negative log-likelihood of the right answers, or of the documents, of one task under one variant."""

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


class TaskPerplexity(Decided):
    """Perplexity of the documents of one task under one variant, as lm-evaluation-harness defines it; bootstrap intervals over documents.

    `Likelihood` of the same task compares variants.
    """

    task: str
    variant: str
    format: str
    n: int
    """Documents."""
    tokens: int
    word_perplexity: Estimate
    """exp of all nats by all words."""
    byte_perplexity: Estimate
    """exp of all nats by all bytes."""
    bits_per_byte: Estimate
    """All nats by all bytes, by ln 2."""
    seconds_s: float
    """Wall-clock time of the whole task."""
