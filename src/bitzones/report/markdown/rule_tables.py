"""The section on whether rules of thumb hold on this model, with the reason for each verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitzones.analysis.heuristics import MOSTLY, SLIGHT, USEFUL
from bitzones.analysis.plan_verdicts import RuleAudit, RuleReading, RuleReason
from bitzones.analysis.zones import ranges
from bitzones.report.markdown.cost_words import budget_words
from bitzones.report.markdown.tables import ABSENT, markdown, percent, ratio, table
from bitzones.stats.correlation import MIN_PAIRS
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Interval

__all__ = ["critical", "reason_words", "rules"]


def critical(audit: RuleAudit | None, resamples: int) -> str:
    """The definition of critical layers, and which they are; empty without an audit."""
    if audit is None:
        return ""
    return (
        f"A layer is critical if at least {audit.agreement:.0%} of the {resamples} resampled plans, at "
        f"{budget_words(audit.budget)}, do not store it wholly in {audit.format}. Critical layers: {ranges(audit.critical)}."
    )


def rules(readings: Sequence[RuleReading], defined: str = "") -> str:
    """The section: a table with a row per rule, a reason for each verdict, and what the verdicts mean; empty without readings.

    Args:
        readings: one for each rule.
        defined: the definition of critical layers (`critical`), as Markdown.
    """
    if not readings:
        return ""
    head = ("rule", "Spearman [95%]", "p", "flags", "precision [95%]", "random", "recall [95%]", "verdict")
    sections = (
        "## Do the rules of thumb hold?",
        " ".join(text for text in (_answer(readings), defined) if text),
        table(head, map(_row, readings), text=(0, 3, 7)),
        _reasons(readings),
        _method(),
    )
    return "\n\n".join(sections)


def _answer(readings: Sequence[RuleReading]) -> str:
    tested = [item for item in readings if item.p_adjusted is not None]
    held = [markdown(item.rule) for item in tested if item.verdict == "holds"]
    failed = [markdown(item.rule) for item in tested if item.verdict == "does not hold"]
    n, critical = max((item.layers, item.critical) for item in readings)
    return (
        f"{len(tested)} of {len(readings)} rules could be tested against the measured sensitivity of n = {n} layers at the lowest format, "
        f"{critical} of them critical. Hold: {', '.join(held) or 'none'}. Do not hold: {', '.join(failed) or 'none'}."
    )


def _row(item: RuleReading) -> tuple[str, ...]:
    return (
        f"{markdown(item.rule)}: {markdown(item.claim)}",
        ratio(item.spearman),
        ABSENT if item.p_adjusted is None else "< 0.0001" if item.p_adjusted < 1e-4 else f"{item.p_adjusted:.2g}",
        ranges(item.flagged) if item.flagged else ABSENT,
        _share(item.precision),
        percent(item.base_rate),
        _share(item.recall),
        f"**{item.verdict}**",
    )


def _share(interval: Interval | None) -> str:
    return ABSENT if interval is None else f"{interval.value:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def _reasons(readings: Sequence[RuleReading]) -> str:
    """One line per verdict and reason."""
    lines: dict[tuple[str, str], list[str]] = {}
    for item in readings:
        lines.setdefault((item.verdict, reason_words(item)), []).append(markdown(item.rule))
    return "\n".join(f"- {', '.join(names)}: **{verdict}**; {markdown(reason)}." for (verdict, reason), names in lines.items())


def reason_words(item: RuleReading) -> str:
    """Why a rule has its verdict, as a clause."""
    p = "" if item.p_adjusted is None else f" (adjusted p = {item.p_adjusted:.2g})"
    return _REASONS[item.reason].format(statistic=item.statistic, p=p)


_REASONS: Mapping[RuleReason, str] = {
    "no_sensitivity": "no layer has a sensitivity at the lowest format",
    "no_statistic": "no layer has a value of {statistic}",
    "flags_none": "the rule flags no layer",
    "flags_all": "the rule flags every layer",
    "constant_statistic": "{statistic} is the same in every layer",
    "few_sequences": f"fewer than {MIN_SEQUENCES} sensitivity sequences",
    "few_layers": f"fewer than {MIN_PAIRS} layers",
    "none_critical": "no layer is critical",
    "all_critical": "every layer is critical",
    "equal_sensitivity": "all layers are equally sensitive",
    "mostly_not_critical": "most layers that it flags are not critical",
    "mostly_missed": "it misses most critical layers",
    "worse_than_random": "a random set of the same size does better",
    "not_told_from_random": "not told from a random set of the same size{p}",
    "mostly_not_critical_here": "better than a random set of the same size, but most layers that it flags in this sample are not critical",
    "mostly_missed_here": "better than a random set of the same size, but it misses most critical layers in this sample",
    "better_than_random": "better than a random set of the same size{p}",
    "correlation_too_low": f"the interval of the correlation lies below {USEFUL:g}",
    "correlation_not_told": "the correlation is not told from 0{p}",
    "correlation_may_be_slight": f"the interval of the correlation reaches down to {SLIGHT:g}",
    "top_layers_at_random": "it orders layers, but its top layers are critical no more often than random ones",
    "correlation_useful": f"the interval of the correlation lies above {SLIGHT:g} and reaches {USEFUL:g}{{p}}",
}


def _method() -> str:
    return (
        "Spearman: correlation of the rule's statistic with sensitivity; its interval takes both layers and sensitivity sequences as "
        "samples. Flags: the layers that the rule calls critical; for a rule that only orders layers, its top layers, as many as are "
        "critical. Random: the precision of a random set. p: one-sided, Holm-corrected over the rules tested. A rule holds if p is "
        f"below {ALPHA:.2g} and it is useful: at least {MOSTLY:.0%} of what it claims is true, or its correlation is above {SLIGHT:g} "
        f"and may exceed {USEFUL:g}. It does not hold if the interval excludes that. Fewer than {MIN_PAIRS} layers or {MIN_SEQUENCES} "
        "sequences: inconclusive."
    )
