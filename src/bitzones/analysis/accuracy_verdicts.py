"""Accuracy of every variant, and whether it is worse than the reference on the same items.

P-values of the variants of one task and metric are corrected together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bitzones.analysis.task_answers import NORMALIZED, Accuracy, Asked, Paired
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.stats.intervals import ALPHA, paired_difference, wilson_interval
from bitzones.stats.significance import above_chance, holm, mcnemar_exact, minimum_detectable_effect
from bitzones.stats.verdicts import verdict

__all__ = ["accuracies", "asked"]


@dataclass(frozen=True)
class _Answers:
    """The answers of one cell under one metric."""

    cell: AccuracyCell
    metric: str
    correct: tuple[bool, ...]
    predictions: tuple[str, ...]


@dataclass(frozen=True)
class _Flips:
    """Numbers of items: ``right`` in the reference, ``lost``, ``gained``, and ``changed`` from one wrong answer to another."""

    n: int
    right: int
    lost: int
    gained: int
    changed: int


def asked(cells: Iterable[AccuracyCell | PerplexityCell]) -> tuple[Asked, ...]:
    """Settings of every task, read off its first cell, with which the others agree."""
    first: dict[str, AccuracyCell | PerplexityCell] = {}
    for cell in cells:
        first.setdefault(cell.task, cell)
    return tuple(
        Asked(
            task=cell.task,
            version=cell.task_version,
            sha256=cell.task_sha256,
            origin=cell.origin,
            chat_template=cell.chat_template,
            n=len(cell.item_ids),
            harness=cell.harness,
            special_tokens=cell.special_tokens,
            **_answered(cell),
        )
        for cell in first.values()
    )


def _answered(cell: AccuracyCell | PerplexityCell) -> dict[str, Any]:
    """What only questions have."""
    if isinstance(cell, PerplexityCell):
        return {"fewshot": 0, "dropped": 0, "least_chance": 0.0, "most_chance": 0.0}
    return {
        "fewshot": cell.fewshot,
        "dropped": cell.dropped,
        "passed_over": len(cell.passed_over),
        "least_chance": min(cell.chance),
        "most_chance": max(cell.chance),
    }


def accuracies(cells: Iterable[AccuracyCell], variants: dict[str, str], reference: str) -> tuple[Accuracy, ...]:
    """Accuracy of every cell, paired with the reference's cell of the same task where there is one.

    Ordered by task, metric and variant.
    """
    families: dict[tuple[str, str], list[_Answers]] = {}
    tasks: dict[str, int] = {}
    for answers in _read(cells):
        tasks.setdefault(answers.cell.task, len(tasks))
        families.setdefault((answers.cell.task, answers.metric), []).append(answers)
    in_order = sorted(families, key=lambda family: (tasks[family[0]], family[1] == NORMALIZED))
    return tuple(item for family in in_order for item in _family(families[family], variants, reference))


def _read(cells: Iterable[AccuracyCell]) -> Iterator[_Answers]:
    for cell in cells:
        yield _Answers(cell, cell.metric, cell.correct, cell.predictions)
        if cell.correct_normalized is not None and cell.predictions_normalized is not None:
            yield _Answers(cell, NORMALIZED, cell.correct_normalized, cell.predictions_normalized)


def _family(family: list[_Answers], variants: dict[str, str], reference: str) -> Iterator[Accuracy]:
    base = next((answers for answers in family if answers.cell.variant == reference), None)
    flips = {answers.cell.variant: _flips(answers, base) for answers in family if base is not None and answers is not base}
    p_values = [mcnemar_exact(found.lost, found.gained) for found in flips.values()]
    paired = {
        variant: _paired(flips[variant], p_value, adjusted, len(flips))
        for variant, p_value, adjusted in zip(flips, p_values, holm(p_values), strict=True)
    }
    for answers in family:
        yield _accuracy(answers, paired.get(answers.cell.variant), variants)


def _flips(answers: _Answers, base: _Answers) -> _Flips:
    before = dict(zip(base.cell.item_ids, zip(base.correct, base.predictions, strict=True), strict=True))
    now = zip(answers.cell.item_ids, answers.correct, answers.predictions, strict=True)
    pairs = [(*before[item], correct, prediction) for item, correct, prediction in now]
    return _Flips(
        n=len(pairs),
        right=sum(base.correct),
        lost=sum(was and not now for was, _, now, _ in pairs),
        gained=sum(now and not was for was, _, now, _ in pairs),
        changed=sum(not was and not now and old != new for was, old, now, new in pairs),
    )


def _paired(flips: _Flips, p_value: float, p_adjusted: float, tests: int) -> Paired:
    drop = minimum_detectable_effect(flips.n, flips.gained, alpha=ALPHA / tests)
    return Paired(
        lost=flips.lost,
        gained=flips.gained,
        changed=flips.changed,
        p_value=p_value,
        p_adjusted=p_adjusted,
        tests=tests,
        difference=paired_difference(flips.lost, flips.gained, flips.n),
        minimum_detectable_effect=drop
        if drop is not None and drop <= flips.right / flips.n
        else None,  # a loss cannot exceed the reference's accuracy
        verdict=verdict(flips.lost, flips.gained, flips.n, p_value=p_adjusted),
    )


def _accuracy(answers: _Answers, against: Paired | None, variants: dict[str, str]) -> Accuracy:
    cell, k, n = answers.cell, sum(answers.correct), len(answers.correct)
    rate = cell.tokens / cell.seconds_s if cell.seconds_s else math.inf
    return Accuracy(
        task=cell.task,
        variant=cell.variant,
        format=variants.get(cell.variant, cell.variant),
        metric=answers.metric,
        k=k,
        n=n,
        share=wilson_interval(k, n),
        chance=math.fsum(cell.chance) / n,
        above_chance_p=above_chance(k, cell.chance) if any(cell.chance) else None,
        tokens=cell.tokens,
        seconds_s=cell.seconds_s,
        tokens_per_s=rate if math.isfinite(rate) else None,
        against=against,
    )
