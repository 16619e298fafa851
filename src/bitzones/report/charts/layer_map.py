"""The layer map: layers by groups, coloured by what was measured of each, with the plan's bit width written in and the zone in the margin.

One map has several views: the KL at each format, and the statistics of activations and of attention. Colour is never alone: the bit width
and the zone's sign are written in, and every number stands in the tip and in the tables. This module decides nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bitzones.analysis.plan import UnitPlan, ZoneWord
from bitzones.analysis.results import Analysis, LayerReading, UnitReading
from bitzones.report.charts.vega import SCHEMA_URL, Spec
from bitzones.report.markdown.tables import bits, megabytes, nats, plain
from bitzones.schema.profile import format_bits
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = [
    "BLOCK",
    "INKS",
    "SHADES",
    "SIGNS",
    "ZONE_FILLS",
    "Place",
    "View",
    "ink",
    "layer_map",
    "places",
    "runs_map",
    "shade",
    "views",
    "width_of",
]

BLOCK = 16
"""Layers beside each other in a picture: at the width of a printed column their digits stay legible."""

CELL = 17
"""Height and width of a cell, in units of which a printed column has about 340."""

SHADES = ("#fdf3d8", "#f6b65f", "#d9622b", "#6d1020")
"""From insensitive to sensitive: light to dark, so that the order survives print without colour and every kind of colour blindness."""

INKS = ("#000000", "#ffffff")
"""Text on a shade: whichever contrasts more, `ink`. Of black and white one always has 4.5:1 (WCAG 2.2, 1.4.3)."""

NOT_MEASURED = "#8c959f"

SIGNS: dict[ZoneWord, str] = {"SAFE": "✔", "TRANSITION": "◐", "CRITICAL": "▲", "INCONCLUSIVE": "?"}

ZONE_FILLS: dict[ZoneWord, str] = {"SAFE": "#d7f0dc", "TRANSITION": "#fff1c9", "CRITICAL": "#ffdcd7", "INCONCLUSIVE": "#e9ecef"}

GRID = "#ffffff"

STEPS = 32
"""Of the legend's bar: more cannot be told apart."""

LEGEND_WIDTH = 200

MARGIN = "zone"
"""The row of the margin."""

NUMBERS = "layer"
"""The row that names the layers."""

WHOLE = "whole layer"
"""The row of layers that are one unit each."""

LEAST_SPAN = 1.001
"""A logarithmic scale has a length even where every value is the same."""

Shade = tuple[int, int, int]


@dataclass(frozen=True)
class View:
    """One way to colour the map."""

    title: str
    chart: Spec


def views(analysis: Analysis) -> tuple[View, ...]:
    """Every view that this run can fill, the KL at the fewest bits first; empty where no layer was measured in any way."""
    return tuple(_views(analysis))


def _views(analysis: Analysis) -> Iterator[View]:
    """One by one: a picture needs the first only."""
    for name in reversed(analysis.formats):
        if any(item.format == name and item.kl for item in analysis.sensitivity):
            yield View(f"Sensitivity: KL at {plain(name)}", _sensitivity(analysis, name))
    for title, columns in (("Activations", _ACTIVATIONS), ("Attention", _ATTENTION)):
        rows = list(_statistics(analysis, columns))
        if rows:
            yield View(f"{title} of the reference", _chart(analysis, rows, _of_row(title)))


def layer_map(analysis: Analysis) -> Spec | None:
    """The first of the `views`, as it stands in a paper; None where there is none."""
    first = next(_views(analysis), None)
    return first.chart if first else None


def runs_map(runs: Sequence[tuple[str, Analysis]]) -> Spec | None:
    """Layers by runs: each row a run's sensitivity of whole layers at its fewest bits, on a scale of its own; None where none has any."""
    cells = []
    for name, analysis in runs:
        values = {item.layer: item for item in analysis.ranking}
        for layer, position in _positions({layer: item.kl.value for layer, item in values.items()}, log=True).items():
            item = values[layer]
            tip = {
                "run": plain(name),
                "layer": layer,
                "KL [95%]": f"{nats(item.kl)} nats per token",
                "rank": item.rank,
                "zone": _zone(analysis, layer),
            }
            cells.append(_cell(layer, plain(name, 24), position, str(item.rank), tip))
    title = ["numbers: rank of the layer in its run, 1 is the most sensitive"]
    return _drawn(cells, _of_row("Sensitivity"), title) if cells else None


def width_of(name: str) -> str:
    """Bits per weight as they are written into a cell.

    >>> width_of("qint2:hqq"), width_of("bf16")
    ('2', '16')
    """
    try:
        return str(format_bits(name))
    except ValueError:
        digits = re.search(r"\d+", name)
        return digits[0] if digits else "?"


def shade(position: float) -> str:
    """The colour at a position from 0 to 1, between its two neighbours in `SHADES` in RGB, as Vega interpolates."""
    return "#" + "".join(f"{channel:02x}" for channel in _shade(position))


def _shade(position: float) -> Shade:
    stops = [tuple(int(stop[at : at + 2], 16) for at in (1, 3, 5)) for stop in SHADES]
    place = min(max(position, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (place - left)) for a, b in zip(stops[left], stops[left + 1], strict=True))
    return red, green, blue


