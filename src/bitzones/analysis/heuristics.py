"""Rules of thumb for layer sensitivity, tested against measured sensitivity.

A rule either names layers ("sparsity above 15%") or orders them ("the higher the weight kurtosis, the more sensitive"). Sensitivity of a
layer is the sum of its units' KL at the lowest format; the caller says which layers are critical, which depends on the budget. Layers are
taken as a random sample, as Wilson's interval and the tests below assume.

The verdicts:

    not measured      no layer has both the statistic and a sensitivity
    nothing to test   the rule does not separate layers, or no layer or every layer is critical
    holds             p, Holm-corrected over all rules tested, is below 5%, and the rule is useful:
                      for a rule that names layers, its precision or recall is at least `MOSTLY`;
                      for one that orders them, the interval of Spearman's correlation lies above `SLIGHT` and reaches `USEFUL`, and its
                      top layers, as many as are critical, are critical more often than random ones
    does not hold     the 95% interval excludes usefulness: precision or recall below `MOSTLY` or below that of a random set of the same
                      size, or a correlation below `USEFUL`
    inconclusive      anything else; always below `MIN_SEQUENCES` sequences or `MIN_PAIRS` layers

Only "holds" is corrected for the number of rules, because it is the verdict that users act on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.layer_sensitivity import Measured, layers_of
from bitzones.analysis.plan_verdicts import RuleReading, RuleReason, RuleVerdict
from bitzones.analysis.rules_of_thumb import RULES, Rule, statistics
from bitzones.schema.layer_statistics import LayersCell
from bitzones.stats.correlation import MIN_PAIRS, spearman, spearman_interval, spearman_p
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Interval, wilson_interval
from bitzones.stats.significance import holm

__all__ = ["MOSTLY", "SLIGHT", "USEFUL", "audit"]

MOSTLY = 0.5
"""Least precision or recall of a rule that holds: right more often than wrong."""

SLIGHT = 0.1
"""A correlation no stronger than this is negligible: Cohen's small effect (1988)."""

USEFUL = 0.5
"""A correlation below this explains less than a quarter of the variance of ranks: Cohen's large effect (1988)."""

Floats = NDArray[np.float64]
Answer = tuple[RuleVerdict, RuleReason]


@dataclass(frozen=True)
class _Sensitivity:
    """Sensitivity of whole layers at the lowest format, nats per token: ``values[n]``, ``resampled[r, n]``."""

    layers: tuple[int, ...]
    values: Floats
    resampled: Floats
    sequences: int


@dataclass(frozen=True)
class _Facts:
    """The inputs of a verdict, over the layers that have both the statistic and a sensitivity."""

    rule: Rule
    layers: tuple[int, ...]
    score: Floats
    critical: frozenset[int]
    flagged: frozenset[int]
    spearman: Interval | None
    p: float | None = None

    @property
    def names(self) -> bool:
        """Whether the rule names layers rather than ordering them."""
        return self.rule.threshold is not None

    @property
    def hits(self) -> int:
        return len(self.flagged & self.critical)

    @property
    def precision(self) -> Interval | None:
        return wilson_interval(self.hits, len(self.flagged)) if self.flagged else None

    @property
    def recall(self) -> Interval | None:
        told = self.names or self.flagged
        return wilson_interval(self.hits, len(self.critical)) if self.critical and told else None

    @property
    def base_rate(self) -> float | None:
        return len(self.critical) / len(self.layers) if self.layers else None


def audit(measured: Measured, layers: LayersCell | None, critical: frozenset[int], total: int | None = None) -> tuple[RuleReading, ...]:
    """Every rule of thumb against measured sensitivity, in the order of `RULES`.

    Args:
        measured: sensitivity with its resamples; a layer with a unit that was not measured at the format with the fewest bits is left out.
        layers: activation and attention statistics; None where they were not measured.
        critical: the layers that must stay above the lowest format.
        total: number of layers of the model, for rules about position; by default, up to the last layer in the data.
    """
    sensitivity, values = _layer_sensitivity(measured), statistics(measured, layers, total)
    facts = [_facts(rule, values[rule.statistic], sensitivity, critical) for rule in RULES]
    stops = [_stop(fact, sensitivity) for fact in facts]
    tested = [fact if stop else replace(fact, p=_p(fact, sensitivity)) for fact, stop in zip(facts, stops, strict=True)]
    adjusted = iter(holm([fact.p for fact in tested if fact.p is not None]))
    return tuple(_reading(fact, stop, None if fact.p is None else next(adjusted)) for fact, stop in zip(tested, stops, strict=True))


def _layer_sensitivity(measured: Measured) -> _Sensitivity:
    lowest, units = len(measured.formats) - 1, measured.cell.units
    done = {item.unit for item in measured.cell.measurements if item.format == measured.formats[lowest] and item.kl_nats is not None}
    kept = {layer: rows for layer, rows in layers_of(units).items() if all(units[row].name in done for row in rows)}
    resampled = np.empty((len(measured.resampled), len(kept)))
    for column, rows in enumerate(kept.values()):
        resampled[:, column] = measured.resampled[:, rows, lowest].sum(axis=1)
    values = np.array([measured.mean[rows, lowest].sum() for rows in kept.values()], dtype=np.float64)
    return _Sensitivity(tuple(kept), values, resampled, measured.sequences)


