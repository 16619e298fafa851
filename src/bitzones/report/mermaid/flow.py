"""overview_diagram.md and technical_diagram.md: the model as a flow of layers, the recommendation, and the numbers behind it.

GitHub renders their Mermaid. A zone is marked by word, sign and color, never by color alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from bitzones.analysis.plan import LayerZone, Plan, ZoneWord
from bitzones.analysis.results import Analysis, Decision
from bitzones.analysis.zones import ranges
from bitzones.report.charts.charts import accuracy_charts, block, frontier_chart, sensitivity_chart
from bitzones.report.charts.places import SIGNS
from bitzones.report.markdown.cost_words import budget_words
from bitzones.report.markdown.decisions import mix, no_plan, unswept
from bitzones.report.markdown.tables import NO_INTERVAL, bits, fold, markdown, megabytes, mermaid, nats, table

__all__ = ["SINGLE_LAYERS", "overview", "technical"]

SINGLE_LAYERS = 20
"""Above this depth, consecutive layers of one zone are folded into one node: more nodes do not fit a screen."""

ROW = 4
"""Nodes per row: as many as stay legible in GitHub's column."""

STYLES: dict[ZoneWord, str] = {
    "SAFE": "fill:#d7f0dc,stroke:#1a6b33,stroke-width:2px,color:#0c2f17",
    "TRANSITION": "fill:#fff1c9,stroke:#8a6100,stroke-width:2px,stroke-dasharray:5 3,color:#3d2b00",
    "CRITICAL": "fill:#ffdcd7,stroke:#a4161a,stroke-width:4px,color:#4a0a0c",
    "INCONCLUSIVE": "fill:#e9ecef,stroke:#495057,stroke-width:2px,stroke-dasharray:2 2,color:#212529",
}
"""Dark text on light fills, at least 7:1; border width and dashes differ too, for print without color."""

PLAIN = "fill:#f6f8fa,stroke:#57606a,color:#24292f"


def _class(zone: ZoneWord) -> str:
    return zone.lower().replace(" ", "_")


def _styles() -> Iterator[str]:
    for zone, style in STYLES.items():
        yield f"  classDef {_class(zone)} {style}"
    yield f"  classDef plain {PLAIN}"


def overview(analysis: Analysis) -> str:
    """The whole of overview_diagram.md."""
    model, decision = markdown(analysis.model.source) if analysis.model else "the model", analysis.decision
    body = (no_plan(analysis), _missing_text(analysis)) if decision is None else _decided(analysis, decision)
    links = "[Summary](summary.md) · [technical diagram](technical_diagram.md)\n"
    return "\n\n".join(text for text in (f"# {model}: overview", *body, links) if text)


def _missing_text(analysis: Analysis) -> str:
    return "" if not analysis.ranking else "The sensitivity of every layer is in the [technical diagram](technical_diagram.md)."


def _decided(analysis: Analysis, decision: Decision) -> Iterator[str]:
    legend = table(
        ("sign", "zone", "layers", "meaning"),
        [(SIGNS[zone.zone], zone.zone, ranges(zone.layers), _meaning(zone.zone, analysis)) for zone in decision.zones],
        text=range(4),
    )
    folded = len(decision.layer_zones) > SINGLE_LAYERS
    yield _layers_text(analysis, folded)
    yield block(_flow(analysis, decision, folded))
    yield legend
    yield unswept(analysis)
    yield "## Recommendation"
    yield block(_recommendation(analysis, decision))


def _layers_text(analysis: Analysis, folded: bool) -> str:
    note = " Consecutive layers of one zone share a node." if folded else ""
    alone = (
        "quantizing only that layer"
        if analysis.granularity == "layer"
        else f"quantizing each {analysis.granularity} of the layer alone, summed,"
    )
    return (
        f"## Layers\n\nIn the order of computation, top to bottom and left to right.{note} KL is the effect of {alone} to "
        f"{analysis.formats[-1]} on the whole model, in nats per token, n = {analysis.sequences} sequences."
    )


def _meaning(zone: ZoneWord, analysis: Analysis) -> str:
    agreement = f"at least {analysis.profile.zones.agreement:.0%} of resampled plans"
    return {
        "SAFE": f"{agreement} store it in the lowest format",
        "CRITICAL": f"{agreement} keep it at the highest format or at the reference",
        "TRANSITION": "the choice depends on the sample of sequences, or lies between the extremes",
        "INCONCLUSIVE": "too few sequences for a bootstrap",
    }[zone]


