"""Accuracy of plans by task or text domain on the items of every task, paired with the plan for all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bitzones.analysis.slice_figures import CrossedAccuracy
from bitzones.schema.quality_cells import AccuracyCell
from bitzones.schema.run_record import Run
from bitzones.stats.intervals import paired_difference, wilson_interval
from bitzones.stats.significance import holm, mcnemar_exact
from bitzones.stats.verdicts import verdict

__all__ = ["read_accuracy"]


@dataclass(frozen=True)
class _Answered:
    """The answers of a plan to a task, and those of the plan for all, if it has any."""

    made_for: str | None
    cell: AccuracyCell
    base: AccuracyCell | None

    @property
    def is_compared(self) -> bool:
        """Whether the plan for all is another plan, and has answered too."""
        return self.base is not None and self.base.variant != self.cell.variant

    @property
    def flips(self) -> tuple[int, int]:
        """Items that the plan for all has right and this one wrong, and the reverse."""
        assert self.base is not None
        before = dict(zip(self.base.item_ids, self.base.correct, strict=True))
        changes = [(before[item], now) for item, now in zip(self.cell.item_ids, self.cell.correct, strict=True)]
        return sum(was and not now for was, now in changes), sum(now and not was for was, now in changes)


def read_accuracy(
    run: Run, by: Literal["task", "domain"], variants: Mapping[str | None, str | None], cells: Iterable[AccuracyCell]
) -> tuple[CrossedAccuracy, ...]:
    """Every plan on every task that it answered, paired with the plan for all where that has answered it too.

    P-values are corrected over plans on their own tasks, and apart from these over plans on other tasks.

    Args:
        run: names the tasks.
        by: whether slices are tasks.
        variants: slice -> the variant that is quantized by its plan, None where none is; under None that of the plan for all.
        cells: the answers of all variants.
    """
    answers = {(cell.variant, cell.task): cell for cell in cells}
    found = [
        _Answered(name, answers[variant, task.name], answers.get((variants[None] or "", task.name)))
        for name, variant in variants.items()
        for task in run.profile.tasks
        if variant is not None and (variant, task.name) in answers
    ]
    own = [item for item in found if by == "task" and item.made_for == item.cell.task]
    adjusted = {**_adjusted(own), **_adjusted([item for item in found if item not in own])}
    return tuple(_crossed(item, adjusted.get((item.made_for, item.cell.task))) for item in found)


def _adjusted(answered: Sequence[_Answered]) -> dict[tuple[str | None, str], float]:
    """(Slice, task) -> p-value of a family, corrected together."""
    tested = {(item.made_for, item.cell.task): mcnemar_exact(*item.flips) for item in answered if item.is_compared}
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _crossed(item: _Answered, p_adjusted: float | None) -> CrossedAccuracy:
    k, n = sum(item.cell.correct), len(item.cell.correct)
    found = CrossedAccuracy(made_for=item.made_for, task=item.cell.task, metric=item.cell.metric, k=k, n=n, share=wilson_interval(k, n))
    if not item.is_compared:
        return found
    lost, gained = item.flips
    compared = {
        "lost": lost,
        "gained": gained,
        "difference": paired_difference(lost, gained, n),
        "p_adjusted": p_adjusted,
        "verdict": verdict(lost, gained, n, p_value=p_adjusted),
    }
    return found.model_copy(update=compared)
