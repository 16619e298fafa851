"""monitor.html: the watch in the style of the report, self-contained, with the same tables as its Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from bitzones.monitor import words
from bitzones.monitor.canary import ALPHA, TESTS
from bitzones.monitor.overview import Overview
from bitzones.report.charts import vega
from bitzones.report.charts.layer_map import View
from bitzones.report.html.page import Chart, Section, render
from bitzones.report.markdown.headline import Answer
from bitzones.report.markdown.tables import plain
from bitzones.stats.e_process import evidence_needed

__all__ = ["page"]

PANEL = {"width": 560, "height": 170}

COLORS = ("#2563eb", "#0f766e", "#c2410c", "#7c3aed", "#475569")
"""Of series, in their order; each series has its own shape too."""

SMALLEST = 1e-9
"""Shown of a deviation that is smaller, since the axis is logarithmic."""


def page(found: Overview) -> str:
    """The whole page."""
    title = f"watch of {found.server or 'a served model'}"
    facts = [title]
    if found.checks:
        facts += [f"model {found.checks[-1].model or 'not named'}", f"last check {found.checks[-1].at}"]
    return render(plain(title), [plain(fact) for fact in facts], [_alarms(found), _canary(found)], tuple(_sections(found)))


def _alarms(found: Overview) -> Answer:
    alarms = found.alarms
    details = tuple(plain(f"{alarm.kind}: {alarm.what}", 1000) for alarm in alarms)
    return Answer("Is anything wrong?", f"{len(alarms)} alarm{'s' if len(alarms) > 1 else ''}" if alarms else "No alarm", details)


def _canary(found: Overview) -> Answer:
    count = sum(found.checks_made.values())
    details = tuple(line for line in words.lines(found) if not line.startswith("ALARM"))
    return Answer("What was checked?", f"{count} canary check{'' if count == 1 else 's'}", details)


def _sections(found: Overview) -> Iterator[Section]:
    if found.checks:
        yield Section("canary", "Canary", tuple(_canary_charts(found)), (words.canary(found), words.failures(found)))
    if found.windows:
        rows = [
            _row(f"{item.name}{'' if window.source == 'log' else ', shadowed'}", window.at, item.distance)
            for window in found.windows
            for item in window.features
        ]
        yield Section(
            "requests", "Requests", _lines("drift", "Distance of the requests from the sensitivity set", rows), (words.drift(found),)
        )
    if found.shadows:
        rows = [_row(item.domain, batch.at, item.kl_nats) for batch in found.shadows for item in batch.domains]
        yield Section("shadow", "Shadow", _lines("shadow", "KL by domain, nats per token", rows), (words.shadow(found),))
    if found.thresholds:
        yield Section("activations", "Activations", open=(words.activations(found),))


def _canary_charts(found: Overview) -> Iterator[Chart]:
    deviations = [
        _row(test.name, check.at, max(SMALLEST, test.mean_nats), test.bound_nats)
        for check in found.checks
        for test in check.tests
        if test.mean_nats is not None
    ]
    yield from _lines("deviation", "Mean deviation of a check in nats; dashed: allowed", deviations, log=True)
    evidence = [
        _row(test.name, check.at, test.evidence, evidence_needed(ALPHA / len(TESTS))) for check in found.checks for test in check.tests
    ]
    yield from _lines("evidence", "Evidence after each check; dashed: alarm", evidence)


def _row(name: str, at: str, value: float, bound: float | None = None) -> dict[str, object]:
    return {"series": plain(name, 40), "at": at, "value": value, **({} if bound is None else {"bound": bound})}


def _lines(name: str, title: str, rows: Iterable[dict[str, object]], *, log: bool = False) -> tuple[Chart, ...]:
    """A line for each series over time; none where there is nothing to draw."""
    rows = list(rows)
    if not rows:
        return ()
    x = {"field": "at", "type": "temporal", "title": None, "axis": {"format": "%m-%d %H:%M", "labelAngle": -30}}
    y = {"type": "quantitative", "title": None, "scale": {"type": "log" if log else "linear"}}
    kinds = list(dict.fromkeys(str(row["series"]) for row in rows))
    color = {
        "field": "series",
        "type": "nominal",
        "title": None,
        "scale": {"domain": kinds, "range": [COLORS[n % len(COLORS)] for n in range(len(kinds))]},
    }
    shape = {"field": "series", "type": "nominal", "title": None, "scale": {"domain": kinds}}
    tooltip = [{"field": field, "type": "nominal"} for field in ("series", "at", "value")]
    bounds = {"mark": {"type": "line", "strokeDash": [4, 4]}, "encoding": {"x": x, "y": {**y, "field": "bound"}, "color": color}}
    points = {"x": x, "y": {**y, "field": "value"}, "color": color, "shape": shape, "tooltip": tooltip}
    panel = {
        "title": {"text": title, "fontSize": 11, "anchor": "start"},
        **PANEL,
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "line"}, "encoding": {"x": x, "y": {**y, "field": "value"}, "color": color}},
            {"mark": {"type": "point", "filled": True, "size": 40}, "encoding": points},
            *([bounds] if "bound" in rows[0] else []),
        ],
    }
    chart: vega.Spec = {
        "$schema": vega.SCHEMA_URL,
        "description": title,
        "concat": [panel],  # the page fits panels to its width
        "config": {"legend": {"orient": "bottom"}},
    }
    return (Chart(name, f"{title}; the table holds the latest numbers", (View(name, chart),)),)
