"""Perplexity of whole documents by word and byte: the figures that lm-evaluation-harness gives, with intervals over documents."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.task_answers import TaskPerplexity
from bitzones.schema.quality_cells import PerplexityCell
from bitzones.stats.bootstrap import bootstrap_ratio, resample_weights
from bitzones.stats.intervals import Estimate

__all__ = ["perplexities"]

Floats = NDArray[np.float64]


def perplexities(cells: Iterable[PerplexityCell], variants: dict[str, str], seed: int) -> tuple[TaskPerplexity, ...]:
    """The perplexities of every cell; all variants of a task share their resamples."""
    return tuple(_perplexity(cell, variants.get(cell.variant, cell.variant), seed) for cell in cells)


def _perplexity(cell: PerplexityCell, format_name: str, seed: int) -> TaskPerplexity:
    weights = resample_weights(len(cell.item_ids), INTERVAL_RESAMPLES, seed)
    nats, words, size = (np.array(column, dtype=np.float64) for column in (cell.nll_nats, cell.words, cell.utf8_bytes))
    by_word, by_byte = bootstrap_ratio(weights, nats, words), bootstrap_ratio(weights, nats, size)
    return TaskPerplexity(
        task=cell.task,
        variant=cell.variant,
        format=format_name,
        n=len(cell.item_ids),
        tokens=sum(cell.tokens),
        word_perplexity=_exp(by_word),
        byte_perplexity=_exp(by_byte),
        bits_per_byte=_mapped(by_byte, [value / math.log(2) for value in _values(by_byte)]),
        seconds_s=cell.seconds_s,
    )


def _exp(nats: Estimate) -> Estimate:
    """Of a ruined model it may be larger than a record holds; then it is the largest."""
    return _mapped(nats, [math.exp(min(value, LARGEST_NATS)) for value in _values(nats)])


def _values(found: Estimate) -> list[float]:
    return [value for value in (found.value, found.low, found.high) if value is not None]


def _mapped(found: Estimate, values: list[float]) -> Estimate:
    return Estimate(value=values[0], low=None, high=None) if found.low is None else Estimate(value=values[0], low=values[1], high=values[2])


LARGEST_NATS = 200.0
"""exp of it is 1e87: far beyond the perplexity of a uniform guess."""
