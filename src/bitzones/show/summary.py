"""summary.md: the report that is read first, and the three lines of it that matter.

Every figure stands with its n, its spread and its unit. This module decides nothing: it puts sections in order.
"""

from __future__ import annotations

from bitzones.decide.analysis import Analysis
from bitzones.decide.zones import ranges
from bitzones.show import decisions, measurements, method
from bitzones.show.tables import (
    markdown,
    megabytes,
    plain,
    table,
)

__all__ = ["headline", "summary"]


def headline(analysis: Analysis) -> tuple[str, str, str]:
    """The three lines that matter, as plain text for a terminal: the zones, the plan, the accuracy."""
    return _zones_line(analysis), _plan_line(analysis), _accuracy_line(analysis)


def _zones_line(analysis: Analysis) -> str:
    total, zones = len(analysis.layer_zones), {zone.zone: zone.layers for zone in analysis.zones}
    if "CANNOT TELL" in zones:
        return f"Zones: cannot tell, {analysis.sequences} calibration sequences are too few"
    said = [
        f"{len(zones[word])} {word} ({ranges(zones[word])})" if word in zones else f"no layer is {word}"
        for word in ("SAFE", "TRANSITION", "CRITICAL")
    ]
    never = tuple(layer.layer for layer in analysis.layer_zones if layer.lowest_share <= 1 - analysis.profile.zones.agreement)
    kept = f"; never at the fewest bits: {ranges(never)}" if never else ""
    return f"Zones of {total} layers at {analysis.plan.budget.average_bits:g} average bits: {', '.join(said)}{kept}"


def _plan_line(analysis: Analysis) -> str:
    plan, kl = analysis.plan, analysis.plan.predicted_kl
    saved = 1 - plan.achieved.stored_bytes / plan.reference_bytes if plan.reference_bytes else 0.0
    return (
        f"Plan: {megabytes(plan.achieved.stored_bytes)} instead of {megabytes(plan.reference_bytes)} for the quantized parts "
        f"({saved:.0%} less), "
        f"{plan.achieved.average_bits:.2f} bits per weight; predicted KL {kl.value:.3g} ({kl.low:.3g} to {kl.high:.3g}) "
        "nats/token, not measured as a whole"
    )


def _accuracy_line(analysis: Analysis) -> str:
    if not any(reading.against for reading in analysis.accuracy):
        return "Accuracy: cannot tell, no variant was paired with the reference"
    sizes = {reading.task: reading.n for reading in analysis.accuracy}
    by_variant: dict[str, list[str]] = {}
    for reading in analysis.accuracy:
        verdict = f" {reading.against.verdict}" if reading.against else ""
        by_variant.setdefault(plain(reading.variant), []).append(f"{reading.k / reading.n:.1%}{verdict}")
    tasks = ", ".join(f"{plain(task)} n={n}" for task, n in sizes.items())
    variants = "; ".join(f"{variant} {', '.join(said)}" for variant, said in by_variant.items())
    return f"Accuracy ({tasks}): {variants}"


def summary(analysis: Analysis) -> str:
    """The whole of summary.md."""
    model = analysis.model
    name = markdown(model.source) if model else "model not recorded"
    sections = (
        f"# bitzones: {name}",
        "\n".join(f"- {markdown(line, 10**4)}" for line in headline(analysis)),
        "[Overview diagram](overview_diagram.md) · [technical diagram](technical_diagram.md) · `analysis.json` · `plan.json`",
        _about(analysis),
        decisions.zones(analysis),
        decisions.plan(analysis),
        decisions.accuracy(analysis),
        decisions.extreme_layers(analysis),
        decisions.whole(analysis),
        measurements.memory(analysis),
        measurements.latency(analysis),
        measurements.attention(analysis),
        measurements.activations(analysis),
        measurements.failures(analysis),
        method.methodology(analysis),
        "## What the data cannot tell\n\n" + "\n".join(f"- {markdown(line, 10**4)}" for line in analysis.cannot_tell),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _about(analysis: Analysis) -> str:
    model, env = analysis.model, analysis.environment
    rows = []
    if model:
        size = f"{model.layers} layers, {model.parameters:,} parameters"
        rows += [
            ("model", f"{markdown(model.architecture)}, {size}, stored in {markdown(model.dtype)}"),
            ("model sha256", markdown(model.sha256[:16])),
        ]
    if env:
        versions = ", ".join(f"{markdown(name)} {markdown(version)}" for name, version in env.versions.items())
        rows += [
            ("device", f"{markdown(env.device)}, {markdown(env.device_name)}, {env.threads} threads, computing in {_compute(analysis)}"),
            ("versions", f"bitzones {markdown(analysis.bitzones)}, Python {markdown(env.python)}, {versions}"),
            ("quanto extension", markdown(env.quanto_extension)),
        ]
    rows.append(("measured", f"{markdown(analysis.measured_at or 'time not recorded')}, profile {analysis.profile.sha256[:16]}"))
    return table(("what", "this run"), rows, text=(0, 1))


def _compute(analysis: Analysis) -> str:
    return markdown(analysis.model.compute_dtype) if analysis.model else "a type not recorded"
