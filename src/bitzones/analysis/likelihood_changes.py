"""Likelihood of the right answers, or of whole documents, under each variant: finer than accuracy, because it moves before an answer flips.

Nats per scored token, resampled over items; all variants of a task share the resamples, so differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.task_answers import Likelihood, PairedLikelihood
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.stats.bootstrap import bootstrap_p, estimate, resampled_sums
from bitzones.stats.intervals import MIN_SEQUENCES
from bitzones.stats.significance import holm
from bitzones.stats.verdicts import verdict_nats

__all__ = ["likelihoods"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Scored:
    """The likelihood of every item of a cell: nats, and the tokens that they are of."""

    task: str
    variant: str
    nats: dict[str, float]
    tokens: dict[str, int]


def likelihoods(
    cells: Iterable[AccuracyCell | PerplexityCell], variants: dict[str, str], reference: str, seed: int
) -> tuple[Likelihood, ...]:
    """The likelihood of what every cell has read, paired with the reference's of the same task where there is one."""
    tasks: dict[str, list[_Scored]] = {}
    for cell in cells:
        if (scored := _scored(cell)) is not None:
            tasks.setdefault(cell.task, []).append(scored)
    return tuple(item for family in tasks.values() for item in _family(family, variants, reference, seed))


def _scored(cell: AccuracyCell | PerplexityCell) -> _Scored | None:
    """None where the task has no right answer that is read."""
    nats, tokens = (cell.nll_nats, cell.tokens) if isinstance(cell, PerplexityCell) else (cell.gold_nll_nats, cell.gold_tokens)
    if nats is None or tokens is None:
        return None
    return _Scored(cell.task, cell.variant, dict(zip(cell.item_ids, nats, strict=True)), dict(zip(cell.item_ids, tokens, strict=True)))


def _family(cells: list[_Scored], variants: dict[str, str], reference: str, seed: int) -> Iterator[Likelihood]:
    """The variants of one task, without items that have no token."""
    tokens = {item: count for item, count in cells[0].tokens.items() if count}
    rows = np.array([[cell.nats[item] for item in tokens] for cell in cells] + [list(tokens.values())], dtype=np.float64)
    sums = resampled_sums(rows, INTERVAL_RESAMPLES, seed)
    values, resampled = rows[:-1].sum(axis=1) / rows[-1].sum(), sums[:, :-1] / sums[:, -1:]
    base = next((row for row, cell in enumerate(cells) if cell.variant == reference), None)
    paired = {} if base is None else dict(_paired(values, resampled, base, len(tokens)))
    for row, cell in enumerate(cells):
        yield Likelihood(
            task=cell.task,
            variant=cell.variant,
            format=variants.get(cell.variant, cell.variant),
            n=len(tokens),
            tokens=sum(tokens.values()),
            nll=estimate(values[row], resampled[:, row], len(tokens)),
            against=paired.get(row),
        )


def _paired(values: Floats, resampled: Floats, base: int, items: int) -> Iterator[tuple[int, PairedLikelihood]]:
    others = [row for row in range(len(values)) if row != base]
    differences = {row: estimate(values[row] - values[base], resampled[:, row] - resampled[:, base], items) for row in others}
    p_values = [bootstrap_p(resampled[:, row] - resampled[:, base]) for row in others]
    enough = items >= MIN_SEQUENCES
    for row, p_value, adjusted in zip(others, p_values, holm(p_values), strict=True):
        yield (
            row,
            PairedLikelihood(
                difference=differences[row],
                p_value=p_value if enough else None,
                p_adjusted=adjusted if enough else None,
                tests=len(others),
                verdict=verdict_nats(differences[row], adjusted),
            ),
        )
