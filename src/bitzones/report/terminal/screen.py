"""A run in a terminal: the answer, the layer map in color, the plan by zone, and the verdicts; plain lines where it is no terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.task_answers import NORMALIZED
from bitzones.analysis.zones import ranges
from bitzones.report.charts.places import SIGNS, ZONE_FILLS, Place, places
from bitzones.report.charts.shades import ink, shade
from bitzones.report.markdown.headline import Answer, answers
from bitzones.report.markdown.summary import headline
from bitzones.report.markdown.tables import megabytes, percent, plain, points
from bitzones.report.terminal import text_map

__all__ = ["show"]

CELL = 4
"""Columns per layer in the map: a block, up to two digits, and a space."""

MARGIN = 14
"""Columns for row names."""

INK = "#000000"


def show(analysis: Analysis, console: Console) -> None:
    """Print the run: in color to a terminal, else as lines of plain text."""
    if not console.is_terminal:
        for line in _plain(analysis):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        return
    for item in answers(analysis):
        console.print(_panel(item))
    for text in _map(analysis, max(8, (console.width - MARGIN) // CELL)):
        console.print(text, soft_wrap=True)
    if analysis.decision is not None:
        console.print(_zones(analysis, analysis.decision))
    if analysis.accuracy:
        console.print(_accuracy(analysis))


def _plain(analysis: Analysis) -> Iterator[str]:
    for item in answers(analysis):
        yield f"{item.question} {item.answer}"
        yield from (f"  {line}" for line in item.details)
    yield ""
    yield from text_map.lines(analysis)
    yield from headline(analysis)


def _panel(item: Answer) -> Panel:
    body = Text(item.answer, style="bold")
    for line in item.details:
        body.append(f"\n{line}", style="not bold")
    return Panel(body, title=Text(item.question), title_align="left")


def _map(analysis: Analysis, per: int) -> Iterator[Text]:
    """Blocks of layers that fit the terminal: shade and block character for the KL, bits of the plan, zone signs."""
    rows: dict[str, dict[int, Place]] = {}
    for place in places(analysis, analysis.formats[-1]):
        rows.setdefault(place.row, {})[place.layer] = place
    layers = sorted({layer for of in rows.values() for layer in of})
    for start in range(0, len(layers), per):
        shown = layers[start : start + per]
        if analysis.decision is not None:
            yield _row("zone", [_zone(analysis.decision, layer) for layer in shown])
        for name, of in rows.items():
            yield _row(name, [_cell(of.get(layer)) for layer in shown])
        yield _row("layer", [Text(f"{layer:>{CELL - 1}} ") for layer in shown])
    if rows:
        yield Text(next(text_map.lines(analysis)), style="dim")


def _row(name: str, cells: list[Text]) -> Text:
    return Text.assemble(f"{name[: MARGIN - 1]:<{MARGIN}}", *cells)


def _zone(decision: Decision, layer: int) -> Text:
    zone = decision.zone_of(layer)
    return Text(f"{SIGNS[zone]:^{CELL}}", style=f"{INK} on {ZONE_FILLS[zone]}") if zone else Text(" " * CELL)


def _cell(place: Place | None) -> Text:
    if place is None or place.position is None:
        return Text(f"{'' if place is None else text_map.block(None):^{CELL}}")
    text = f"{text_map.block(place.position)}{place.width}"
    return Text(f"{text:^{CELL}}", style=f"{ink(place.position)} on {shade(place.position)}")


def _zones(analysis: Analysis, decision: Decision) -> Table:
    table = Table("zone", "layers", analysis.reference, "plan", "saved", title="Zones and plan", title_justify="left")
    for zone in decision.zones:
        saved = 1 - zone.plan_bytes / zone.reference_bytes if zone.reference_bytes else None
        sizes = megabytes(zone.reference_bytes), megabytes(zone.plan_bytes), percent(saved)
        table.add_row(f"{SIGNS[zone.zone]} {zone.zone}", ranges(zone.layers), *sizes)
    return table


def _accuracy(analysis: Analysis) -> Table:
    table = Table("task", "variant", "accuracy [95%]", "points [95%]", "verdict", "n", title="Accuracy", title_justify="left")
    for item in analysis.accuracy:
        if item.metric != NORMALIZED:
            share = f"{percent(item.share.value)} [{percent(item.share.low)}, {percent(item.share.high)}]"
            difference, verdict = (points(item.against.difference), str(item.against.verdict)) if item.against else ("", "reference")
            row = plain(item.task), plain(item.variant), share, difference, verdict, str(item.n)
            table.add_row(*map(Text, row))
    return table
