"""One canary check: what a server answers to pinned prompts, against the plan's record and against the server's own enrolled answers.

Two tests run for as long as a server is watched (`stats.e_process`), each at half of `ALPHA`. Their null hypotheses are about the mean over
all prompts of the record:

    plan        the mean deviation from what the plan's model predicts is at most `PLAN_MARGIN` times what computing the same weights in
                another dtype costs, which the record has: told from a wrong checkpoint or scale at the first check
    unchanged   the mean deviation from the server's enrolled answers is at most `NOISE_MARGIN` times that of its second answers when it
                was enrolled: told from anything that changed since, far below what another engine costs

A check draws its prompts at random without replacement, so that what it sees is a sample of all of them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from bitzones.monitor.deviation import Listed, deviation
from bitzones.monitor.naming import Names
from bitzones.monitor.records import CanaryCheck, EvidenceReading, TestName
from bitzones.monitor.state import Asked, Check
from bitzones.schema.canary_record import CanaryRecord
from bitzones.schema.errors import ArgumentError
from bitzones.stats.e_process import AboveBound

__all__ = ["ALPHA", "FLOOR_NATS", "NOISE_MARGIN", "PLAN_MARGIN", "TESTS", "Known", "Tolerance", "check_tolerance", "drawn", "judged"]

TESTS: tuple[TestName, TestName] = ("plan", "unchanged")

ALPHA = 1e-3
"""Chance that there is ever an alarm about a server that stays as good as it was enrolled, over all checks together."""

PLAN_MARGIN = 2.0
"""Engines differ in the order of their sums and in what they round in between: allowed is twice what another dtype costs."""

NOISE_MARGIN = 3.0
"""What was seen when a server was enrolled is a mean of a few hundred numbers with a heavy tail, and load changes it."""

FLOOR_NATS = 1e-7
"""Least bound: log-probabilities that a server rounds to three decimals deviate by about 1e-8."""

ROUNDS = 2
"""Every prompt is asked twice when a server is enrolled: the second answer tells how much the first is worth."""

ALL_MASS = 1 - 1e-9
"""Probability of a token that leaves nothing to others."""


@dataclass(frozen=True)
class Tolerance:
    """Bounds that the user knows better, in nats: the mean deviation from the record that a good engine has, and the least noise between
    two answers; None for what the record and the enrolled answers say."""

    plan: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class Known:
    """What a watch knows between checks: enrolled answers by prompt, and its tests."""

    enrolled: Mapping[int, Listed] = field(default_factory=dict)
    tests: Mapping[TestName, AboveBound] = field(default_factory=dict)


def check_tolerance(known: Known, tolerance: Tolerance) -> None:
    """Refuse bounds that would come too late.

    Raises:
        ArgumentError: a test goes on with another bound than the user gives now.
    """
    plan, unchanged = known.tests.get("plan"), known.tests.get("unchanged")
    if plan is not None and tolerance.plan is not None and plan.bound != max(FLOOR_NATS, tolerance.plan):
        raise ArgumentError(f"tolerance {tolerance.plan:g}: the watch was begun with {plan.bound:.2g}; to begin it again add --enroll")
    if unchanged is not None and tolerance.noise is not None and unchanged.bound < tolerance.noise:
        raise ArgumentError(f"noise {tolerance.noise:g}: the watch was begun with {unchanged.bound:.2g}; to begin it again add --enroll")


def drawn(record: CanaryRecord, number: int, count: int | None, seed: int) -> tuple[int, ...]:
    """The prompts of a check, by their number: some at random, or all of them `ROUNDS` times where ``count`` is None."""
    every = range(len(record.prompts))
    if count is None:
        return tuple(every) * ROUNDS
    return tuple(random.Random(f"{seed} {number}").sample(every, min(count, len(every))))


def judged(
    record: CanaryRecord, known: Known, check: Check, answers: Sequence[Asked], way: str, names: Names, tolerance: Tolerance, now: str
) -> tuple[CanaryCheck, Known]:
    """The result of a check whose prompts have all been asked, and what is known after it.

    A prompt that was never answered before is enrolled with its first answer.
    """
    first, second = _answers(record, check, answers, names)
    from_plan = [deviation(names.plan(prompt), served) for prompt, served in first.items()]
    plan = known.tests.get("plan", AboveBound(_plan_bound(record, tolerance))).after(from_plan)
    if check.kind == "enroll":
        changes = [deviation(first[prompt], served) for prompt, served in second.items() if prompt in first]
        unchanged = AboveBound(_noise_bound(changes, tolerance))
    else:
        changes = [deviation(known.enrolled[prompt], served) for prompt, served in first.items() if prompt in known.enrolled]
        unchanged = known.tests.get("unchanged", AboveBound(_noise_bound((), tolerance))).after(changes)
    result = CanaryCheck(
        number=check.number,
        kind=check.kind,
        at=now,
        model=next((item.model for item in answers if item.model), ""),
        way=way,
        asked=len(check.prompts),
        answered=sum(item.logprobs is not None for item in answers),
        unanswered=dict(Counter(item.reason for item in answers if item.reason is not None)),
        retries=sum(item.tries - 1 for item in answers),
        one_sided=bool(first) and all(math.exp(max(served.values(), default=0.0)) >= ALL_MASS for served in first.values()),
        reference_nats=fmean(deviation(names.reference(prompt), served) for prompt, served in first.items()) if first else None,
        tests=(_reading("plan", from_plan, plan), _reading("unchanged", changes, unchanged)),
    )
    return result, Known({**first, **known.enrolled}, {"plan": plan, "unchanged": unchanged})


def _answers(record: CanaryRecord, check: Check, answers: Iterable[Asked], names: Names) -> tuple[dict[int, Listed], dict[int, Listed]]:
    """Prompt -> answer in the first round of a check, and in the second."""
    rounds: tuple[dict[int, Listed], dict[int, Listed]] = ({}, {})
    for item in answers:
        if item.logprobs is not None:
            later = check.kind == "enroll" and item.place >= len(record.prompts)
            rounds[later][check.prompts[item.place]] = names.served(item.logprobs)
    return rounds


def _plan_bound(record: CanaryRecord, tolerance: Tolerance) -> float:
    noise = fmean(prompt.noise_nats for prompt in record.prompts)
    return max(FLOOR_NATS, PLAN_MARGIN * noise if tolerance.plan is None else tolerance.plan)


def _noise_bound(repeats: Sequence[float], tolerance: Tolerance) -> float:
    return max(FLOOR_NATS, NOISE_MARGIN * fmean(repeats) if repeats else 0.0, tolerance.noise or 0.0)


def _reading(name: TestName, numbers: Sequence[float], test: AboveBound) -> EvidenceReading:
    return EvidenceReading(
        name=name,
        prompts=len(numbers),
        mean_nats=fmean(numbers) if numbers else None,
        bound_nats=test.bound,
        evidence=test.evidence,
        peak=test.peak,
        alarm=test.above(ALPHA / len(TESTS)),
    )
