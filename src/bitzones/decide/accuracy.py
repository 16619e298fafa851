"""What each variant still gets right, how sure that is, and whether it is worse than the reference on the same items.

This module does not know how an item was asked. Verdicts are per variant and task; nothing here corrects for there being several.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from bitzones.decide.analysis import Accuracy, Paired
from bitzones.records import AccuracyCell
from bitzones.stats import above_chance, mcnemar_exact, paired_difference, smallest_drop, verdict, wilson_interval

__all__ = ["accuracies"]


def accuracies(cells: Iterable[AccuracyCell], variants: dict[str, str], reference: str) -> tuple[Accuracy, ...]:
    """Every accuracy cell decided, paired with the reference's cell of the same task where there is one."""
    cells = tuple(cells)
    references = {cell.task: cell for cell in cells if cell.variant == reference}
    return tuple(_accuracy(cell, references.get(cell.task), variants) for cell in cells)


def _accuracy(cell: AccuracyCell, reference: AccuracyCell | None, variants: dict[str, str]) -> Accuracy:
    k, n = sum(cell.correct), len(cell.correct)
    return Accuracy(
        task=cell.task,
        variant=cell.variant,
        format=variants.get(cell.variant, cell.variant),
        metric=cell.metric,
        k=k,
        n=n,
        share=wilson_interval(k, n),
        chance=math.fsum(cell.chance) / n,
        above_chance_p=above_chance(k, cell.chance),
        dropped=cell.dropped,
        tokens=cell.tokens,
        seconds_s=cell.seconds_s,
        tokens_per_s=cell.tokens / cell.seconds_s if cell.seconds_s else None,
        against=_paired(cell, reference) if reference is not None and cell.variant != reference.variant else None,
    )


def _paired(cell: AccuracyCell, reference: AccuracyCell) -> Paired:
    before = dict(zip(reference.item_ids, reference.correct, strict=True))
    pairs = [(before[item], now) for item, now in zip(cell.item_ids, cell.correct, strict=True)]
    lost, gained = pairs.count((True, False)), pairs.count((False, True))
    drop, right = smallest_drop(len(pairs), gained), sum(reference.correct) / len(pairs)
    return Paired(
        lost=lost,
        gained=gained,
        p_value=mcnemar_exact(lost, gained),
        difference=paired_difference(lost, gained, len(pairs)),
        smallest_drop=drop if drop is not None and drop <= right else None,  # nobody can lose more than they have
        verdict=verdict(lost, gained, len(pairs)),
    )