def _runs(decision: Decision, folded: bool) -> list[tuple[ZoneWord, tuple[int, ...]]]:
    if not folded:
        return [(item.zone, (item.layer,)) for item in decision.layer_zones]

    def zone_of(item: LayerZone) -> ZoneWord:
        return item.zone

    return [(zone, tuple(item.layer for item in items)) for zone, items in groupby(decision.layer_zones, key=zone_of)]


def _flow(analysis: Analysis, decision: Decision, folded: bool) -> Iterator[str]:
    """Rows of a few nodes, one below the other, so that a deep model fits a page."""
    runs = _runs(decision, folded)
    yield "flowchart TB"
    yield '  embed["token embeddings<br/>not quantized"]:::plain'
    rows = [list(range(start, min(start + ROW, len(runs)))) for start in range(0, len(runs), ROW)]
    for number, row in enumerate(rows):
        yield f'  subgraph row{number}[" "]'
        yield "    direction LR"
        for index in row:
            zone, layers = runs[index]
            yield f'    n{index}["{_label(analysis, decision, zone, layers)}"]:::{_class(zone)}'
        if len(row) > 1:
            yield "    " + " --> ".join(f"n{index}" for index in row)
        yield "  end"
        yield f"  style row{number} fill:none,stroke:#8c959f,stroke-dasharray:1 4"
    yield '  head["output head<br/>not quantized"]:::plain'
    yield "  " + " --> ".join(("embed", *(f"row{number}" for number in range(len(rows))), "head"))
    yield from _styles()


def _label(analysis: Analysis, decision: Decision, zone: ZoneWord, layers: tuple[int, ...]) -> str:
    counts = Counter(unit.format for unit in decision.units if unit.layer in layers)
    formats = {name: counts[name] for name in (*analysis.formats, analysis.reference) if counts[name]}
    ranks = {item.layer: item.kl.value for item in analysis.ranking}
    values = [ranks[layer] for layer in layers if layer in ranks]
    kl = "KL not measured" if not values else f"KL {min(values):.2g}" if len(values) == 1 else f"KL {min(values):.2g} to {max(values):.2g}"
    name = f"layer {layers[0]}" if len(layers) == 1 else f"layers {ranges(layers)}"
    return "<br/>".join((f"{SIGNS[zone]} {name}", zone, mermaid(mix(formats, f"{analysis.granularity}s"), 80), kl))


def _recommendation(analysis: Analysis, decision: Decision) -> Iterator[str]:
    plan, layers = decision.plan, {zone.zone: ranges(zone.layers) for zone in decision.zones}
    yield "flowchart TB"
    counts = (f"{len(decision.layer_zones)} layers", f"{len(analysis.formats)} formats", f"{analysis.sequences} sequences")
    yield f'  run["measured:<br/>{"<br/>".join(counts)}"]:::plain'
    yield f'  zones{{"zones at<br/>{budget_words(plan.budget)}?"}}:::plain'
    yield "  run --> zones"
    for zone, place in layers.items():
        yield f'  {_class(zone)}_do["{SIGNS[zone]} {zone}<br/>{_wrapped(place)}<br/>{_action(analysis, plan, zone)}"]:::{_class(zone)}'
        yield f"  zones --> {_class(zone)}_do --> plan"
    kl = plan.predicted_kl
    size = f"{megabytes(plan.reference_bytes)} to {megabytes(plan.achieved.stored_bytes)}"
    spread = mermaid(NO_INTERVAL) if kl.low is None else f"({kl.low:.3g} to {kl.high:.3g})"
    predicted = f"predicted KL {kl.value:.3g}<br/>{spread}"
    yield f'  plan["plan.json<br/>{plan.achieved.average_bits:.2f} bits per weight<br/>{size}<br/>{predicted}"]:::plain'
    yield '  whole{"measured?"}:::plain'
    yield "  plan --> whole"
    if plan.measured_kl is None:
        yield '  whole -- "not yet" --> before["measure the plan<br/>before you ship it"]:::plain'
    else:
        measured = plan.measured_kl
        ends = mermaid(NO_INTERVAL) if measured.low is None else f"({measured.low:.3g} to {measured.high:.3g})"
        n = f"{plan.measured_sequences} held-out sequences"
        yield f'  whole -- "yes" --> before["KL {measured.value:.3g}<br/>{ends}<br/>{n}"]:::plain'
    yield from _styles()


