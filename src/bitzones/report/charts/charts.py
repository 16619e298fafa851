"""Mermaid charts: sensitivity by layer, KL by budget, accuracy by variant.

Mermaid has no error bars, exponents, long names or logarithmic axes: the tables carry the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from bitzones.analysis.results import Analysis
from bitzones.analysis.zones import ranges
from bitzones.report.markdown.plan_tables import on_frontier
from bitzones.report.markdown.tables import mermaid

__all__ = ["accuracy_charts", "block", "chart", "frontier_chart", "sensitivity_chart"]

CHART_LAYERS = 24
"""Above this depth, charts are lines over a numbered axis, because layer names and bars would overlap."""

SMALLEST_TOP = 1e-9
"""Keeps the axis from having no length when every value is 0."""

CHART_COLOR = "#1f6feb"


def block(lines: Iterator[str]) -> str:
    """A block of Mermaid in Markdown."""
    return "\n".join(("```mermaid", *lines, "```"))


def chart(title: str, axis: str, label: str, values: list[float], top: float, mark: str = "bar") -> Iterator[str]:
    """A chart whose value axis starts at 0."""
    yield f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{CHART_COLOR}"}}}}}}}}%%'
    yield "xychart-beta"
    yield f'  title "{title}"'
    yield f"  x-axis {axis}"
    yield f'  y-axis "{label}" 0 --> {_decimal(top)}'
    yield f"  {mark} [{', '.join(_decimal(value) for value in values)}]"


def _decimal(value: float) -> str:
    """A number without an exponent, which Mermaid cannot read; four significant digits."""
    places = max(0, 3 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{min(places, 15)}f}"


def sensitivity_chart(analysis: Analysis, name: str) -> str:
    """Sensitivity of every layer at one format, with a note on incomplete layers; empty where none was measured."""
    sums: dict[int, float] = {}
    inside = [item for item in analysis.sensitivity if item.layer is not None]
    measured = [item for item in inside if item.format == name]
    for item in measured:
        if item.kl is not None and item.layer is not None:
            sums[item.layer] = sums.get(item.layer, 0.0) + item.kl.value
    if not sums:
        return ""
    layers = sorted({item.layer for item in inside if item.layer is not None} | set(analysis.unswept))
    failed = {item.layer for item in measured if item.kl is None and item.layer is not None}
    missing = sorted({layer for layer in layers if layer not in sums} | failed)
    few = len(layers) <= CHART_LAYERS
    axis = f'"layer" [{", ".join(str(layer) for layer in layers)}]' if few else f'"layer" {layers[0]} --> {layers[-1]}'
    values = [sums.get(layer, 0.0) for layer in layers]
    top = 1.05 * max(*values, SMALLEST_TOP)
    drawn = chart(f"KL at {mermaid(name)}", axis, "nats per token", values, top, "bar" if few else "line")
    note = f"\n\nNot or not fully measured at {name}, and drawn too low: layers {ranges(tuple(missing))}." if missing else ""
    return block(drawn) + note


def accuracy_charts(analysis: Analysis) -> str:
    """A chart for every task and metric; empty where none was measured."""
    charts = []
    for task, metric in dict.fromkeys((item.task, item.metric) for item in analysis.accuracy):
        items = [item for item in analysis.accuracy if (item.task, item.metric) == (task, metric)]
        axis = f'"variant" [{", ".join(_quoted(item.variant) for item in items)}]'
        values = [100 * item.share.value for item in items]
        charts.append(block(chart(f"{mermaid(task)}, {metric}, n = {items[0].n}", axis, "accuracy, %", values, 100.0)))
    note = "Intervals and verdicts are in the [summary](summary.md)."
    return "\n\n".join(("## Accuracy", note, *charts)) if charts else ""


def _quoted(text: str) -> str:
    return f'"{mermaid(text, 24)}"'


def frontier_chart(analysis: Analysis) -> str:
    """Measured KL of the plans at one budget after another; empty where no other budget was measured."""
    plans = analysis.plans
    if plans is None or not any(item.origin == "frontier" for item in plans.plans):
        return ""
    shown = [(item, item.measured.value) for item in on_frontier(plans) if item.measured is not None]
    if not shown:
        return ""
    axis = f'"plan" [{", ".join(_quoted(item.name) for item, _ in shown)}]'
    values = [value for _, value in shown]
    drawn = chart(f"KL by budget, n = {plans.sequences} held-out", axis, "nats per token", values, 1.05 * max(*values, SMALLEST_TOP))
    note = "Fewest stored bytes first, not to scale; bits, bytes and intervals are in the [summary](summary.md)."
    return f"## KL by budget\n\n{note}\n\n{block(drawn)}"