def ink(position: float) -> str:
    """The one of `INKS` that contrasts more with `shade` (relative luminance, WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in _shade(position))]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INKS[0] if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else INKS[1]


@dataclass(frozen=True)
class Place:
    """A cell of the map: one unit of one layer."""

    reading: UnitReading
    position: float | None
    """Of its KL between the least and the most of the map, 0 to 1 on a logarithmic scale; None where it was not measured."""
    planned: UnitPlan | None

    @property
    def layer(self) -> int:
        """The layer whose row it stands in: `places` makes none of what lies behind all layers."""
        assert self.reading.layer is not None
        return self.reading.layer

    @property
    def row(self) -> str:
        return plain(self.reading.group or WHOLE, 24)

    @property
    def width(self) -> str:
        """Bits in the plan; empty without one."""
        return width_of(self.planned.format) if self.planned else ""


def places(analysis: Analysis, name: str) -> tuple[Place, ...]:
    """The cells of the map of the KL at one format, in the model's order; what lies behind all layers has none."""
    low, high = _span(analysis, name)
    planned = {unit.unit: unit for unit in analysis.decision.units} if analysis.decision else {}
    shown = [item for item in analysis.sensitivity if item.format == name and item.layer is not None]
    at = [None if item.kl is None else math.log(max(item.kl.value, low) / low) / math.log(high / low) for item in shown]
    return tuple(Place(item, position, planned.get(item.unit)) for item, position in zip(shown, at, strict=True))


def _span(analysis: Analysis, name: str) -> tuple[float, float]:
    """The least KL above 0 and the most; a KL of 0 is shaded as the least."""
    values = [item.kl.value for item in analysis.sensitivity if item.format == name and item.kl is not None and item.kl.value > 0]
    return (min(values), max(*values, LEAST_SPAN * min(values))) if values else (0.1, 1.0)


def _sensitivity(analysis: Analysis, name: str) -> Spec:
    low, high = _span(analysis, name)
    legend = _legend(f"KL at {plain(name, 24)}, nats per token", [low * (high / low) ** (step / STEPS) for step in range(STEPS + 1)])
    legend["encoding"]["x"]["scale"] |= {"type": "log"}
    return _chart(analysis, [_unit_row(analysis, place) for place in places(analysis, name)], legend)


def _unit_row(analysis: Analysis, place: Place) -> Spec:
    item, planned, layer = place.reading, place.planned, place.layer
    shares = {} if planned is None or analysis.sequences < MIN_SEQUENCES else planned.shares
    tip = {
        "unit": plain(item.unit),
        f"KL at {plain(item.format)} [95%]": f"{nats(item.kl)} nats per token" if item.kl else "not measured",
        "zone": _zone(analysis, layer),
        "in the plan": plain(planned.format) if planned else "no plan",
        "resampled plans": ", ".join(f"{share:.0%} {name}" for name, share in shares.items() if share) or "inconclusive",
        "stored": f"{megabytes(item.stored_bytes)} at {plain(item.format)}, {bits(item.bits)} bits per weight",
    }
    return _cell(layer, place.row, place.position, place.width, tip)


def _cell(layer: int, row: str, position: float | None, text: str, tip: Spec) -> Spec:
    fill, dark = (NOT_MEASURED, INKS[0]) if position is None else (shade(position), ink(position))
    return {"layer": layer, "row": row, "fill": fill, "text": text, "ink": dark, "tip": tip}


def _zone(analysis: Analysis, layer: int) -> str:
    zone = analysis.decision.zone_of(layer) if analysis.decision else None
    return zone or "none"


_Column = tuple[str, Callable[[LayerReading], float | None], bool]

_ACTIVATIONS: Sequence[_Column] = (
    ("magnitude", lambda item: item.magnitude, True),
    ("peak", lambda item: item.peak, True),
    ("std", lambda item: item.std, True),
    ("kurtosis", lambda item: item.kurtosis, True),
    ("sparsity", lambda item: item.sparsity, False),
)
"""Name, value, and whether it is shaded on a logarithmic scale: sizes and tails span decades, shares do not."""

_ATTENTION: Sequence[_Column] = (
    ("entropy", lambda item: item.attention.entropy_nats if item.attention else None, False),
    ("specialization", lambda item: item.attention.head_specialization if item.attention else None, False),
    ("focus", lambda item: item.attention.reasoning_focus if item.attention else None, False),
)


def _statistics(analysis: Analysis, columns: Sequence[_Column]) -> Iterator[Spec]:
    for name, of, log in columns:
        values = {item.layer: value for item in analysis.layers if (value := of(item)) is not None}
        for layer, position in _positions(values, log).items():
            tip = {
                "layer": layer,
                name: f"{values[layer]:.4g}",
                "over layers": f"{min(values.values()):.3g} to {max(values.values()):.3g}",
                "zone": _zone(analysis, layer),
            }
            yield _cell(layer, name, position, "", tip)


