"""The layer map in characters: as tables for summary.md, and as plain text for a terminal without colors.

A block character shows the sensitivity, a number the bits, a sign the zone; no information is in color alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.results import Analysis
from bitzones.report.charts.layer_map import BLOCK
from bitzones.report.charts.places import SIGNS, Place, places
from bitzones.report.markdown.tables import markdown, nats, plain, table

__all__ = ["BLOCKS", "block", "lines", "markdown_map"]

BLOCKS = "░▒▓█"
"""From least to most sensitive: quarters of a logarithmic scale."""

UNMEASURED = "×"

Rows = dict[str, dict[int, Place]]


def block(position: float | None) -> str:
    """The character of a position from 0 to 1.

    >>> [block(position) for position in (0.0, 0.3, 0.74, 1.0, None)]
    ['░', '▒', '▓', '█', '×']
    """
    return UNMEASURED if position is None else BLOCKS[min(int(position * len(BLOCKS)), len(BLOCKS) - 1)]


def markdown_map(analysis: Analysis) -> str:
    """The section: tables of `BLOCK` layers under their zone signs; empty where no layer was measured at the lowest format."""
    rows = _rows(analysis)
    if not rows:
        return ""
    tables = []
    for layers in _blocks(rows):
        body = [(markdown(name), *(_said(of.get(layer)) for layer in layers)) for name, of in rows.items()]
        if analysis.decision:
            body.insert(0, ("zone", *(_sign(analysis, layer) for layer in layers)))
        tables.append(table(("layer", *map(str, layers)), body))
    return "## Layer map\n\n" + "\n\n".join((_legend(analysis, markdown(analysis.formats[-1])), *tables))


def lines(analysis: Analysis) -> Iterator[str]:
    """The map as lines of plain text; none where nothing was measured."""
    rows = _rows(analysis)
    if not rows:
        return
    yield _legend(analysis, plain(analysis.formats[-1]))
    wide = max(map(len, (*rows, "layer"))) + 1
    for layers in _blocks(rows):
        if analysis.decision:
            yield f"{'zone':<{wide}}" + "".join(f"{_sign(analysis, layer):>4}" for layer in layers)
        for name, of in rows.items():
            yield f"{name:<{wide}}" + "".join(f"{_said(of.get(layer)):>4}" for layer in layers)
        yield f"{'layer':<{wide}}" + "".join(f"{layer:>4}" for layer in layers)
        yield ""


def _rows(analysis: Analysis) -> Rows:
    rows: Rows = {}
    for place in places(analysis, analysis.formats[-1]):
        rows.setdefault(place.row, {})[place.layer] = place
    return rows


def _blocks(rows: Rows) -> Iterator[list[int]]:
    layers = sorted({layer for of in rows.values() for layer in of})
    for start in range(0, len(layers), BLOCK):
        yield layers[start : start + BLOCK]


def _said(place: Place | None) -> str:
    return "" if place is None else f"{block(place.position)}{place.width}"


def _sign(analysis: Analysis, layer: int) -> str:
    zone = analysis.decision.zone_of(layer) if analysis.decision else None
    return SIGNS[zone] if zone else ""


def _legend(analysis: Analysis, name: str) -> str:
    measured = [item.kl for item in analysis.sensitivity if item.format == analysis.formats[-1] and item.kl is not None]
    least, most = (pick(measured, key=lambda kl: kl.value) for pick in (min, max)) if measured else (None, None)
    zones = ", ".join(f"{SIGNS[item.zone]} {item.zone}" for item in analysis.decision.zones) if analysis.decision else "no plan"
    missing = (
        f" {UNMEASURED} not measured."
        if any(item.kl is None for item in analysis.sensitivity if item.format == analysis.formats[-1])
        else ""
    )
    return (
        f"Blocks {' '.join(BLOCKS)}: KL at {name}, in quarters of a logarithmic scale from {nats(least)} to {nats(most)} nats per token. "
        f"Numbers: bits in the plan. Zones: {zones}.{missing}"
    )
