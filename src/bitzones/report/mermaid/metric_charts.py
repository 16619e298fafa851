"""Charts of report.html: accuracy, latency and memory by variant, and every rule of thumb against measured sensitivity.

Tables below the charts hold the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.domain_figures import DomainFigures, DomainReading
from bitzones.analysis.plan_verdicts import RuleReading
from bitzones.analysis.results import Analysis, LatencyFigures
from bitzones.analysis.task_answers import NORMALIZED, Accuracy
from bitzones.report.charts.vega import SCHEMA_URL, Spec
from bitzones.report.markdown.cost_words import slow_path_words
from bitzones.report.markdown.tables import four_digits, megabytes, milliseconds, nats, percent, plain, points, ratio
from bitzones.schema.profile import PLAN

__all__ = ["accuracy", "chart_of", "domains", "dots", "latency", "memory", "rules"]

PANEL_WIDTH = 320
"""In pixels; the page widens it."""

ROW = 22
"""Height of a row in pixels."""

SCATTER = 150
"""Height and width of a rule's panel in pixels."""

BAR = "#2563eb"
CHOSEN = "#c2410c"
FLAGGED = "#b45309"


def _color(condition: str) -> Spec:
    """The plan has its own color; its name is on the axis too."""
    return {"condition": {"test": condition, "value": CHOSEN}, "value": BAR}


def chart_of(description: str, panels: list[Spec], columns: int = 1) -> Spec | None:
    """A chart of panels; None where there is none."""
    if not panels:
        return None
    return {"$schema": SCHEMA_URL, "description": description, "columns": columns, "concat": panels, "spacing": 24}


def dots(title: str | list[str], rows: list[Spec], x: Spec, beside: str) -> Spec:
    """A panel with a row for each ``variant``: its interval, its point, and the field that is written to the right of it."""
    y = {"field": "variant", "type": "nominal", "sort": None, "axis": {"title": None}}
    tip = {"tooltip": {"expr": "datum.tip"}, "aria": False}
    return {
        "title": _head(title),
        "width": PANEL_WIDTH,
        "height": {"step": ROW},
        "data": {"values": rows},
        "layer": _estimates(x, y, tip, beside),
    }


def _head(text: str | list[str]) -> Spec:
    return {"text": text, "anchor": "start", "fontSize": 11, "fontWeight": "normal"}


def accuracy(analysis: Analysis) -> Spec | None:
    """A panel per task: accuracy and interval of each variant, the reference as a line, and the verdict in words."""
    shown = [item for item in analysis.accuracy if item.metric != NORMALIZED]
    tasks = dict.fromkeys(item.task for item in shown)
    panels = [_accuracy_panel(analysis, task, [item for item in shown if item.task == task]) for task in tasks]
    return chart_of("Accuracy of every variant with 95% intervals, by task", panels)


def _accuracy_panel(analysis: Analysis, task: str, items: list[Accuracy]) -> Spec:
    rows = [_accuracy_row(item) for item in items]
    tip = {"tooltip": {"expr": "datum.tip"}, "aria": False}
    lines = [{"value": row["value"], "dash": [1, 0]} for item, row in zip(items, rows, strict=True) if item.against is None][:1]
    note = ", line: the reference" if lines else ""
    if items[0].chance:
        lines.append({"value": 100 * items[0].chance, "dash": [2, 3]})
        note += ", dashes: chance"
    end = max(row["high"] for row in rows)
    lowest = min([row["low"] for row in rows] + [line["value"] for line in lines])
    x = {"field": "value", "type": "quantitative", "title": "accuracy, %", "scale": {"domain": [lowest, end], "nice": True}}
    y = {"field": "variant", "type": "nominal", "sort": None, "axis": {"title": None}}
    rule = {"type": "rule", "opacity": 0.7, "aria": False}
    return {
        "title": _head(f"{plain(task, 32)}, n = {items[0].n}{note}"),
        "width": PANEL_WIDTH,
        "height": {"step": ROW},
        "data": {"values": rows},
        "layer": [
            *({"data": {"values": [line]}, "mark": {**rule, "strokeDash": line["dash"]}, "encoding": {"x": x}} for line in lines),
            *_estimates(x, y, tip, "verdict"),
        ],
    }