def _positions(values: dict[int, float], log: bool) -> dict[int, float]:
    """Each value's place between the least and the most, 0 to 1."""
    log = log and all(value > 0 for value in values.values())
    scaled = {layer: math.log(value) if log else value for layer, value in values.items()}
    low, high = (min(scaled.values()), max(scaled.values())) if scaled else (0.0, 0.0)
    return {layer: (value - low) / (high - low) if high > low else 0.0 for layer, value in scaled.items()}


def _legend(title: str, stops: Sequence[float]) -> Spec:
    """A bar of shades from the least to the most, over an axis of values."""
    steps = [{"from": a, "to": b, "fill": shade((at + 0.5) / STEPS)} for at, (a, b) in enumerate(itertools.pairwise(stops))]
    return {
        "data": {"values": steps},
        "width": LEGEND_WIDTH,
        "height": 10,
        "mark": {"type": "rect", "aria": False},
        "encoding": {
            "x": {
                "field": "from",
                "type": "quantitative",
                "scale": {"domain": [stops[0], stops[-1]], "nice": False},
                "axis": {"title": title, "format": "~g", "tickCount": 4, "grid": False},
            },
            "x2": {"field": "to"},
            "color": {"field": "fill", "type": "nominal", "scale": None},
        },
    }


def _of_row(title: str) -> Spec:
    """Every row has a scale of its own, so the legend has no numbers: the tip has them."""
    legend = _legend(f"{title}: from the least of a row to its most", [step / STEPS for step in range(STEPS + 1)])
    legend["encoding"]["x"]["axis"] |= {"values": [0, 1], "labelExpr": "datum.value ? 'most' : 'least'"}
    return legend


def _margin(analysis: Analysis) -> Iterator[Spec]:
    for item in analysis.decision.layer_zones if analysis.decision else ():
        tip = {
            "layer": item.layer,
            "zone": item.zone,
            "at the fewest bits": f"in {item.lowest_share:.0%} of the resampled plans",
            "at the most bits": f"in {item.highest_share:.0%}",
        }
        yield {"layer": item.layer, "row": MARGIN, "text": SIGNS[item.zone], "ink": INKS[0], "fill": ZONE_FILLS[item.zone], "tip": tip}


def _chart(analysis: Analysis, rows: Iterable[Spec], legend: Spec) -> Spec:
    """The cells with the zones in the margin."""
    return _drawn([*_margin(analysis), *rows], legend, _title(analysis))


def _drawn(cells: list[Spec], legend: Spec, title: list[str]) -> Spec:
    """Blocks of `BLOCK` layers below each other; the page sets the parameter ``per`` to as many as fit its width."""
    cells = list(cells)
    cells += [_number(layer) for layer in sorted({row["layer"] for row in cells})]
    order = list(dict.fromkeys(row["row"] for row in cells))
    blocks = {
        "data": {"values": cells},
        "transform": [
            {"calculate": "floor(datum.layer / per)", "as": "block"},
            {"calculate": "datum.layer % per", "as": "column"},
        ],
        "facet": {"row": {"field": "block", "type": "ordinal", "header": {"labels": False, "title": None}}},
        "spacing": 6,
        "spec": {
            "width": {"step": CELL},
            "height": {"step": CELL},
            "encoding": {
                "x": {"field": "column", "type": "ordinal", "axis": None},
                "y": {"field": "row", "type": "ordinal", "sort": order, "axis": {"title": None, "ticks": False, "domain": False}},
            },
            "layer": [
                _layer("rect", "isValid(datum.fill)", color={"field": "fill", "type": "nominal", "scale": None}, stroke={"value": GRID}),
                _layer("text", "isValid(datum.ink)", text={"field": "text"}, color={"field": "ink", "type": "nominal", "scale": None}),
                _layer("text", "!isValid(datum.ink)", text={"field": "text"}),
            ],
        },
    }
    return {
        "$schema": SCHEMA_URL,
        "description": "Layer map: layers from left to right, their units from top to bottom, the zone of each layer above them",
        "title": {"text": title, "anchor": "start", "fontSize": 10, "fontWeight": "normal"},
        "params": [{"name": "per", "value": BLOCK}],
        "vconcat": [blocks, legend],
        "config": {"view": {"stroke": None}, "concat": {"spacing": 10}},
    }


def _number(layer: int) -> Spec:
    """A cell of the last row, which names the layers: an axis would need a scale of its own in every block."""
    return {"layer": layer, "row": NUMBERS, "text": str(layer), "tip": {"layer": layer}}


def _title(analysis: Analysis) -> list[str]:
    """What the signs mean, in lines that fit a printed column."""
    if analysis.decision is None:
        return [f"no plan; grey: {'not measured' if analysis.sensitivity else 'none'}"]
    zones = " \u00b7 ".join(f"{SIGNS[item.zone]} {item.zone}" for item in analysis.decision.zones)
    return [f"{zones} \u00b7 numbers: bits in the plan"] if analysis.sensitivity else [zones]


def _layer(mark: str, keep: str, **encoding: Spec) -> Spec:
    return {
        "mark": {"type": mark, "aria": False, "tooltip": {"expr": "datum.tip"}},
        "transform": [{"filter": keep}],
        "encoding": encoding,
    }
