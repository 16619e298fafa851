"""Paired comparison on the same items and the same sequences: accuracies by McNemar's test, KLs by a paired bootstrap.

Pairing removes the variance of the shared sample, so that small changes show. It needs proof that the samples are the same: the hash of an
item's content or of the sensitivity set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.task_answers import NORMALIZED
from bitzones.regression.comparison import Metric
from bitzones.regression.decision_rule import Draft, normal_p, settled
from bitzones.schema.profile_sections import Gate
from bitzones.schema.quality_cells import AccuracyCell, PerplexityCell
from bitzones.stats.bootstrap import percentile_interval, resample_weights
from bitzones.stats.intervals import MIN_SEQUENCES, Estimate, paired_difference
from bitzones.stats.significance import mcnemar_exact
from bitzones.stats.verdicts import NON_INFERIORITY_NATS

__all__ = ["Sequences", "accuracy", "kl", "perplexity"]

RESAMPLES = 2000
"""Behind a paired interval and its standard error: the second is then known to 2%."""

LEAST_SHARED = 0.5
"""Of the items: where fewer are asked in both runs, they say little about either."""

LIKELIHOOD = "negative log-likelihood"

Floats = NDArray[np.float64]


def _manner(cell: AccuracyCell | PerplexityCell) -> dict[str, object]:
    """How the items were asked: one item asked in two ways is two items."""
    found: dict[str, object] = {"version": cell.task_version, "chat template": cell.chat_template}
    if isinstance(cell, AccuracyCell):
        found |= {"shots": cell.fewshot, "metric": cell.metric}
    if cell.harness is None:
        return {**found, "lm_eval task": "none"}
    settings = f"{cell.harness.config_sha256[:12]}..."
    return {**found, "lm_eval task": cell.harness.task, "its version": cell.harness.version, "its settings": settings}


def _asked_otherwise(name: str, old: AccuracyCell | PerplexityCell, new: AccuracyCell | PerplexityCell) -> Draft | None:
    before, after = _manner(old), _manner(new)
    changed = [f"{key} {after[key]}, was {before.get(key, 'none')}" for key in after if before.get(key) != after[key]]
    reason = f"asked otherwise: {', '.join(changed)}"
    return settled(Metric(name=name, unit="share", status="incomparable", reason=reason)) if changed else None


def accuracy(old: AccuracyCell, new: AccuracyCell, gate: Gate) -> list[Draft]:
    """The metrics of an accuracy cell, paired by item."""
    if (other := _asked_otherwise(new.metric, old, new)) is not None:
        return [other]
    columns: list[tuple[str, tuple[bool, ...], tuple[bool, ...]]] = [(new.metric, old.correct, new.correct)]
    if old.correct_normalized is not None and new.correct_normalized is not None:
        columns.append((NORMALIZED, old.correct_normalized, new.correct_normalized))
    return [
        _answers(name, dict(zip(old.item_ids, was, strict=True)), dict(zip(new.item_ids, now, strict=True)), gate)
        for name, was, now in columns
    ]


def _answers(name: str, old: dict[str, bool], new: dict[str, bool], gate: Gate) -> Draft:
    shared = [item for item in new if item in old]
    n = len(shared)
    if n < LEAST_SHARED * max(len(old), len(new)) or not n:
        reason = f"{n} items are in both runs, of {len(old)} and {len(new)}"
        return settled(Metric(name=name, unit="share", status="incomparable", n=n, units="items", reason=reason))
    lost = sum(old[item] and not new[item] for item in shared)
    gained = sum(new[item] and not old[item] for item in shared)
    p_value, interval = mcnemar_exact(lost, gained), paired_difference(lost, gained, n)
    same = "the same items right" if not lost + gained else f"{lost} items lost, {gained} gained"
    unshared = f" (on the {n} items of both runs, of {len(old)} and {len(new)})" if n < max(len(old), len(new)) else ""
    metric = Metric(
        name=name,
        unit="share",
        status="same",
        old=sum(old[item] for item in shared) / n,
        new=sum(new[item] for item in shared) / n,
        change=Estimate(value=interval.value, low=interval.low, high=interval.high),
        n=n,
        units="items",
        tolerance=gate.accuracy,
        reason=f"{same}{unshared}",
    )
    return Draft(
        metric,
        family="accuracy",
        p_worse=p_value / 2 if lost > gained else 1.0,
        p_better=p_value / 2 if gained > lost else 1.0,
        within=not lost + gained or interval.low >= -gate.accuracy,
        spread=math.sqrt(lost + gained) / n,
        margin=gate.accuracy,
    )


def perplexity(old: PerplexityCell, new: PerplexityCell, seed: int) -> list[Draft]:
    """The likelihood of the same documents; worse is more than `NON_INFERIORITY_NATS` per token above it."""
    if (other := _asked_otherwise(LIKELIHOOD, old, new)) is not None:
        return [other]
    before, after = (dict(zip(cell.item_ids, cell.nll_nats, strict=True)) for cell in (old, new))
    shared = {item: tokens for item, tokens in zip(new.item_ids, new.tokens, strict=True) if item in before}
    if len(shared) < LEAST_SHARED * max(len(before), len(after)) or not sum(shared.values()):
        reason = f"{len(shared)} documents are in both runs, of {len(before)} and {len(after)}"
        return [settled(Metric(name=LIKELIHOOD, unit="nats/token", status="incomparable", n=len(shared), reason=reason))]
    sequences = Sequences(list(shared.values()), seed)
    was, now = ([found[item] for item in shared] for found in (before, after))
    return [_nats(LIKELIHOOD, was, now, sequences, NON_INFERIORITY_NATS * sequences.tokens, NON_INFERIORITY_NATS)]


class Sequences:
    """The sensitivity sequences of a cell, the same in both runs, with the resamples that all its KLs share."""

    def __init__(self, tokens: Sequence[int], seed: int) -> None:
        counts = np.asarray(tokens, dtype=np.float64)
        self.kept = counts > 0
        self.tokens: Floats = counts[self.kept]
        self.seed = seed

    @property
    def weights(self) -> Floats:
        """How often each sequence is drawn in each resample."""
        return resample_weights(len(self.tokens), RESAMPLES, self.seed)


def kl(name: str, old: Sequence[float], new: Sequence[float], sequences: Sequences, gate: Gate) -> Draft:
    """One KL in both runs, nats of every sequence.

    Worse is more than ``gate.kl`` of the old KL and ``gate.kl_nats`` per token above it: in the mean, and shown either by the bootstrap or,
    since a few sequences can hold most of a KL and its spread, by how many of the sequences rise.
    """
    before = np.asarray(old, dtype=np.float64)[sequences.kept]
    return _nats(name, old, new, sequences, gate.kl * before + gate.kl_nats * sequences.tokens, gate.kl)


def _nats(name: str, old: Sequence[float], new: Sequence[float], sequences: Sequences, slack: Floats, tolerance: float) -> Draft:
    """Nats of every sequence in both runs: whether they rise by more than a slack in nats of each."""
    before, after = (np.asarray(values, dtype=np.float64)[sequences.kept] for values in (old, new))
    tokens, n = float(sequences.tokens.sum()), len(sequences.tokens)
    difference = after - before
    value = float(difference.sum()) / tokens
    metric = Metric(
        name=name,
        unit="nats/token",
        status="same",
        old=float(before.sum()) / tokens,
        new=float(after.sum()) / tokens,
        change=Estimate(value=value, low=None, high=None),
        n=n,
        units="sequences",
        tolerance=tolerance,
    )
    if bool((np.abs(difference) <= slack).all()):  # no sequence leaves the tolerance: no resample does, however few there are
        return Draft(metric, family="kl", within=True)
    if n < MIN_SEQUENCES:
        reason = f"{n} sequences are too few to resample; {MIN_SEQUENCES} would do"
        return Draft(metric.model_copy(update={"reason": reason}), family="kl")
    per_token = sequences.weights @ np.stack([difference, difference - slack, difference + slack], axis=1)
    per_token /= (sequences.weights @ sequences.tokens)[:, None]
    interval, spread = percentile_interval(value, per_token[:, 0]), per_token.std(axis=0)
    allowed = float(slack.sum()) / tokens
    return Draft(
        metric.model_copy(update={"change": Estimate(value=value, low=interval.low, high=interval.high)}),
        family="kl",
        p_worse=_either(normal_p(value - allowed, float(spread[1])), int((difference > slack).sum()), n) if value > allowed else 1.0,
        p_better=_either(normal_p(-value - allowed, float(spread[2])), int((-difference > slack).sum()), n) if -value > allowed else 1.0,
        within=bool(np.quantile(per_token[:, 1], 0.975) <= 0),
        spread=float(spread[1]),
        margin=allowed,
    )


def _either(p_mean: float, moved: int, n: int) -> float:
    """The smaller p-value of the mean's test and of the sign test (``moved`` heads of n coins), doubled for being the better of two."""
    from scipy.special import bdtrc  # noqa: PLC0415 (half a second, and most comparisons find nothing to test)

    return min(1.0, 2 * min(p_mean, float(bdtrc(moved - 1, n, 0.5)) if moved else 1.0))
