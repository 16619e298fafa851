"""trend.html: each metric over runs with its interval, change points, and what changed between runs."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.regression.change_points import Point, Trend
from bitzones.regression.comparison import MeasureUnit
from bitzones.report.charts import vega
from bitzones.report.charts.layer_map import View
from bitzones.report.html.page import Chart, Section, render
from bitzones.report.markdown.headline import Answer
from bitzones.report.markdown.tables import markdown, megabytes, milliseconds, percent, plain, table

__all__ = ["trend_chart", "trend_page"]

TITLES: dict[MeasureUnit, tuple[str, str, float]] = {
    "share": ("Accuracy", "accuracy, %", 100.0),
    "nats/token": ("KL", "KL, nats per token", 1.0),
    "s": ("Time", "median of a round, ms", 1e3),
    "bytes": ("Stored bytes", "stored, MB", 1e-6),
}
"""Title of the section, title of the axis, and factor of a value."""

COLORS = {"worse": "#c2410c", "better": "#0f766e", "": "#2563eb"}
SHAPES = {"worse": "triangle-up", "better": "triangle-down", "": "circle"}
"""Change points differ in shape as well as in color."""

PANEL_WIDTH, PANEL_HEIGHT = 270, 110

WORDS = {"": "no change point"}


def trend_page(found: Trend) -> str:
    """The whole page."""
    title = f"trend of {len(found.runs)} runs"
    facts = [title, f"{found.runs[0][:19]} to {found.runs[-1][:19]}"]
    return render(plain(title), [plain(fact) for fact in facts], [_answer(found)], tuple(_sections(found)))


def _answer(found: Trend) -> Answer:
    worse = [point for point in found.changes if point.change == "worse"]
    lines = [f"{found.runs[point.run][:10]}: {point.reading.name}" for point in worse]
    short = f"{len(worse)} change points to worse" if worse else "No change point"
    return Answer(question="Did anything become worse?", answer=short, details=tuple(plain(line) for line in lines[:8]))


def _sections(found: Trend) -> Iterator[Section]:
    for unit, (title, _, _) in TITLES.items():
        points = [point for point in found.points if point.reading.unit == unit]
        if points:
            name = title.lower().replace(" ", "-")
            chart = Chart(
                name, f"{title} over {len(found.runs)} runs; the table holds the same numbers", (View(name, trend_chart(found, unit)),)
            )
            yield Section(anchor=name, title=title, charts=(chart,), folded=(("Numbers", _table(found, points)),))
    rows = [(str(number + 1), markdown(when[:19]), markdown(found.releases[number] or "-", 400)) for number, when in enumerate(found.runs)]
    yield Section(anchor="runs", title="Runs", open=(table(("run", "measured", "changed since the previous run"), rows, text=(0, 1, 2)),))


def trend_chart(found: Trend, unit: MeasureUnit) -> vega.Spec:
    """One panel per metric of a unit."""
    title = TITLES[unit][0]
    figures: dict[str, list[Point]] = {}
    for point in found.points:
        if point.reading.unit == unit:
            figures.setdefault(point.reading.name, []).append(point)
    return {
        "$schema": vega.SCHEMA_URL,
        "description": f"{title} over runs, with 95% intervals; change points marked",
        "columns": 2,
        "concat": [_panel(found, name, points) for name, points in figures.items()],
        "config": {"legend": {"orient": "bottom"}},
    }


def _panel(found: Trend, name: str, points: list[Point]) -> vega.Spec:
    _, axis, scale = TITLES[points[0].reading.unit]
    x = {"field": "run", "type": "ordinal", "title": None, "sort": None, "axis": {"labelAngle": -30, "labelLimit": 110}}
    y = {"type": "quantitative", "title": axis, "scale": {"zero": False}}
    words = [WORDS.get(change, change) for change in SHAPES]
    told = {"field": "change", "type": "nominal", "title": None}
    color, shape = ({**told, "scale": {"domain": words, "range": list(chosen.values())}} for chosen in (COLORS, SHAPES))
    tooltip = [{"field": field, "type": "nominal"} for field in ("figure", "run", "when", "shown", "change", "released")]
    return {
        "title": {"text": plain(name, 48), "fontSize": 11},
        "width": PANEL_WIDTH,
        "height": PANEL_HEIGHT,
        "data": {"values": [_plotted(found, point, scale) for point in points]},
        "layer": [
            {"mark": {"type": "line", "color": "#94a3b8"}, "encoding": {"x": x, "y": {**y, "field": "value"}}},
            {"mark": "rule", "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}}},
            {
                "mark": {"type": "point", "filled": True, "size": 70},
                "encoding": {"x": x, "y": {**y, "field": "value"}, "color": color, "shape": shape, "tooltip": tooltip},
            },
        ],
    }


def _plotted(found: Trend, point: Point, scale: float) -> dict[str, object]:
    """A point as a row of the chart."""
    reading = point.reading
    low, high = (reading.low, reading.high) if reading.low is not None and reading.high is not None else (reading.value, reading.value)
    return {
        "figure": plain(reading.name, 60),
        "run": _label(found, point.run),
        "when": plain(found.runs[point.run][:19]),
        "released": plain(found.releases[point.run]),
        "value": reading.value * scale,
        "low": low * scale,
        "high": high * scale,
        "shown": f"{_shown(reading.unit, reading.value)} ({_shown(reading.unit, low)} to {_shown(reading.unit, high)})",
        "change": WORDS.get(point.change, point.change),
    }


def _label(found: Trend, run: int) -> str:
    """A run on the axis: its number, and the first package that changed in it."""
    first = found.releases[run].partition(";")[0]
    name, _, versions = first.partition(": ")
    return plain(f"{run + 1} {name} {versions.rpartition('-> ')[2]}".strip(), 40)


def _shown(unit: MeasureUnit, value: float) -> str:
    match unit:
        case "s":
            return milliseconds(value)
        case "bytes":
            return megabytes(value)
        case "share":
            return percent(value)
        case "instructions":
            return f"{value / 1e6:,.1f} M"
        case _:
            return f"{value:.3g} nats/token"


def _table(found: Trend, points: list[Point]) -> str:
    rows = [
        (
            markdown(point.reading.name),
            str(point.run + 1),
            markdown(found.runs[point.run][:19]),
            str(_plotted(found, point, 1.0)["shown"]),
            str(point.reading.n),
            point.change or "-",
        )
        for point in points
    ]
    return table(("metric", "run", "measured", "value (95% interval)", "n", "change"), rows, text=(0, 2, 5))
