"""The Fisher proxy against the sweep: whether both rank the units alike, and where they differ.

The proxy costs a few backward passes, the sweep hundreds of forward passes; whether the proxy can replace the sweep depends on model and
format. A unit's KL is about mean(a^2) / 2 over its scores a (`records.UnitScores`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.layer_sensitivity import Measured, Sample, sample_of
from bitzones.analysis.plan_verdicts import Disagreement, FisherReading
from bitzones.schema.sensitivity_cells import FisherCell
from bitzones.stats.bootstrap import bootstrap_ratio, weighted_ratio
from bitzones.stats.correlation import MIN_PAIRS, spearman, spearman_interval
from bitzones.stats.intervals import MIN_SEQUENCES, Estimate, Interval

__all__ = ["MOST_DISAGREEMENTS", "ProxyScores", "agreement", "proxy_scores"]

MOST_DISAGREEMENTS = 3
"""Most units listed per format."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProxyScores:
    """A fisher cell as arrays: ``scores[unit, format]`` of shape (samples, sequences with a scored token)."""

    sample: Sample
    scores: Mapping[tuple[str, str], Floats]

    def of_plan(self, units: Mapping[str, str], reference: str) -> Estimate | None:
        """Second-order estimate of a plan's KL, interactions included, nats per token; None where a score is missing."""
        changed = [(unit, name) for unit, name in units.items() if name != reference]
        if any(pair not in self.scores for pair in changed):
            return None
        added = sum((self.scores[pair] for pair in changed), np.zeros((1, self.sample.sequences)))
        return bootstrap_ratio(self.sample.weights, _nats(added), self.sample.tokens)


def _nats(scores: Floats) -> Floats:
    """Nats of every sequence."""
    return np.asarray((scores * scores).mean(axis=0) / 2)


def proxy_scores(cell: FisherCell, resamples: int, seed: int) -> ProxyScores:
    """The cell as arrays, on the same resamples as a sweep of the same sequences.

    Raises:
        ValueError: no sequence has a scored token.
    """
    sample = sample_of(cell.sequence_tokens, resamples, seed)
    shape = cell.samples, len(cell.sequence_tokens)
    scores = {(item.unit, item.format): np.asarray(item.nats).reshape(shape)[:, sample.kept] for item in cell.scores}
    return ProxyScores(sample, scores)


def agreement(found: ProxyScores, measured: Measured) -> tuple[FisherReading, ...]:
    """The proxy against the sweep, by format from most to fewest bits; formats without a common unit are left out."""
    readings = []
    for column, name in enumerate(measured.formats):
        done = {item.unit for item in measured.cell.measurements if item.format == name and item.kl_nats is not None}
        rows = [row for row, unit in enumerate(measured.cell.units) if unit.name in done and (unit.name, name) in found.scores]
        if rows:
            names = [measured.cell.units[row].name for row in rows]
            nats = np.array([_nats(found.scores[unit, name]) for unit in names])
            readings.append(_reading(found.sample, name, names, nats, measured.mean[rows, column], measured.resampled[:, rows, column]))
    return tuple(readings)


def _reading(sample: Sample, name: str, units: list[str], fisher: Floats, truth: Floats, resampled: Floats) -> FisherReading:
    from scipy.stats import rankdata  # noqa: PLC0415 (takes 0.4 s to import, which only reports need)

    guess = fisher.sum(axis=1) / sample.tokens.sum()
    guess_ranks, truth_ranks = rankdata(-guess), rankdata(-truth)
    order = np.argsort(-np.abs(guess_ranks - truth_ranks), kind="stable")[:MOST_DISAGREEMENTS]
    positive = truth > 0
    return FisherReading(
        format=name,
        units=len(units),
        spearman=_interval(sample, guess, truth, fisher, resampled),
        median_ratio=float(np.median(guess[positive] / truth[positive])) if positive.any() else None,
        disagreements=tuple(
            Disagreement(unit=units[at], exact_rank=float(truth_ranks[at]), fisher_rank=float(guess_ranks[at]))
            for at in order
            if guess_ranks[at] != truth_ranks[at]
        ),
    )


def _interval(sample: Sample, guess: Floats, truth: Floats, fisher: Floats, resampled: Floats) -> Interval | None:
    rho = float(spearman(guess, truth))
    if len(guess) < MIN_PAIRS or sample.sequences < MIN_SEQUENCES or not math.isfinite(rho):
        return None
    return spearman_interval(rho, len(guess), spearman(weighted_ratio(sample.weights, fisher, sample.tokens), resampled))