def _action(analysis: Analysis, plan: Plan, zone: ZoneWord) -> str:
    """What a zone means for its layers. A searched plan accounts for interactions and need not follow the zone of each layer."""
    lowest = mermaid(analysis.formats[-1])
    if plan.origin == "additive":
        said = {"SAFE": f"store in {lowest}", "CRITICAL": "keep the most bits"}
    else:
        said = {
            "SAFE": f"alone: {lowest} costs least;<br/>together: see the plan",
            "CRITICAL": "alone: worth the most bits;<br/>together: see the plan",
        }
    return said.get(zone, "follow the plan" if zone == "TRANSITION" else "measure more sequences")


def _wrapped(place: str, width: int = 24) -> str:
    """Ranges of layers, wrapped to keep a node narrow."""
    lines = [""]
    for step in place.split(", "):
        joined = f"{lines[-1]}, {step}" if lines[-1] else step
        if len(joined) > width and lines[-1]:
            lines[-1] += ","
            lines.append(step)
        else:
            lines[-1] = joined
    shown = lines if len(lines) <= ROW else [*lines[:ROW], "..."]
    return ("layer " if place.isdigit() else "layers ") + "<br/>".join(shown)


def technical(analysis: Analysis) -> str:
    """The whole of technical_diagram.md."""
    model = markdown(analysis.model.source) if analysis.model else "the model"
    sections = (
        f"# {model}: technical diagrams",
        "## Pipeline",
        block(_pipeline(analysis)),
        *_sensitivities(analysis),
        frontier_chart(analysis),
        accuracy_charts(analysis),
        _kernels(analysis),
        "[Summary](summary.md) · [overview diagram](overview_diagram.md)\n",
    )
    return "\n\n".join(section for section in sections if section)


def _sensitivities(analysis: Analysis) -> Iterator[str]:
    yield "## Sensitivity of every layer"
    if not analysis.sensitivity:
        yield "Not measured."
        return
    units = analysis.granularity
    what = "with only that layer" if units == "layer" else f"summed over its {units}s, each measured alone,"
    yield f"KL in nats per token {what} quantized to the format, n = {analysis.sequences} sequences; the scales differ."
    yield from (block for name in reversed(analysis.formats) if (block := sensitivity_chart(analysis, name)))
    yield _sensitivity_table(analysis)


def _pipeline(analysis: Analysis) -> Iterator[str]:
    counts = {
        "accuracy": len(analysis.accuracy),
        "latency": len(analysis.latency),
        "memory": len(analysis.memory),
        "statistics of layers": len(analysis.layers),
        "likelihoods": len(analysis.likelihood),
        "sensitivities": len(analysis.sensitivity),
        "whole variants": len(analysis.whole),
        "whole plans": len(analysis.plans.plans) if analysis.plans else 0,
        "rounds of search": len(analysis.search.steps) if analysis.search else 0,
        "without a result": len(analysis.failures),
    }
    yield "flowchart TB"
    yield f'  model["{mermaid(analysis.model.source) if analysis.model else "model"}"]:::plain'
    yield f'  variants["variants: {mermaid(", ".join(analysis.variants))}"]:::plain'
    yield f'  cells["{"<br/>".join(f"{count} {name}" for name, count in counts.items())}"]:::plain'
    if analysis.decision is None:
        yield '  out["analysis.json<br/>no plan"]:::plain'
        yield "  model --> variants --> cells --> out"
    else:
        yield f'  boot["bootstrap over {analysis.sequences} sequences<br/>{analysis.profile.zones.resamples} plans"]:::plain'
        yield '  out["zones, plan.json, analysis.json"]:::plain'
        yield "  model --> variants --> cells --> boot --> out"
    yield f"  classDef plain {PLAIN}"


def _sensitivity_table(analysis: Analysis) -> str:
    rows = [
        (markdown(s.unit), s.format, nats(s.kl) if s.failure is None else "failed", bits(s.bits), f"{s.stored_bytes:,}")
        for s in analysis.sensitivity
    ]
    body = table(("unit", "format", "KL [95%]", "bits", "stored bytes"), rows, text=(0, 1))
    return fold("Every unit and format", len(rows), body)


def _kernels(analysis: Analysis) -> str:
    rows = [
        (markdown(item.variant), item.phase, markdown(name), str(count))
        for item in analysis.latency
        for name, count in item.kernels.items()
    ]
    if not rows:
        return ""
    note = "Kernels of the quantized matrix products during the latency measurement, by number of modules."
    return f"## Kernels\n\n{note}\n\n" + table(("variant", "phase", "kernel", "modules"), rows, text=(0, 1, 2))
