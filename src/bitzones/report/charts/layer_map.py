"""The layer map as a Vega-Lite chart: layers by groups, colored by a measurement, with the plan's bits in the cells and zones on top.

Views: the KL at each format, activation statistics, attention statistics. Bits and zone signs are written out, and tooltips and tables hold
every number, so that no information is in color alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bitzones.analysis.results import Analysis, LayerReading
from bitzones.report.charts.places import SIGNS, ZONE_FILLS, Place, places, span
from bitzones.report.charts.shades import INKS, ink, shade
from bitzones.report.charts.vega import SCHEMA_URL, Spec
from bitzones.report.markdown.tables import bits, megabytes, nats, plain
from bitzones.stats.intervals import MIN_SEQUENCES

__all__ = ["BLOCK", "View", "cell", "drawn", "layer_map", "of_row", "positions", "runs_map", "views"]

BLOCK = 16
"""Layers per row of an image: their digits stay legible at the width of a printed column."""

CELL = 17
"""Height and width of a cell, in units of which a printed column has about 340."""

NOT_MEASURED = "#8c959f"

GRID = "#ffffff"

STEPS = 32
"""Color steps of the legend."""

LEGEND_WIDTH = 200

MARGIN = "zone"
"""The row of zone signs."""

NUMBERS = "layer"
"""The row that names the layers."""


@dataclass(frozen=True)
class View:
    """One way to color the map."""

    title: str
    chart: Spec


def views(analysis: Analysis) -> tuple[View, ...]:
    """Every view with data, the KL at the lowest format first; empty where nothing was measured by layer."""
    return tuple(_views(analysis))


def _views(analysis: Analysis) -> Iterator[View]:
    """Lazily: an image needs only the first."""
    for name in reversed(analysis.formats):
        if any(item.format == name and item.kl for item in analysis.sensitivity):
            yield View(f"Sensitivity: KL at {plain(name)}", _sensitivity(analysis, name))
    for title, columns in (("Activations", _ACTIVATIONS), ("Attention", _ATTENTION)):
        rows = list(_statistics(analysis, columns))
        if rows:
            yield View(f"{title} of the reference", _chart(analysis, rows, of_row(title)))


def layer_map(analysis: Analysis) -> Spec | None:
    """The first of the `views`; None where there is none."""
    first = next(_views(analysis), None)
    return first.chart if first else None


def runs_map(runs: Sequence[tuple[str, Analysis]]) -> Spec | None:
    """Layers by runs: a row per run with the sensitivity of whole layers at its lowest format, on its own scale; None without data."""
    cells = []
    for name, analysis in runs:
        values = {item.layer: item for item in analysis.ranking}
        for layer, position in positions({layer: item.kl.value for layer, item in values.items()}, log=True).items():
            item = values[layer]
            tip = {
                "run": plain(name),
                "layer": layer,
                "KL [95%]": f"{nats(item.kl)} nats per token",
                "rank": item.rank,
                "zone": _zone(analysis, layer),
            }
            cells.append(cell(layer, plain(name, 24), position, str(item.rank), tip))
    title = ["numbers: rank of the layer in its run, 1 is the most sensitive"]
    return drawn(cells, of_row("Sensitivity"), title) if cells else None


def _sensitivity(analysis: Analysis, name: str) -> Spec:
    low, high = span(analysis, name)
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
    return cell(layer, place.row, place.position, place.width, tip)


def cell(layer: int, row: str, position: float | None, text: str, tip: Spec) -> Spec:
    """A cell of a map, shaded by a position between the least and the most; without one it is grey."""
    fill, dark = (NOT_MEASURED, INKS[0]) if position is None else (shade(position), ink(position))
    return {"layer": layer, "row": row, "fill": fill, "text": text, "ink": dark, "tip": tip}


def _zone(analysis: Analysis, layer: int) -> str:
    zone = analysis.decision.zone_of(layer) if analysis.decision else None
    return zone or "none"


_Column = tuple[str, Callable[[LayerReading], float | None], bool]

_ACTIVATIONS: Sequence[_Column] = (
    ("magnitude", lambda item: item.statistics.magnitude, True),
    ("peak", lambda item: item.statistics.peak, True),
    ("std", lambda item: item.statistics.std, True),
    ("kurtosis", lambda item: item.statistics.kurtosis, True),
    ("sparsity", lambda item: item.statistics.sparsity, False),
)
"""Name, value, and whether its scale is logarithmic: magnitudes and tails span decades, shares do not."""

_ATTENTION: Sequence[_Column] = (
    ("entropy", lambda item: a.entropy_nats if (a := item.statistics.attention) else None, False),
    ("specialization", lambda item: a.head_specialization if (a := item.statistics.attention) else None, False),
    ("focus", lambda item: a.reasoning_focus if (a := item.statistics.attention) else None, False),
)


def _statistics(analysis: Analysis, columns: Sequence[_Column]) -> Iterator[Spec]:
    for name, of, log in columns:
        values = {item.layer: value for item in analysis.layers if (value := of(item)) is not None}
        for layer, position in positions(values, log).items():
            tip = {
                "layer": layer,
                name: f"{values[layer]:.4g}",
                "over layers": f"{min(values.values()):.3g} to {max(values.values()):.3g}",
                "zone": _zone(analysis, layer),
            }
            yield cell(layer, name, position, "", tip)


def positions(values: dict[int, float], log: bool) -> dict[int, float]:
    """Each value's position between the least and the most, 0 to 1."""
    log = log and all(value > 0 for value in values.values())
    scaled = {layer: math.log(value) if log else value for layer, value in values.items()}
    low, high = (min(scaled.values()), max(scaled.values())) if scaled else (0.0, 0.0)
    return {layer: (value - low) / (high - low) if high > low else 0.0 for layer, value in scaled.items()}


def _legend(title: str, stops: Sequence[float]) -> Spec:
    """A color bar with an axis of values."""
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


def of_row(title: str) -> Spec:
    """A legend without numbers, because every row has its own scale; tooltips hold the values."""
    legend = _legend(f"{title}: from the least to the most of a row", [step / STEPS for step in range(STEPS + 1)])
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
    """The cells with zone signs on top."""
    return drawn([*_margin(analysis), *rows], legend, _title(analysis))


def drawn(cells: list[Spec], legend: Spec | None, title: list[str]) -> Spec:
    """A map from its cells, in blocks of `BLOCK` layers below each other; the page sets the parameter ``per`` to what fits its width."""
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
        "vconcat": [blocks] if legend is None else [blocks, legend],
        "config": {"view": {"stroke": None}, "concat": {"spacing": 10}},
    }


def _number(layer: int) -> Spec:
    """A cell of the last row, which numbers the layers: an axis would need its own scale in every block."""
    return {"layer": layer, "row": NUMBERS, "text": str(layer), "tip": {"layer": layer}}


def _title(analysis: Analysis) -> list[str]:
    """The legend of the signs."""
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
