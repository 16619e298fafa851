"""Charts of plans by task or text domain: a map of layers by tasks, and the KL of every plan on every task."""

from __future__ import annotations

from collections.abc import Iterator

from bitzones.analysis.plan import LayerZone
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.slice_figures import Crossed, LayerShare, SlicesReading
from bitzones.report.charts.layer_map import View, cell, drawn, of_row, positions
from bitzones.report.charts.places import SIGNS, ZONE_FILLS, width_of
from bitzones.report.charts.shades import INKS
from bitzones.report.charts.vega import Spec
from bitzones.report.markdown.tables import more_nats, nats, p_value, percent, plain, ratio
from bitzones.report.mermaid.metric_charts import chart_of, dots

__all__ = ["crossed", "views"]

FOR_ALL = "all"
"""The row of the plan for all."""

DEPENDS = "depends"
"""The row that marks layers whose zone depends on the task."""

MARK, MARK_FILL = "\u2260", "#cfe2ff"


def views(analysis: Analysis) -> tuple[View, ...]:
    """The map of layers by tasks, by zone and by sensitivity; empty where no plan was made by task or domain."""
    found = analysis.slices
    if found is None or analysis.decision is None:
        return ()
    rows = {FOR_ALL: analysis.decision, **{_row(item.name): item.decision for item in found.slices}}
    depends = list(_depends(found))
    shaded = list(_sensitivities(analysis, found, rows))
    zones = View("Zones", drawn([*depends, *_zones(rows)], None, [_signs(rows), f"{MARK} the zone depends on the {found.by}"]))
    if not shaded:
        return (zones,)
    title = [f"numbers: bits in the plan \u00b7 {MARK} the zone depends on the {found.by}"]
    return zones, View("Share of the sensitivity", drawn([*depends, *shaded], of_row("Share of the sensitivity"), title))


def _row(name: str) -> str:
    """A row's name, never that of the plan for all."""
    shown = plain(name, 24)
    return f"{shown} " if shown in (FOR_ALL, DEPENDS) else shown


def _signs(rows: dict[str, Decision]) -> str:
    used = {zone.zone for decision in rows.values() for zone in decision.layer_zones}
    return " \u00b7 ".join(f"{sign} {word}" for word, sign in SIGNS.items() if word in used)


def _depends(found: SlicesReading) -> Iterator[Spec]:
    for layer in found.layers:
        if layer.depends:
            tip = {"layer": layer.layer, **{plain(name, 24): zone for name, zone in layer.zones.items()}}
            yield {"layer": layer.layer, "row": DEPENDS, "fill": MARK_FILL, "text": MARK, "ink": INKS[0], "tip": tip}


def _zones(rows: dict[str, Decision]) -> Iterator[Spec]:
    for name, decision in rows.items():
        for zone in decision.layer_zones:
            tip = {"plan for": name, **_zone_tip(zone)}
            yield {"layer": zone.layer, "row": name, "fill": ZONE_FILLS[zone.zone], "text": SIGNS[zone.zone], "ink": INKS[0], "tip": tip}


def _zone_tip(zone: LayerZone) -> Spec:
    return {
        "layer": zone.layer,
        "zone": zone.zone,
        "in the plan": ", ".join(f"{count} at {plain(name, 24)}" for name, count in zone.formats.items()),
        "at the fewest bits": f"in {zone.lowest_share:.0%} of the resampled plans",
        "at the most bits": f"in {zone.highest_share:.0%}",
    }


def _sensitivities(analysis: Analysis, found: SlicesReading, rows: dict[str, Decision]) -> Iterator[Spec]:
    """A row for all and for each slice, shaded by the layers' shares of the sensitivity at the lowest format, each row on its own scale."""
    whole = sum(item.kl.value for item in analysis.ranking)
    shares = {FOR_ALL: {item.layer: item.kl.value / whole for item in analysis.ranking}} if whole else {}
    tips: dict[tuple[str, int], Spec] = {}
    for layer in found.layers:
        for share in layer.shares:
            shares.setdefault(_row(share.slice), {})[layer.layer] = share.share
            tips[_row(share.slice), layer.layer] = _share_tip(share)
    for name, by_layer in shares.items():
        zones = {zone.layer: zone for zone in rows[name].layer_zones}
        for layer_, position in positions(by_layer, log=True).items():
            zone = zones[layer_]
            widths = {width_of(form) for form in zone.formats}
            tip = {
                "plan for": name,
                **_zone_tip(zone),
                "share of the sensitivity": percent(by_layer[layer_]),
                **tips.get((name, layer_), {}),
            }
            yield cell(layer_, name, position, widths.pop() if len(widths) == 1 else "\u2026", tip)


def _share_tip(share: LayerShare) -> Spec:
    return {
        "by that of the others [95%]": ratio(share.ratio),
        "p after Holm": "-" if share.p_adjusted is None else p_value(share.p_adjusted),
    }


def crossed(analysis: Analysis) -> Spec | None:
    """A panel per task: KL and interval of each plan on its held-out sequences, and the word against the plan for all; None without."""
    found = analysis.slices
    if found is None or not found.crossed:
        return None
    shown = [made for made in found.crossed if made.kl.value > 0]
    ends = [end for made in shown for end in (made.kl.low or made.kl.value, made.kl.high or made.kl.value)]
    if not ends:
        return None
    scale = {"type": "log", "domain": [min(ends), max(ends)], "nice": True}
    made_on = {item.name: [_crossed_row(made) for made in shown if made.measured_on == item.name] for item in found.slices}
    return chart_of(
        f"KL of every plan with 95% intervals, by {found.by}",
        [
            dots(
                [f"measured on {plain(item.name, 24)}, n = {item.held_out_sequences} sequences", "at the right: against the plan for all"],
                made_on[item.name],
                {"field": "value", "type": "quantitative", "title": "KL, nats per token", "scale": scale, "axis": {"tickCount": 5}},
                "word",
            )
            for item in found.slices
            if made_on[item.name]
        ],
    )


def _crossed_row(made: Crossed) -> Spec:
    name = f"for {FOR_ALL if made.made_for is None else plain(made.made_for, 20)}"
    against = made.against
    return {
        "variant": name,
        "chosen": made.made_for == made.measured_on,
        "value": made.kl.value,
        "low": made.kl.low or made.kl.value,
        "high": made.kl.high or made.kl.value,
        "word": "" if against is None else "same plan" if against.word == "same" else against.word,
        "tip": {
            "plan": name,
            "KL [95%]": f"{nats(made.kl)} nats per token",
            "minus the plan for all [95%]": "-" if against is None else more_nats(against.difference),
            "ratio to it [95%]": "-" if against is None else ratio(against.ratio),
            "p after Holm": "-" if against is None or against.p_adjusted is None else p_value(against.p_adjusted),
            "stored": f"{made.stored_bytes:,} bytes",
        },
    }