def _estimates(x: Spec, y: Spec, tip: Spec, beside: str) -> list[Spec]:
    """Layers of a panel with a row a variant: its interval, its point, and the field that is written to the right of it."""
    return [
        {
            "mark": {"type": "rule", "strokeWidth": 3, **tip},
            "encoding": {"y": y, "x": x | {"field": "low"}, "x2": {"field": "high"}, "color": _color("datum.chosen")},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1, **tip},
            "encoding": {"y": y, "x": x, "color": _color("datum.chosen")},
        },
        {
            "mark": {"type": "text", "align": "left", "fontSize": 11, "aria": False},
            "encoding": {"y": y, "x": {"value": PANEL_WIDTH + 8}, "text": {"field": beside}},
        },
    ]


def _accuracy_row(item: Accuracy) -> Spec:
    share, against = item.share, item.against
    return {
        "variant": plain(item.variant, 20),
        "chosen": item.variant == PLAN,
        "value": 100 * share.value,
        "low": 100 * share.low,
        "high": 100 * share.high,
        "verdict": str(against.verdict) if against else "reference",
        "tip": {
            "variant": plain(item.variant),
            "right": f"{item.k} of {item.n}",
            "accuracy [95%]": f"{percent(share.value)} [{percent(share.low)}, {percent(share.high)}]",
            "points [95%]": points(against.difference) if against else "-",
            "flips": f"{against.lost} lost, {against.gained} gained, {against.changed} changed but wrong" if against else "-",
            "verdict": str(against.verdict) if against else "reference",
        },
    }


def domains(analysis: Analysis) -> Spec | None:
    """A panel per domain: KL and interval of each variant on a logarithmic axis that the panels share, perplexity in words."""
    found = analysis.domains.domains if analysis.domains is not None else ()
    rows = {item.name: [row for figures in item.figures if (row := _domain_row(figures)) is not None] for item in found}
    ends = [row[end] for every in rows.values() for row in every for end in ("low", "high")]
    if not ends:
        return None
    scale = {"type": "log", "domain": [min(ends), max(ends)], "nice": True}
    panels = [_domain_panel(analysis, item, rows[item.name], scale) for item in found if rows[item.name]]
    return chart_of("KL of every variant with 95% intervals, by domain", panels)


def _domain_panel(analysis: Analysis, item: DomainReading, rows: list[Spec], scale: Spec) -> Spec:
    unseen = ", unseen" if item.unseen else ""
    return dots(
        f"{plain(item.name, 24)}{unseen}, {item.tokens:,} tokens; perplexity at the right, "
        f"{plain(analysis.reference)} {four_digits(item.reference_perplexity.value)}",
        rows,
        {"field": "value", "type": "quantitative", "title": "KL, nats per token", "scale": scale, "axis": {"tickCount": 5}},
        "perplexity",
    )


def _domain_row(figures: DomainFigures) -> Spec | None:
    """None where the KL is 0, which a logarithmic axis has no place for."""
    kl = figures.kl
    if kl.value <= 0:
        return None
    return {
        "variant": plain(figures.variant, 20),
        "chosen": figures.variant == PLAN,
        "value": kl.value,
        "low": kl.low or kl.value,
        "high": kl.high or kl.value,
        "perplexity": four_digits(figures.perplexity.value),
        "tip": {
            "variant": plain(figures.variant),
            "KL [95%]": nats(kl),
            "perplexity": four_digits(figures.perplexity.value),
            "same top token": percent(figures.same_top.value),
            "verdict": str(figures.change.verdict),
        },
    }


