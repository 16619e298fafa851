"""Perplexity and divergence by domain: every variant against the reference, and the searched plan against the other variants.

Windows are resampled, all variants of a domain on the same resamples, so that differences are paired. The two kinds of verdict are those
of the rest of a report: a rise of negative log-likelihood against the reference, and the sign of a paired difference of KL between plans.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.domain_figures import (
    DomainComparison,
    DomainFigures,
    DomainOutcome,
    DomainReading,
    DomainsReading,
    DomainWord,
    PerplexityChange,
    Quantile,
)
from bitzones.analysis.layer_sensitivity import INTERVAL_RESAMPLES
from bitzones.analysis.plan_verdicts import PlansReading
from bitzones.schema import text_sources
from bitzones.schema.domain_cell import CHANGE_UNIT, DomainCell
from bitzones.schema.profile import PLAN, TUNED
from bitzones.schema.run_record import Run
from bitzones.stats.bootstrap import bootstrap_p, bootstrap_ratio, estimate, resample_weights, weighted_ratio
from bitzones.stats.clustered_quantiles import clustered_quantiles
from bitzones.stats.intervals import MIN_SEQUENCES, Estimate
from bitzones.stats.significance import holm
from bitzones.stats.verdicts import verdict_nats

__all__ = ["CHANGE_SHARES", "DOMAIN_SEED", "KL_SHARES", "read_domains", "word_of"]

KL_SHARES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999)
"""Quantiles of KL over tokens, those that ``llama-perplexity --kl-divergence`` prints."""

CHANGE_SHARES = (0.0, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
"""The same of the change of probability."""

DOMAIN_SEED = 2
"""Added to the seed, so that windows are resampled independently of the other sets."""

LARGEST_EXPONENT = 700.0
"""Beyond which exp overflows: such a perplexity is shown as the largest there is."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Windows:
    """Sums of one cell by window, and the resamples of its domain."""

    cell: DomainCell
    weights: Floats

    @cached_property
    def tokens(self) -> Floats:
        """Scored tokens."""
        return np.asarray(self.cell.scored_tokens, dtype=np.float64)

    def mean(self, sums: Sequence[float]) -> Estimate:
        """By scored token."""
        return bootstrap_ratio(self.weights, np.asarray(sums, dtype=np.float64), self.tokens)

    def resampled(self, sums: Sequence[float]) -> tuple[float, Floats]:
        """Mean by scored token, and the same in every resample."""
        found = np.asarray(sums, dtype=np.float64)
        return float(found.sum() / self.tokens.sum()), weighted_ratio(self.weights, found, self.tokens)

    def quantiles(self, texts: Sequence[str], shares: Sequence[float], unit: float = 1.0) -> tuple[Quantile, ...]:
        """Over scored tokens."""
        clusters = [np.array(text.split(), dtype=np.float64) * unit for text in texts]
        found = clustered_quantiles(clusters, self.weights, shares)
        return tuple(Quantile(share=share, value=value) for share, value in zip(shares, found, strict=True))

    def estimate(self, value: float, resampled: Floats) -> Estimate:
        """With the interval of the resamples."""
        return estimate(value, resampled, len(self.tokens))


def read_domains(
    run: Run, cells: Sequence[DomainCell], plans: PlansReading | None, uniform: Mapping[str, bool] | None = None
) -> DomainsReading | None:
    """What the cells say of every domain; None where there are none.

    Args:
        run: names the domains, and what was read for them.
        cells: in the order of the run's variants.
        plans: says which variants are within the budget.
        uniform: format -> the same of a model wholly in it, for a run whose plans were not compared.
    """
    found = tuple(
        _domain(run, name, [cell for cell in cells if cell.domain == name], plans, uniform or {})
        for name in dict.fromkeys(cell.domain for cell in cells)
    )
    if not found:
        return None
    measured = {item.name: figures.kl.value for item in found if (figures := item.of(item.subject)) is not None}
    return DomainsReading(
        domains=found,
        worst=max(measured, key=measured.__getitem__, default=None),
        recommended_for=tuple(item.name for item in found if item.outcome == "wins"),
        not_for=tuple(item.name for item in found if item.outcome == "loses"),
    )


def _domain(run: Run, name: str, cells: Sequence[DomainCell], plans: PlansReading | None, uniform: Mapping[str, bool]) -> DomainReading:
    first, settings = cells[0], next((domain for domain in run.profile.domains if domain.name == name), None)
    weights = resample_weights(len(first.scored_tokens), INTERVAL_RESAMPLES, run.profile.seed + DOMAIN_SEED)
    windows = [_Windows(cell, weights) for cell in cells]
    changes = _changes(windows)
    within = {cell.variant: _within(run.variants, cell.variant, plans, uniform) for cell in cells}
    figures = tuple(_figures(run, item, change, within[item.cell.variant]) for item, change in zip(windows, changes, strict=True))
    tuned = plans is not None and plans.recommended == TUNED and any(cell.variant == TUNED for cell in cells)
    subject = TUNED if tuned else PLAN
    compared = tuple(_compared(windows, subject))
    read = run.domains.get(name)
    return DomainReading(
        name=name,
        source=settings.source if settings else name,
        origin=read.origin if read else None,
        license=read.parts[0].license if read and read.parts else None,
        sha256=read.sha256 if read else None,
        documents=read.documents if read else None,
        unseen=settings is not None and text_sources.is_unseen(run.profile, settings),
        windows=len(first.scored_tokens),
        tokens=sum(first.scored_tokens),
        window=first.window,
        stride=first.stride,
        context=first.context,
        joined=first.joined,
        reference_perplexity=_perplexity(windows[0], first.reference_nll_nats),
        figures=figures,
        compared=compared,
        subject=subject,
        outcome=_outcome(compared, within),
    )


