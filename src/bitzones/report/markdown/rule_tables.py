"""The section that says whether the rules of thumb hold on this model, and why not where they do not.

This module decides nothing: the verdicts are `decide.heuristics`'. It does not know which layers a rule looks at, or why.
"""

from __future__ import annotations

from collections.abc import Sequence

from bitzones.analysis.heuristics import MOSTLY, SLIGHT, USEFUL
from bitzones.analysis.plan_verdicts import RuleAudit, RuleReading
from bitzones.analysis.zones import ranges
from bitzones.report.markdown.tables import ABSENT, markdown, percent, ratio, table
from bitzones.stats.correlation import MIN_PAIRS
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Interval

__all__ = ["critical", "rules"]


def critical(audit: RuleAudit | None, resamples: int) -> str:
    """Which layers count as critical, and by what definition; empty without an audit."""
    if audit is None:
        return ""
    return (
        f"Critical are the layers that at least {audit.agreement:.0%} of the {resamples} resampled plans, at "
        f"{audit.within or f'{audit.average_bits:.4g} average bits'}, do not store wholly in {audit.format}: {ranges(audit.critical)}."
    )


def rules(readings: Sequence[RuleReading], defined: str = "") -> str:
    """The section: one table with a row per rule, what the verdicts mean, and a reason for each verdict; empty without readings.

    Args:
        readings: one for each rule.
        defined: what is critical (`critical`); Markdown.
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
        f"Against the measured sensitivity of n = {n} layers at the format with the fewest bits, {critical} of them critical, "
        f"{len(tested)} of {len(readings)} rules could be tested. "
        f"These hold: {', '.join(held) or 'none'}. These do not: {', '.join(failed) or 'none'}."
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
    """One line per reason, so that ten rules that were not measured take one."""
    lines: dict[tuple[str, str], list[str]] = {}
    for item in readings:
        lines.setdefault((item.verdict, item.reason), []).append(markdown(item.rule))
    return "\n".join(f"- {', '.join(names)}: **{verdict}**; {markdown(reason)}." for (verdict, reason), names in lines.items())


def _method() -> str:
    return (
        "Spearman: ranks of the rule's statistic against ranks of sensitivity, layers and sensitivity sequences both taken as samples. "
        "Flags: what the rule takes for critical; of a rule that only orders layers, its top ones, as many as are critical. Random: the "
        f"precision of a random set. p: one-sided, Holm-corrected over the rules tested. A rule holds where p is below {ALPHA:.2g} and it "
        f"is of use: at least {MOSTLY:.0%} of what it claims is so, or its correlation is above {SLIGHT:g} and may be above {USEFUL:g}; it "
        f"does not hold where the interval excludes that. Fewer than {MIN_PAIRS} layers or {MIN_SEQUENCES} sequences: inconclusive."
    )
