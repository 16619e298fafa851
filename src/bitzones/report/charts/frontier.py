"""The frontier chart: KL and accuracy by stored bytes, with intervals.

Uniform formats, baselines and the recommended plan differ in shape as well as in color.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bitzones.analysis.plan_verdicts import PlanReading
from bitzones.analysis.results import Analysis
from bitzones.analysis.task_answers import NORMALIZED, Accuracy
from bitzones.report.charts.vega import SCHEMA_URL, Spec
from bitzones.report.markdown.tables import megabytes, nats, plain
from bitzones.schema.profile import PLAN, TUNED
from bitzones.stats.intervals import Estimate

__all__ = ["KINDS", "PANEL_WIDTH", "Kind", "Sign", "frontier", "kind_of", "units_bytes"]

Kind = Literal["recommended plan", "other plan", "uniform format", "other budget", "reference"]

PANEL_WIDTH = 270
PANEL_HEIGHT = 150
"""Of an image, in units of which a printed column has about 340; the page widens its panels."""


@dataclass(frozen=True)
class Sign:
    """Shape, color and size of a kind of point."""

    shape: str
    color: str
    size: int


KINDS: Mapping[Kind, Sign] = {
    "recommended plan": Sign("diamond", "#c2410c", 160),
    "other plan": Sign("triangle-up", "#7c3aed", 60),
    "uniform format": Sign("square", "#2563eb", 70),
    "other budget": Sign("circle", "#0f766e", 50),
    "reference": Sign("cross", "#64748b", 80),
}
"""Each color has a contrast of at least 3:1 against white and against the dark page (WCAG 2.2, 1.4.11)."""

X: Spec = {
    "field": "mb",
    "type": "quantitative",
    "title": "stored size of the quantized units, MB",
    "scale": {"zero": False, "padding": 24},
}

ROOM = 1.25
"""Padding factor of a logarithmic axis beyond its outermost values."""

LEAST_LOG = 1e-3
"""Least lower end of an interval, as a share of its value: a lower end of 0 has no place on a logarithmic axis."""


def frontier(analysis: Analysis) -> Spec | None:
    """KL by stored bytes, with a panel of accuracy per task below; None where nothing can be drawn."""
    rows = list(_kl_rows(analysis))
    panels = [_kl_panel(analysis, rows)] if rows else []
    tasks = dict.fromkeys(item.task for item in analysis.accuracy if item.metric != NORMALIZED)
    panels += [_accuracy_panel(analysis, task, points) for task in tasks if (points := list(_accuracy_rows(analysis, task)))]
    if not panels:
        return None
    return {
        "$schema": SCHEMA_URL,
        "description": "Frontier: stored bytes of the quantized units against KL and accuracy, with 95% intervals",
        "columns": 1,
        "concat": panels,
        "resolve": {"scale": {"color": "shared", "shape": "shared", "size": "independent"}},
        "config": {"legend": {"orient": "bottom", "columns": 3, "title": None, "symbolStrokeWidth": 2, "symbolOpacity": 1}},
    }


def kind_of(analysis: Analysis, name: str, origin: str) -> Kind:
    """The kind of a plan's point."""
    if analysis.decision is not None and name == analysis.decision.plan.name:
        return "recommended plan"
    return "uniform format" if origin == "uniform" else "other budget" if origin == "frontier" else "other plan"


def units_bytes(analysis: Analysis, variant: str) -> int | None:
    """Stored bytes of the quantized units under a variant; None where unknown."""
    decision, name = analysis.decision, analysis.variants.get(variant, variant)
    if variant in (PLAN, TUNED) and analysis.plans is not None:
        return next((item.stored_bytes for item in analysis.plans.plans if item.origin == "search"), None)
    if name == analysis.reference:
        return None if decision is None else decision.plan.reference_bytes
    stored = [item.stored_bytes for item in analysis.sensitivity if item.format == name]
    whole = len({item.unit for item in analysis.sensitivity})
    if stored and len(stored) == whole:
        return sum(stored)
    return next((item.stored_bytes for item in analysis.plans.plans if item.name == variant), None) if analysis.plans else None


def _kl_rows(analysis: Analysis) -> Iterator[Spec]:
    """Whole plans on held-out sequences, or whole variants on the sensitivity set where no plans were compared."""
    if analysis.plans is not None:
        for item in analysis.plans.plans:
            if item.measured is not None and item.measured.value > 0:
                yield _plan_row(analysis, item, item.measured)
        return
    for whole in analysis.whole:
        stored = units_bytes(analysis, whole.variant)
        if stored is not None and whole.measured.value > 0:
            yield _kl_row(plain(whole.variant), "uniform format", stored, whole.measured, whole.added)


def _plan_row(analysis: Analysis, item: PlanReading, measured: Estimate) -> Spec:
    return _kl_row(plain(item.name), kind_of(analysis, item.name, item.origin), item.stored_bytes, measured, item.predicted)


def _kl_row(name: str, kind: Kind, stored: int, measured: Estimate, predicted: Estimate | None) -> Spec:
    low, high = (measured.value, measured.value) if measured.low is None or measured.high is None else (measured.low, measured.high)
    return {
        "name": name,
        "kind": kind,
        "label": name.removeprefix("uniform ") if kind in ("recommended plan", "uniform format") else "",
        "mb": stored / 1e6,
        "value": measured.value,
        "low": max(low, LEAST_LOG * measured.value),
        "high": high,
        "predicted": predicted.value if predicted is not None and predicted.value > 0 else None,
        "tip": {
            "plan": name,
            "what": kind,
            "stored": megabytes(stored),
            "measured KL [95%]": f"{nats(measured)} nats per token",
            "predicted, sum [95%]": f"{nats(predicted)} nats per token",
        },
    }


