"""What a watch keeps: the result of every check, window of requests and batch of shadowed prompts, as JSON in its state."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bitzones.schema.record import Count, Finite, NonNegative, Positive, Record, Share

__all__ = [
    "CanaryCheck",
    "DomainShadow",
    "DriftFeature",
    "DriftWindow",
    "EvidenceReading",
    "ShadowBatch",
    "ShadowSample",
    "TestName",
]

TestName = Literal["plan", "unchanged"]
"""Deviation of the served model from what the plan's model predicts, and from its own enrolled answers."""


class EvidenceReading(Record):
    """One of the canary's tests after a check: ``mean_nats`` is the mean deviation in this check over ``prompts`` prompts, ``bound_nats``
    the largest mean of a good server, ``evidence`` the logarithm of the capital, ``peak`` its largest value so far."""

    name: TestName
    prompts: Count
    mean_nats: NonNegative | None
    bound_nats: NonNegative
    evidence: Finite
    peak: Finite
    alarm: bool


class CanaryCheck(Record):
    """A check. ``unanswered`` counts prompts without an answer by reason, ``retries`` the tries beyond the first; ``one_sided`` tells that
    every answer puts all of its mass on one token."""

    number: Positive
    kind: Literal["enroll", "check"]
    at: str
    model: str
    way: str
    asked: Positive
    answered: Count
    unanswered: dict[str, Count] = Field(default_factory=dict)
    retries: Count = 0
    one_sided: bool = False
    reference_nats: NonNegative | None = None
    """Mean deviation from the unquantized reference, to see beside it."""
    tests: tuple[EvidenceReading, ...] = ()

    @property
    def alarm(self) -> bool:
        return any(test.alarm for test in self.tests)


class DriftFeature(Record):
    """One property of requests against the sensitivity set: ``distance`` is the largest difference of the two distribution functions, or
    half the sum of the differences of shares; ``p`` is uncorrected, ``p_adjusted`` over all properties of the window (Holm)."""

    name: str
    requests: Count
    distance: Share
    p: Share
    p_adjusted: Share
    typical: Finite | None = None
    """Median of the requests; null for shares."""
    expected: Finite | None = None
    """Median of the sensitivity set; null for shares."""
    drifted: bool


class ShadowSample(Record):
    """One sampled request: its tokens, and KL(reference || plan) in nats summed over them."""

    domain: str
    tokens: Positive
    kl_nats: NonNegative


class DriftWindow(Record):
    """Requests of the log between two checks, or those that were shadowed in a batch. ``alpha`` is this window's part of the error that
    is spent over all windows."""

    number: Positive
    source: Literal["log", "shadow"] = "log"
    at: str
    requests: Count
    malformed: Count = 0
    alpha: Share
    features: tuple[DriftFeature, ...]

    @property
    def alarm(self) -> bool:
        return any(feature.drifted for feature in self.features)


class DomainShadow(Record):
    """Requests of one domain, computed by both models: mean KL(reference || plan) per token with its interval over prompts, and evidence
    that it lies above ``bound_nats``; null ends below 20 prompts."""

    domain: str
    prompts: Positive
    tokens: Positive
    kl_nats: NonNegative
    low: NonNegative | None
    high: NonNegative | None
    bound_nats: NonNegative
    evidence: Finite
    peak: Finite
    alarm: bool


class ShadowBatch(Record):
    """A batch of sampled requests; ``domains`` are over all batches so far."""

    number: Positive
    at: str
    rate: Share
    requests: Count
    sampled: Count
    passed_over: Count = 0
    domains: tuple[DomainShadow, ...]

    @property
    def alarm(self) -> bool:
        return any(domain.alarm for domain in self.domains)