def _minus(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def _exp(values: Floats | float) -> Floats:
    return np.exp(np.minimum(np.asarray(values, dtype=np.float64), LARGEST_EXPONENT))


def _perplexity(windows: _Windows, nll: Sequence[float]) -> Estimate:
    value, resampled = windows.resampled(nll)
    return windows.estimate(float(_exp(value)), _exp(resampled))


def _changes(windows: Sequence[_Windows]) -> list[PerplexityChange]:
    """Every variant of a domain against the reference, with p-values corrected for how many there are."""
    rises = [item.resampled(_minus(item.cell.nll_nats, item.cell.reference_nll_nats)) for item in windows]
    p_values = [bootstrap_p(resampled) for _, resampled in rises]
    return [
        _change(item, rise, p_value, adjusted, len(windows))
        for item, rise, p_value, adjusted in zip(windows, rises, p_values, holm(p_values), strict=True)
    ]


def _change(windows: _Windows, rise: tuple[float, Floats], p_value: float, adjusted: float, tests: int) -> PerplexityChange:
    (value, resampled), enough = rise, len(windows.tokens) >= MIN_SEQUENCES
    log_ratio = windows.estimate(value, resampled)
    (own, own_resampled), (base, base_resampled) = (
        windows.resampled(nll) for nll in (windows.cell.nll_nats, windows.cell.reference_nll_nats)
    )
    return PerplexityChange(
        log_ratio=log_ratio,
        ratio=windows.estimate(float(_exp(value)), _exp(resampled)),
        difference=windows.estimate(float(_exp(own) - _exp(base)), _exp(own_resampled) - _exp(base_resampled)),
        correlation=_correlation(windows.cell),
        p_value=p_value if enough else None,
        p_adjusted=adjusted if enough else None,
        tests=tests,
        verdict=verdict_nats(log_ratio, adjusted),
    )


def _correlation(cell: DomainCell) -> float | None:
    n, x, y = sum(cell.scored_tokens), sum(cell.nll_nats), sum(cell.reference_nll_nats)
    xx, yy, xy = (sum(row[column] for row in cell.nll_squares) for column in range(3))
    spread = (xx - x * x / n) * (yy - y * y / n)
    return None if spread <= 0 else float(np.clip((xy - x * y / n) / np.sqrt(spread), -1, 1))


def _figures(run: Run, windows: _Windows, change: PerplexityChange, within: bool | None) -> DomainFigures:
    cell = windows.cell
    square, squares = windows.resampled(cell.change_squares)
    return DomainFigures(
        variant=cell.variant,
        format=run.variants.get(cell.variant, cell.variant),
        within_budget=within,
        perplexity=_perplexity(windows, cell.nll_nats),
        change=change,
        kl=windows.mean(cell.kl_nats),
        kl_quantiles=windows.quantiles(cell.kl_tokens, KL_SHARES),
        kl_max=max(float(value) for text in cell.kl_tokens for value in text.split()),
        same_top=windows.mean(cell.same_top),
        probability_change=windows.mean(cell.change),
        probability_change_rms=windows.estimate(float(np.sqrt(square)), np.sqrt(squares)),
        probability_change_quantiles=windows.quantiles(cell.change_tokens, CHANGE_SHARES, CHANGE_UNIT),
    )


def _within(variants: Mapping[str, str], variant: str, plans: PlansReading | None, uniform: Mapping[str, bool]) -> bool | None:
    """Whether a variant is within the budget, by the whole plan that it is, or else by its format."""
    format_ = variants.get(variant, variant)
    if plans is None:
        return uniform.get(format_)
    if variant == PLAN:
        return plans.named(plans.searched).within_budget
    alike = [item for item in plans.plans if item.name == f"uniform {format_}" or item.origin == variant]
    return alike[0].within_budget if alike else None


def _compared(windows: Sequence[_Windows], subject: str) -> Iterable[DomainComparison]:
    """The plan against every other variant, paired."""
    plan = next((item for item in windows if item.cell.variant == subject), None)
    for other in windows if plan is not None else ():
        if plan is None or other is plan:
            continue
        difference = plan.mean(_minus(plan.cell.kl_nats, other.cell.kl_nats))
        yield DomainComparison(variant=other.cell.variant, difference=difference, word=word_of(difference))


def word_of(difference: Estimate) -> DomainWord:
    """The verdict of a paired difference of KL, of which less is better."""
    if difference.low is None or difference.high is None:
        return "inconclusive"
    return "better" if difference.high < 0 else "worse" if difference.low > 0 else "inconclusive"


def _outcome(compared: Iterable[DomainComparison], within: Mapping[str, bool | None]) -> DomainOutcome:
    words = {item.word for item in compared if within.get(item.variant)}
    if not words:
        return "alone"
    return "loses" if "worse" in words else "wins" if words == {"better"} else "inconclusive"
