"""What a notebook shows of an analysis: the answers and the layer map as inline SVG. Every string of a run file is escaped."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup, escape

from bitzones.analysis.results import Analysis
from bitzones.report.charts import vega
from bitzones.report.charts.layer_map import layer_map
from bitzones.report.markdown.headline import answers
from bitzones.report.markdown.tables import plain

__all__ = ["analysis_html"]


def analysis_html(analysis: Analysis) -> str:
    """A fragment of HTML that loads nothing and runs no script."""
    return f'<div class="bitzones">{Markup("").join(_blocks(analysis))}</div>'


def _blocks(analysis: Analysis) -> Iterator[Markup]:
    model = analysis.model.source if analysis.model else "model not recorded"
    yield Markup("<h4>{}</h4>").format(plain(model))
    for item in answers(analysis):
        details = Markup("<br>").join(escape(line) for line in item.details)
        yield Markup("<p>{} <b>{}</b><br><small>{}</small></p>").format(item.question, item.answer, details)
    if (chart := layer_map(analysis)) is not None:
        yield Markup(vega.svg(chart))  # noqa: S704  # vl-convert escapes text in its SVG, and every name passed `plain`