def _kl_panel(analysis: Analysis, rows: list[Spec]) -> Spec:
    ends = [row[key] for row in rows for key in ("low", "high", "predicted") if row[key] is not None]
    n = analysis.plans.sequences if analysis.plans is not None else analysis.sequences
    scale = {"type": "log", "domain": [min(ends) / ROOM, max(ends) * ROOM], "nice": False}
    axis = {"format": "~g", "tickCount": 6, "titleLimit": 400}
    y = {"field": "value", "type": "quantitative", "title": "KL, nats per token", "scale": scale, "axis": axis}
    predicted = {
        "transform": [{"filter": "isValid(datum.predicted)"}],
        "mark": {"type": "point", "filled": False, "opacity": 0.9, "strokeWidth": 1.2, "aria": False, "tooltip": {"expr": "datum.tip"}},
        "encoding": {"x": X, "y": y | {"field": "predicted"}, "color": _color(), "shape": _shape(), "size": {"value": 40}},
    }
    gap = {
        "transform": [{"filter": "isValid(datum.predicted)"}],
        "mark": {"type": "rule", "strokeDash": [2, 2], "opacity": 0.6, "aria": False},
        "encoding": {"x": X, "y": y, "y2": {"field": "predicted"}, "color": _color()},
    }
    title = [f"KL on n = {n} sequences, 95% intervals", "filled: measured, hollow: predicted (sum of the units)"]
    return _panel(title, rows, y, [gap, predicted, *_budget(analysis)])


def _budget(analysis: Analysis) -> Iterator[Spec]:
    if analysis.decision is not None:
        data = {"values": [{"mb": analysis.decision.plan.budget.stored_bytes / 1e6, "label": "budget"}]}
        yield {
            "data": data,
            "mark": {"type": "rule", "strokeDash": [6, 3], "aria": False},
            "encoding": {"x": X},
        }
        text = {"type": "text", "align": "left", "dx": 3, "baseline": "top", "aria": False}
        yield {
            "data": data,
            "mark": text,
            "encoding": {"x": X, "y": {"value": 2}, "text": {"field": "label"}},
        }


def _panel(title: list[str], rows: list[Spec], y: Spec, besides: list[Spec]) -> Spec:
    """Points with intervals, and labels of the main ones; the recommended plan is drawn on top."""
    tip = {"tooltip": {"expr": "datum.tip"}, "aria": False}
    interval = {"x": X, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": _color()}
    label = {"type": "text", "align": "left", "dx": 8, "dy": -7, "fontSize": 9, "aria": False}
    return {
        "title": {"text": title, "anchor": "start", "fontSize": 10, "fontWeight": "normal"},
        "width": PANEL_WIDTH,
        "height": PANEL_HEIGHT,
        "data": {"values": sorted(rows, key=lambda row: bool(row["kind"] == "recommended plan"))},
        "layer": [
            *besides,
            {"mark": {"type": "rule", "strokeWidth": 2, **tip}, "encoding": interval},
            {
                "mark": {"type": "point", "filled": True, "opacity": 1, **tip},
                "encoding": {"x": X, "y": y, "color": _color(), "shape": _shape(), "size": _size()},
            },
            {"mark": label, "encoding": {"x": X, "y": y, "text": {"field": "label"}}},
        ],
    }


def _color() -> Spec:
    return {"field": "kind", "type": "nominal", "scale": {"domain": list(KINDS), "range": [sign.color for sign in KINDS.values()]}}


def _shape() -> Spec:
    return {"field": "kind", "type": "nominal", "scale": {"domain": list(KINDS), "range": [sign.shape for sign in KINDS.values()]}}


def _size() -> Spec:
    scale = {"domain": list(KINDS), "range": [sign.size for sign in KINDS.values()]}
    return {"field": "kind", "type": "ordinal", "sort": list(KINDS), "scale": scale, "legend": None}


def _accuracy_rows(analysis: Analysis, task: str) -> Iterator[Spec]:
    for item in analysis.accuracy:
        stored = units_bytes(analysis, item.variant)
        if item.task == task and item.metric != NORMALIZED and stored is not None:
            yield _accuracy_row(analysis, item, stored)


def _accuracy_row(analysis: Analysis, item: Accuracy, stored: int) -> Spec:
    reference = analysis.variants.get(item.variant, item.variant) == analysis.reference
    found = next((plan for plan in analysis.plans.plans if plan.name == item.variant), None) if analysis.plans else None
    kind: Kind = "reference" if reference else kind_of(analysis, item.variant, found.origin if found else "uniform")
    share = item.share
    return {
        "name": plain(item.variant),
        "kind": kind,
        "label": plain(item.variant, 16),
        "mb": stored / 1e6,
        "value": 100 * share.value,
        "low": 100 * share.low,
        "high": 100 * share.high,
        "tip": {
            "variant": plain(item.variant),
            "what": kind,
            "stored": megabytes(stored),
            "accuracy [95%]": f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}], n = {item.n}",
            "against the reference": str(item.against.verdict) if item.against else "-",
        },
    }


def _accuracy_panel(analysis: Analysis, task: str, rows: list[Spec]) -> Spec:
    first = next(item for item in analysis.accuracy if item.task == task and item.metric != NORMALIZED)
    y = {"field": "value", "type": "quantitative", "title": "accuracy, %", "scale": {"zero": False, "padding": 8}}
    chance = {
        "data": {"values": [{"value": 100 * first.chance}]},
        "mark": {"type": "rule", "strokeDash": [2, 3], "aria": False},
        "encoding": {"y": {"field": "value", "type": "quantitative"}},
    }
    title = [f"{plain(task, 32)}, n = {first.n}, 95% intervals" + (", dashed: chance" if first.chance else "")]
    return _panel(title, rows, y, [chance] if first.chance else [])
