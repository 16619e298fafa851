"""The section on text of every kind: KL and perplexity by domain, where the plan wins, and the statistics of llama-perplexity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bitzones.analysis.domain_figures import DomainFigures, DomainReading, DomainsReading, Quantile
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.tables import ABSENT, details, four_digits, markdown, more_nats, nats, p_value, plain, ratio, table
from bitzones.schema.profile import TUNED
from bitzones.stats.intervals import Estimate

__all__ = ["by_domain", "folded", "in_short", "lines", "statistics", "verdict_by_domain"]

OUTCOMES = {
    "wins": "**wins**: better than every other variant within the budget",
    "loses": "**loses**: a variant within the budget is better",
    "inconclusive": "inconclusive",
    "alone": "no other variant within the budget was measured here",
}

PERCENT = 100


def lines(analysis: Analysis) -> Iterator[str]:
    """Plain lines for the headline: where the plan wins, its worst domain, and KL and perplexity of every variant on each domain."""
    found = analysis.domains
    if found is None:
        return
    if (said := in_short(found)) is not None:
        yield said
    for item in found.domains:
        shown = "; ".join(_variant(figures) for figures in item.figures)
        yield (
            f"Domain {_name(item)}, n = {item.windows} windows, {item.tokens:,} scored tokens: {analysis.reference} perplexity "
            f"{_value(item.reference_perplexity)}; KL in nats/token and perplexity: {shown}"
        )


def in_short(found: DomainsReading) -> str | None:
    """The domain where the plan is worst and the domains where it wins, in one line; None where the plan was measured on none."""
    worst = next((item for item in found.domains if item.name == found.worst), None)
    figures = worst.of(worst.subject) if worst is not None else None
    if worst is None or figures is None:
        return None
    named = "tuned" if worst.subject == TUNED else "searched"
    return f"Worst domain of the {named} plan: {_name(worst)}, KL {_short(figures.kl)} nats/token; {verdict_by_domain(found)}"


def verdict_by_domain(found: DomainsReading) -> str:
    """For which domains the plan is recommended, in words."""
    told: dict[str, list[str]] = {}
    for item in found.domains:
        told.setdefault(item.outcome, []).append(plain(item.name))
    words = {
        "wins": "recommended for {}, where it measured better than every other variant within the budget",
        "loses": "not for {}, where another variant within the budget measured better",
        "inconclusive": "inconclusive on {}",
        "alone": "compared with nothing within the budget on {}",
    }
    return "; ".join(sentence.format(", ".join(told[word])) for word, sentence in words.items() if word in told)


def _name(item: DomainReading) -> str:
    return f"{plain(item.name)}{' (unseen: in no set)' if item.unseen else ''}"


def _variant(figures: DomainFigures) -> str:
    over = " (over the budget)" if figures.within_budget is False else ""
    return f"{plain(figures.variant)}{over} {_short(figures.kl)}, {_value(figures.perplexity)}"


def _short(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.3g} to {estimate.high:.3g})"
    return f"{estimate.value:.3g}{ends}"


def by_domain(analysis: Analysis) -> str:
    """The section; empty where no domain was measured."""
    found = analysis.domains
    if found is None:
        return ""
    head = "## KL and perplexity by domain"
    return "\n\n".join((head, *_intro(found), _domains(analysis, found), *_by_variant(found), *_against(found)))


def _intro(found: DomainsReading) -> Iterator[str]:
    if (said := in_short(found)) is not None:
        yield f"{markdown(said, 10**4)}."
    yield (
        "Perplexity is exp of the mean negative log-likelihood of the scored tokens; KL is KL(reference || variant), the mean over the "
        "same tokens in nats. 95% intervals by bootstrap over windows, all variants of a domain on the same resamples."
    )


def _domains(analysis: Analysis, found: DomainsReading) -> str:
    said = ("domain", "text", "license", "in a set", "windows", "scored tokens", "window, stride, context")
    head = (*said, f"perplexity of {markdown(analysis.reference)} [95%]")
    return table(head, (_domain_row(item) for item in found.domains), text=(0, 1, 2, 3))


def _domain_row(item: DomainReading) -> tuple[str, ...]:
    cut = f"{item.window}, {item.stride}, {item.context}{'' if item.joined else ', documents apart'}"
    return (
        markdown(item.name),
        markdown(item.origin or item.source, 200),
        markdown(item.license or "not stated"),
        "**unseen**" if item.unseen else "its source is",
        f"{item.windows:,}",
        f"{item.tokens:,}",
        cut,
        _perplexity(item.reference_perplexity),
    )


def _perplexity(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _value(estimate)
    return f"{_value(estimate)} [{four_digits(estimate.low)}, {four_digits(estimate.high)}]"


def _value(estimate: Estimate) -> str:
    return four_digits(estimate.value)


def _by_variant(found: DomainsReading) -> Iterator[str]:
    """A row per variant, a column per domain: KL, then perplexity with its verdict."""
    yield "KL(reference || variant), nats per scored token [95%]:"
    yield _matrix(found, lambda figures: nats(figures.kl))
    yield (
        "Perplexity, and the rise of negative log-likelihood against the reference in nats per token [95%] with its verdict after Holm's "
        "correction for the variants of a domain:"
    )
    yield _matrix(
        found,
        lambda figures: f"{_value(figures.perplexity)}; {more_nats(figures.change.log_ratio)} **{figures.change.verdict}**",
    )


def _variants(found: DomainsReading) -> list[str]:
    return list(dict.fromkeys(figures.variant for item in found.domains for figures in item.figures))


def _matrix(found: DomainsReading, write: Callable[[DomainFigures], str]) -> str:
    subject = found.domains[0].subject
    head = ("variant", *(f"{markdown(item.name)}{', unseen' if item.unseen else ''}" for item in found.domains))
    rows = [
        (
            f"**{variant}**" if variant == subject else markdown(variant),
            *(ABSENT if (figures := item.of(variant)) is None else write(figures) for item in found.domains),
        )
        for variant in _variants(found)
    ]
    return table(head, rows)


def _against(found: DomainsReading) -> Iterator[str]:
    """The plan against every other variant."""
    if not any(item.compared for item in found.domains):
        return
    yield (
        "The plan against each other variant: KL of the plan minus that of the other on the same windows, below 0 where the plan "
        "is better. A verdict needs a 95% interval that excludes 0, without correction for the number of comparisons."
    )
    others = list(dict.fromkeys(row.variant for item in found.domains for row in item.compared))
    head = ("domain", "outcome", *(f"plan against {markdown(name)}" for name in others))
    yield table(head, (_against_row(item, others) for item in found.domains), text=(0, 1))


def _against_row(item: DomainReading, others: Sequence[str]) -> tuple[str, ...]:
    made = {row.variant: row for row in item.compared}
    cells = (f"{more_nats(made[name].difference)} {made[name].word}{_over(item, name)}" if name in made else ABSENT for name in others)
    return markdown(item.name), OUTCOMES[item.outcome], *cells


def _over(item: DomainReading, variant: str) -> str:
    figures = item.of(variant)
    return ", over the budget" if figures is not None and figures.within_budget is False else ""


def statistics(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """Every statistic of ``llama-perplexity --kl-divergence``: a title in plain text and a table for each domain."""
    return tuple(
        (
            f"{plain(item.name, 48)}: the statistics that llama-perplexity --kl-divergence prints",
            table(("statistic", *(markdown(figures.variant) for figures in item.figures)), _statistics(analysis.reference, item)),
        )
        for item in (analysis.domains.domains if analysis.domains is not None else ())
    )


def folded(analysis: Analysis) -> str:
    """The same for summary.md."""
    return "\n\n".join(details(markdown(title), body) for title, body in statistics(analysis))


def _statistics(reference: str, item: DomainReading) -> Iterator[tuple[str, ...]]:
    def row(name: str, write: Callable[[DomainFigures], str]) -> tuple[str, ...]:
        return name, *map(write, item.figures)

    yield row("mean PPL(Q)", lambda figures: _perplexity(figures.perplexity))
    yield row(f"mean PPL(base), {markdown(reference)}", lambda figures: _perplexity(item.reference_perplexity))
    yield row("Cor(ln(PPL(Q)), ln(PPL(base)))", lambda figures: _share(figures.change.correlation))
    yield row("mean ln(PPL(Q)/PPL(base))", lambda figures: more_nats(figures.change.log_ratio))
    yield row("mean PPL(Q)/PPL(base)", lambda figures: ratio(figures.change.ratio))
    yield row("mean PPL(Q)-PPL(base)", lambda figures: more_nats(figures.change.difference))
    yield row("p, after Holm", lambda figures: ABSENT if figures.change.p_adjusted is None else p_value(figures.change.p_adjusted))
    yield row("mean KLD", lambda figures: nats(figures.kl))
    yield row("maximum KLD", lambda figures: f"{figures.kl_max:.4g}")
    for place in reversed(range(len(item.figures[0].kl_quantiles))):
        name = _quantile_name(item.figures[0].kl_quantiles[place], "KLD")
        yield row(name, lambda figures, place=place: nats(figures.kl_quantiles[place].value))  # type: ignore[misc]
    yield row("mean Δp", lambda figures: _percent(figures.probability_change))
    for place in reversed(range(len(item.figures[0].probability_change_quantiles))):
        name = _quantile_name(item.figures[0].probability_change_quantiles[place], "Δp")
        yield row(name, lambda figures, place=place: _percent(figures.probability_change_quantiles[place].value))  # type: ignore[misc]
    yield row("RMS Δp", lambda figures: _percent(figures.probability_change_rms))
    yield row("same top p", lambda figures: _percent(figures.same_top))


def _quantile_name(quantile: Quantile, of: str) -> str:
    words = {0.0: "minimum", 0.5: "median", 1.0: "maximum"}
    return f"{words.get(quantile.share, f'{PERCENT * quantile.share:.1f}%')} {of}"


def _percent(estimate: Estimate) -> str:
    ends = "" if estimate.low is None or estimate.high is None else f" [{PERCENT * estimate.low:.2f}, {PERCENT * estimate.high:.2f}]"
    return f"{PERCENT * estimate.value:.2f}{ends} %"


def _share(value: float | None) -> str:
    return ABSENT if value is None else f"{PERCENT * value:.2f}%"
