"""report.html: one self-contained page with Vega-Lite charts and the tables of summary.md.

A content security policy allows only the page's own scripts, by hash, and no network; Vega's expressions are interpreted, not evaluated.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bitzones.analysis.results import Analysis
from bitzones.report.charts import frontier, layer_map, slice_charts, vega
from bitzones.report.html.markdown_html import html
from bitzones.report.markdown import (
    decisions,
    domain_tables,
    fisher_tables,
    headline,
    measurements,
    method,
    plan_tables,
    reproduce,
    rule_tables,
    slice_tables,
    task_tables,
    tuning_tables,
)
from bitzones.report.markdown.summary import about, inconclusive
from bitzones.report.markdown.tables import plain
from bitzones.report.mermaid import metric_charts

__all__ = ["Chart", "Section", "page", "render", "sections"]


@dataclass(frozen=True)
class Chart:
    """One chart, or several views to switch between; ``words`` describe it for screen readers."""

    name: str
    words: str
    views: tuple[layer_map.View, ...]


@dataclass(frozen=True)
class Section:
    """A section of the page: charts, then tables, then folded tables."""

    anchor: str
    title: str
    charts: tuple[Chart, ...] = ()
    open: tuple[str, ...] = ()
    """Sections of Markdown."""
    folded: tuple[tuple[str, str], ...] = ()
    """Title and Markdown."""
    code: tuple[tuple[str, str], ...] = field(default=())
    """Caption and text to copy."""


def page(analysis: Analysis) -> str:
    """The whole of report.html."""
    model = analysis.model.source if analysis.model else "model not recorded"
    facts = [plain(model), f"measured {plain(analysis.measured_at or 'at a time not recorded')}"]
    if analysis.environment:
        facts.insert(1, plain(f"{analysis.environment.device}, {analysis.environment.device_name}"))
    return render(plain(model), facts, headline.answers(analysis), sections(analysis))


def sections(analysis: Analysis) -> tuple[Section, ...]:
    """Every section that has content, in the order of the page."""
    makers = (_map, _slices, _domains, _frontier, _accuracy, _cost, _rules_of_thumb, _layers, _made)
    found = (make(analysis) for make in makers)
    return tuple(section for section in found if section.charts or any(section.open) or any(text for _, text in section.folded))


def _map(analysis: Analysis) -> Section:
    return Section(
        "map",
        "Layer map",
        _charts(Chart("map", "Sensitivity by layer and group; the tables below hold every number.", layer_map.views(analysis))),
        (decisions.zones(analysis),),
        (("The plan, unit by unit", decisions.plan(analysis)), ("Most and least sensitive layers", decisions.extreme_layers(analysis))),
    )


def _slices(analysis: Analysis) -> Section:
    by = analysis.slices.by if analysis.slices else "task"
    return Section(
        "slices",
        f"Plans by {by}",
        _charts(
            Chart(
                "slices", f"Layers by {by}: zone, and bits in its plan; the tables below hold every number.", slice_charts.views(analysis)
            ),
            _single("crossed", f"KL of every plan by {by}.", slice_charts.crossed(analysis)),
        ),
        (slice_tables.by_slice(analysis),),
        slice_tables.folded(analysis),
    )


def _domains(analysis: Analysis) -> Section:
    return Section(
        "domains",
        "Text of every kind",
        _charts(_single("domains", "KL of every variant by domain.", metric_charts.domains(analysis))),
        (tuning_tables.tuning(analysis), domain_tables.by_domain(analysis)),
        domain_tables.statistics(analysis),
    )


def _frontier(analysis: Analysis) -> Section:
    return Section(
        "frontier",
        "KL and accuracy by size",
        _charts(_single("frontier", "KL and accuracy by stored bytes.", frontier.frontier(analysis))),
        (plan_tables.compared(analysis),),
        (
            ("Other budgets", plan_tables.frontier(analysis)),
            ("Search", plan_tables.search(analysis)),
            ("Do the separate sensitivities add up?", decisions.whole(analysis)),
            ("Fisher proxy", fisher_tables.fisher_proxy(analysis)),
        ),
    )


def _accuracy(analysis: Analysis) -> Section:
    return Section(
        "accuracy",
        "Accuracy",
        _charts(_single("accuracy", "Accuracy of every variant by task.", metric_charts.accuracy(analysis))),
        (task_tables.accuracy(analysis),),
    )


def _cost(analysis: Analysis) -> Section:
    return Section(
        "cost",
        "Latency and memory",
        _charts(
            _single("latency", "Latency of every variant.", metric_charts.latency(analysis)),
            _single("memory", "Stored bytes of every variant.", metric_charts.memory(analysis)),
        ),
        (measurements.latency(analysis), measurements.memory(analysis)),
    )


def _rules_of_thumb(analysis: Analysis) -> Section:
    return Section(
        "rules",
        "Rules of thumb",
        _charts(_single("rules", "Each rule's statistic against measured sensitivity.", metric_charts.rules(analysis))),
        (_rules(analysis),),
    )


def _layers(analysis: Analysis) -> Section:
    return Section(
        "layers",
        "Layer statistics",
        folded=(("Attention", measurements.attention(analysis)), ("Activations", measurements.activations(analysis))),
    )


def _made(analysis: Analysis) -> Section:
    return Section(
        "made",
        "Limits and method",
        open=(inconclusive(analysis), measurements.failures(analysis), about(analysis), measurements.took(analysis)),
        folded=(("Method", method.methodology(analysis)),),
        code=(("Save as profile.toml:", reproduce.profile_toml(analysis.profile)), ("then:", reproduce.command())),
    )


def _rules(analysis: Analysis) -> str:
    audit = analysis.rules
    return rule_tables.rules(audit.rules if audit else (), rule_tables.critical(audit, analysis.profile.zones.resamples))


def _single(name: str, words: str, chart: vega.Spec | None) -> Chart:
    return Chart(name, words, () if chart is None else (layer_map.View(name, chart),))


def _charts(*charts: Chart) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart.views)


def render(title: str, facts: Iterable[str], found: Iterable[headline.Answer], body: Iterable[Section]) -> str:
    """A page from its parts; every string is escaped, Markdown by `markdown_html`."""
    body = tuple(body)
    charts = {chart.name: [view.chart for view in chart.views] for section in body for chart in section.charts}
    code = {name: _resource(name) for name in ("page.js", "page.css")}
    library = vega.script()
    text: str = _template().render(
        title=title,
        facts=tuple(facts),
        answers=tuple(found),
        sections=body,
        css=Markup(code["page.css"]),  # noqa: S704  # our own files and vl-convert's; they hold no value of a run
        js=Markup(code["page.js"]),  # noqa: S704
        vega=Markup(library),  # noqa: S704
        charts=Markup(_embedded(charts)),  # noqa: S704  # see _embedded
        policy=_policy(library, code["page.js"]),
    )
    return text


def _embedded(data: Any) -> str:
    """JSON that is safe inside a script element: no ``<`` is left that could end it or open a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _policy(*scripts: str) -> str:
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


@cache
def _template() -> Any:
    loader = PackageLoader("bitzones.report.html", "assets")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["html"] = html
    return environment.get_template("page.html.j2")


@cache
def _resource(name: str) -> str:
    return (files("bitzones.report.html") / "assets" / name).read_text(encoding="utf-8")