def _facts(rule: Rule, statistic: dict[int, float], sensitivity: _Sensitivity, critical: frozenset[int]) -> _Facts:
    layers = tuple(layer for layer in sensitivity.layers if layer in statistic)
    score = np.array([rule.sign * statistic[layer] for layer in layers], dtype=np.float64)
    critical &= frozenset(layers)
    above = score > rule.sign * rule.threshold if rule.threshold is not None else _top(score, len(critical))
    flagged = frozenset(layer for layer, named in zip(layers, above, strict=True) if named)
    return _Facts(rule, layers, score, critical, flagged, _spearman(layers, score, sensitivity))


def _top(score: Floats, count: int) -> NDArray[np.bool_]:
    """The ``count`` highest scores and ties with the last of them; none where all scores are equal."""
    if not count or score.min() == score.max():
        return np.zeros(len(score), dtype=np.bool_)
    return np.asarray(score >= np.sort(score)[-count])


def _at(layers: tuple[int, ...], sensitivity: _Sensitivity) -> list[int]:
    return [index for index, layer in enumerate(sensitivity.layers) if layer in set(layers)]


def _spearman(layers: tuple[int, ...], score: Floats, sensitivity: _Sensitivity) -> Interval | None:
    if len(layers) < MIN_PAIRS or sensitivity.sequences < MIN_SEQUENCES:
        return None
    at = _at(layers, sensitivity)
    rho = float(spearman(score, sensitivity.values[at]))
    return spearman_interval(rho, len(layers), spearman(score, sensitivity.resampled[:, at])) if math.isfinite(rho) else None


def _p(facts: _Facts, sensitivity: _Sensitivity) -> float:
    if facts.names:
        return _at_random(facts.hits, len(facts.layers), len(facts.critical), len(facts.flagged))
    return spearman_p(float(spearman(facts.score, sensitivity.values[_at(facts.layers, sensitivity)])), len(facts.layers))


def _at_random(hits: int, layers: int, critical: int, flagged: int) -> float:
    """The probability that a random set of ``flagged`` layers has at least ``hits`` critical ones: the hypergeometric distribution."""
    ways = sum(math.comb(critical, k) * math.comb(layers - critical, flagged - k) for k in range(hits, min(critical, flagged) + 1))
    return ways / math.comb(layers, flagged)


def _stop(facts: _Facts, sensitivity: _Sensitivity) -> Answer | None:
    """The verdict where nothing can be tested or data are too few: the first that applies; else None."""
    n = len(facts.layers)
    alike = n > 0 and bool(facts.score.min() == facts.score.max())
    answers: tuple[tuple[bool, RuleVerdict, RuleReason], ...] = (
        (not sensitivity.layers, "not measured", "no_sensitivity"),
        (n == 0, "not measured", "no_statistic"),
        (facts.names and not facts.flagged, "nothing to test", "flags_none"),
        (facts.names and len(facts.flagged) == n, "nothing to test", "flags_all"),
        (alike, "nothing to test", "constant_statistic"),
        (sensitivity.sequences < MIN_SEQUENCES, "inconclusive", "few_sequences"),
        (n < MIN_PAIRS, "inconclusive", "few_layers"),
        (facts.names and not facts.critical, "nothing to test", "none_critical"),
        (facts.names and len(facts.critical) == n, "nothing to test", "all_critical"),
        (facts.spearman is None, "inconclusive", "equal_sensitivity"),
    )
    return next(((verdict, reason) for applies, verdict, reason in answers if applies), None)


def _reading(facts: _Facts, stop: Answer | None, p_adjusted: float | None) -> RuleReading:
    verdict, reason = stop or (_named(facts, p_adjusted) if facts.names else _ordered(facts, p_adjusted))
    return RuleReading(
        rule=facts.rule.name,
        claim=facts.rule.claim,
        source=facts.rule.source,
        statistic=facts.rule.statistic,
        values=dict(zip(facts.layers, (facts.rule.sign * facts.score).tolist(), strict=True)),
        layers=len(facts.layers),
        critical=len(facts.critical),
        spearman=facts.spearman,
        p=facts.p,
        p_adjusted=p_adjusted,
        flagged=tuple(sorted(facts.flagged)),
        precision=facts.precision,
        recall=facts.recall,
        base_rate=facts.base_rate,
        verdict=verdict,
        reason=reason,
    )


def _named(facts: _Facts, p_adjusted: float | None) -> Answer:
    """The verdict on a rule that names layers."""
    by_recall = facts.rule.claims == "recall"
    share = facts.recall if by_recall else facts.precision
    chance = len(facts.flagged if by_recall else facts.critical) / len(facts.layers)
    assert share is not None
    assert p_adjusted is not None
    if share.high < MOSTLY:
        return "does not hold", "mostly_missed" if by_recall else "mostly_not_critical"
    if share.high < chance:
        return "does not hold", "worse_than_random"
    if p_adjusted >= ALPHA:
        return "inconclusive", "not_told_from_random"
    if share.value < MOSTLY:
        return "inconclusive", "mostly_missed_here" if by_recall else "mostly_not_critical_here"
    return "holds", "better_than_random"


def _ordered(facts: _Facts, p_adjusted: float | None) -> Answer:
    """The verdict on a rule that orders layers."""
    assert facts.spearman is not None
    assert p_adjusted is not None
    if facts.spearman.high < USEFUL:
        return "does not hold", "correlation_too_low"
    if p_adjusted >= ALPHA:
        return "inconclusive", "correlation_not_told"
    if facts.spearman.low <= SLIGHT:
        return "inconclusive", "correlation_may_be_slight"
    if facts.precision is not None and facts.hits * len(facts.layers) <= len(facts.critical) * len(facts.flagged) < len(facts.layers) ** 2:
        return "inconclusive", "top_layers_at_random"
    return "holds", "correlation_useful"