def latency(analysis: Analysis) -> Spec | None:
    """A panel per phase: median, middle half and 95th percentile of the rounds, with a note on slow kernels and contention."""
    phases = dict.fromkeys((item.phase, item.batch, item.prompt_tokens) for item in analysis.latency)
    panels = [
        _latency_panel(
            analysis.reference, phase, [item for item in analysis.latency if (item.phase, item.batch, item.prompt_tokens) == phase]
        )
        for phase in phases
    ]
    return chart_of("Latency of every variant: median, middle half and 95th percentile of the rounds", panels)


def _latency_panel(reference: str, phase: tuple[str, int, int], items: list[LatencyFigures]) -> Spec:
    rows = [_latency_row(item, reference) for item in items]
    floored = any(row["roofline"] is not None for row in rows)
    dashes = ", dashes: bandwidth roofline" if floored else ""
    x = {"field": "value", "type": "quantitative", "title": "ms per round", "scale": {"zero": True}}
    y = {"field": "variant", "type": "nominal", "sort": None, "axis": {"title": None}}
    tip = {"tooltip": {"expr": "datum.tip"}, "aria": False}
    return {
        "title": _head(
            [f"{phase[0]}, batch {phase[1]}, prompt {phase[2]}", f"bar: median, line: middle half, tick: 95th percentile{dashes}"]
        ),
        "width": PANEL_WIDTH,
        "height": {"step": ROW},
        "data": {"values": rows},
        "encoding": {"y": y},
        "layer": [
            {"mark": {"type": "bar", "opacity": 0.75, **tip}, "encoding": {"x": x, "color": _color("datum.chosen")}},
            {"mark": {"type": "rule", "strokeWidth": 3, **tip}, "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}}},
            {"mark": {"type": "tick", "thickness": 2, "size": 12, **tip}, "encoding": {"x": x | {"field": "p95"}}},
            *([_floor(x)] if floored else []),
            {
                "mark": {"type": "text", "align": "left", "fontSize": 11, "aria": False},
                "encoding": {"x": {"value": PANEL_WIDTH + 8}, "text": {"field": "note"}},
            },
        ],
    }


def _floor(x: Spec) -> Spec:
    """The bandwidth roofline as a dashed tick."""
    tick = {"type": "tick", "thickness": 2, "size": ROW - 2, "strokeDash": [3, 2], "tooltip": {"expr": "datum.tip"}, "aria": False}
    return {"transform": [{"filter": "isValid(datum.roofline)"}], "mark": tick, "encoding": {"x": x | {"field": "roofline"}}}


def _note(item: LatencyFigures) -> str:
    if item.slow_path is not None:
        return "! no fused kernel" if item.slow_path.code == "unpacked" else "! slow kernel"
    return "! contended" if item.contended else ""


def _latency_row(item: LatencyFigures, reference: str) -> Spec:
    return {
        "variant": plain(item.variant, 20),
        "chosen": item.variant == PLAN,
        "value": 1e3 * item.median_s,
        "low": 1e3 * item.low_quartile_s,
        "high": 1e3 * item.high_quartile_s,
        "p95": 1e3 * item.p95_s,
        "roofline": None if item.roofline_s is None else 1e3 * item.roofline_s,
        "note": _note(item),
        "tip": {
            "variant": plain(item.variant),
            "median": f"{milliseconds(item.median_s)} of {item.rounds} rounds",
            "middle half": f"{milliseconds(item.low_quartile_s)} to {milliseconds(item.high_quartile_s)}",
            "95th percentile": milliseconds(item.p95_s),
            "ratio to the reference [95%]": ratio(item.ratio),
            "roofline": "-"
            if item.roofline_s is None
            else f"{milliseconds(item.roofline_s)}, the median is {item.times_roofline:.1f} times that",
            "slow path": plain(slow_path_words(item.slow_path, reference), 200) if item.slow_path else "-",
            "contended": plain("; ".join(item.contended) or "-", 200),
            "kernels": ", ".join(f"{plain(name, 40)}: {count} modules" for name, count in item.kernels.items()) or "-",
        },
    }


def memory(analysis: Analysis) -> Spec | None:
    """Stored bytes of every variant, read off the tensors."""
    if not analysis.memory:
        return None
    rows = [
        {
            "variant": plain(item.variant, 20),
            "chosen": item.variant == PLAN,
            "value": item.stored_bytes / 1e6,
            "label": f"{megabytes(item.stored_bytes)}, {percent(item.share_of_reference)}",
            "tip": {
                "variant": plain(item.variant),
                **{plain(name, 40): megabytes(size) for name, size in item.stored_bytes_by_format.items()},
            },
        }
        for item in analysis.memory
    ]
    x = {"field": "value", "type": "quantitative", "title": "stored, whole model, MB"}
    tip = {"tooltip": {"expr": "datum.tip"}, "aria": False}
    panel = {
        "title": _head("stored bytes of the whole model, and share of the reference"),
        "width": PANEL_WIDTH,
        "height": {"step": ROW},
        "data": {"values": rows},
        "encoding": {"y": {"field": "variant", "type": "nominal", "sort": None, "axis": {"title": None}}},
        "layer": [
            {"mark": {"type": "bar", "opacity": 0.75, **tip}, "encoding": {"x": x, "color": _color("datum.chosen")}},
            {
                "mark": {"type": "text", "align": "left", "fontSize": 11, "aria": False},
                "encoding": {"x": {"value": PANEL_WIDTH + 8}, "text": {"field": "label"}},
            },
        ],
    }
    return chart_of("Stored bytes of every variant", [panel])


def rules(analysis: Analysis) -> Spec | None:
    """A scatter plot per rule: its statistic against the measured KL of each layer; flagged layers are triangles."""
    audit = analysis.rules
    if audit is None:
        return None
    found = [(rule, list(_rule_rows(analysis, rule))) for rule in audit.rules]
    panels = [_rule_panel(rule, rows, audit.format) for rule, rows in found if len({row["x"] for row in rows}) > 1]
    return chart_of("Every rule of thumb: its statistic against measured sensitivity, by layer", panels, columns=4)


def _rule_rows(analysis: Analysis, rule: RuleReading) -> Iterator[Spec]:
    for item in analysis.ranking:
        if item.layer in rule.values and item.kl.value > 0:
            yield {
                "x": rule.values[item.layer],
                "y": item.kl.value,
                "flagged": "flagged" if item.layer in rule.flagged else "not flagged",
                "tip": {
                    "layer": item.layer,
                    rule.statistic: f"{rule.values[item.layer]:.4g}",
                    "KL [95%]": f"{nats(item.kl)} nats per token",
                    "rank": item.rank,
                    "the rule": "flags it" if item.layer in rule.flagged else "does not flag it",
                },
            }


def _rule_panel(rule: RuleReading, rows: list[Spec], name: str) -> Spec:
    marks = {"domain": ["flagged", "not flagged"]}
    rho = f"Spearman {ratio(rule.spearman)}" if rule.spearman else "no correlation"
    return {
        "title": _head([plain(rule.rule, 28), f"{rule.verdict}; {rho}"]),
        "width": SCATTER,
        "height": SCATTER,
        "data": {"values": rows},
        "mark": {"type": "point", "filled": True, "size": 45, "opacity": 0.85, "tooltip": {"expr": "datum.tip"}, "aria": False},
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "title": plain(rule.statistic, 24),
                "scale": {"zero": False},
                "axis": {"tickCount": 4},
            },
            "y": {
                "field": "y",
                "type": "quantitative",
                "title": f"KL at {plain(name, 12)}",
                "scale": {"type": "log", "nice": False, "padding": 8},
                "axis": {"format": "~g", "tickCount": 4},
            },
            "shape": {"field": "flagged", "type": "nominal", "scale": marks | {"range": ["triangle-up", "circle"]}, "legend": _below()},
            "color": {"field": "flagged", "type": "nominal", "scale": marks | {"range": [FLAGGED, BAR]}, "legend": _below()},
        },
    }


def _below() -> Spec:
    return {"orient": "bottom", "title": None}
