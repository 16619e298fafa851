"""The cells of the layer map, drawn in the page, in characters and in the terminal."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from bitzones.analysis.plan import UnitPlan, ZoneWord
from bitzones.analysis.results import Analysis, UnitReading
from bitzones.report.markdown.tables import plain
from bitzones.schema.formats import format_bits

__all__ = ["SIGNS", "WHOLE", "ZONE_FILLS", "Place", "places", "span", "width_of"]

SIGNS: dict[ZoneWord, str] = {"SAFE": "✔", "TRANSITION": "◐", "CRITICAL": "▲", "INCONCLUSIVE": "?"}

ZONE_FILLS: dict[ZoneWord, str] = {"SAFE": "#d7f0dc", "TRANSITION": "#fff1c9", "CRITICAL": "#ffdcd7", "INCONCLUSIVE": "#e9ecef"}

WHOLE = "whole layer"
"""Row name where a unit is a whole layer."""

LEAST_SPAN = 1.001
"""Keeps a logarithmic scale from having no length when all values are equal."""


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


@dataclass(frozen=True)
class Place:
    """A cell of the map: one unit of one layer."""

    reading: UnitReading
    position: float | None
    """Position of its KL between the least and the most of the map, 0 to 1 on a logarithmic scale; None where not measured."""
    planned: UnitPlan | None

    @property
    def layer(self) -> int:
        """Its layer; `places` leaves out units after the last layer."""
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
    """The cells of the map of the KL at one format, in the model's order, without units after the last layer."""
    low, high = span(analysis, name)
    planned = {unit.unit: unit for unit in analysis.decision.units} if analysis.decision else {}
    shown = [item for item in analysis.sensitivity if item.format == name and item.layer is not None]
    at = [None if item.kl is None else math.log(max(item.kl.value, low) / low) / math.log(high / low) for item in shown]
    return tuple(Place(item, position, planned.get(item.unit)) for item, position in zip(shown, at, strict=True))


def span(analysis: Analysis, name: str) -> tuple[float, float]:
    """The least KL above 0 and the most; a KL of 0 is shaded as the least."""
    values = [item.kl.value for item in analysis.sensitivity if item.format == name and item.kl is not None and item.kl.value > 0]
    return (min(values), max(*values, LEAST_SPAN * min(values))) if values else (0.1, 1.0)
