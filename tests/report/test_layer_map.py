"""The map shows each unit where it is, in the shade of its KL, with the plan's bits and its zone, and its text can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_run import analysed, cells, decided, small, without

from bitzones.analysis.results import Analysis
from bitzones.report.charts.layer_map import NOT_MEASURED, layer_map, views
from bitzones.report.charts.places import SIGNS, places
from bitzones.report.charts.shades import INKS, SHADES, ink, shade
from bitzones.schema.layer_statistics import LayersCell
from bitzones.schema.sensitivity_cells import SensitivityCell

alt = pytest.importorskip("altair", reason="altair holds the schema of Vega-Lite")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("run"), small())


def rows(chart: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["row"], row["layer"]): row for row in chart["vconcat"][0]["data"]["values"]}


def test_a_view_for_each_format_and_for_the_statistics(analysis: Analysis) -> None:
    titles = [view.title for view in views(analysis)]
    assert titles == [
        *(f"Sensitivity: KL at {name}" for name in ("qint2:hqq", "qint4", "qint8")),
        "Activations of the reference",
        "Attention of the reference",
    ]
    for view in views(analysis):
        alt.VConcatChart.from_dict(view.chart)  # the schema of Vega-Lite: what it does not know it would leave out in silence


def test_cells_hold_shade_bits_zone_and_interval(analysis: Analysis) -> None:
    chart = layer_map(analysis)
    assert chart is not None
    found = rows(chart)
    assert found["whole layer", 0]["fill"] == SHADES[-1], "layer 0 is planted as the most sensitive"
    assert found["whole layer", 3]["fill"] == SHADES[0], "layer 3 is planted as the least"
    assert found["whole layer", 1]["fill"] == NOT_MEASURED, "layer 1 failed at 2 bits"
    plan = decided(analysis).plan
    assert {layer: found["whole layer", layer]["text"] for layer in range(4)} == {
        layer: {"qint2:hqq": "2", "qint4": "4", "qint8": "8"}[plan.units[f"layers.{layer}"]] for layer in range(4)
    }
    assert [found["zone", layer]["text"] for layer in range(4)] == [SIGNS[item.zone] for item in decided(analysis).layer_zones]
    tip = found["whole layer", 0]["tip"]
    assert "[" in tip["KL at qint2:hqq [95%]"]
    assert tip["zone"] == "TRANSITION"
    assert found["layer", 3]["text"] == "3"


def test_places_of_zero_and_of_one_value(analysis: Analysis) -> None:
    only = analysis.sensitivity[0]
    assert only.kl is not None
    nothing = only.model_copy(update={"kl": only.kl.model_copy(update={"value": 0.0, "low": 0.0, "high": 0.0})})
    for reading in (only, nothing):
        (place,) = places(analysis.model_copy(update={"sensitivity": (reading,)}), reading.format)
        assert place.position == pytest.approx(0.0)


def test_without_sensitivity_the_statistics_are_left(tmp_path: Path) -> None:
    titles = [view.title for view in views(analysed(tmp_path, without(SensitivityCell)))]
    assert titles == ["Activations of the reference", "Attention of the reference"]


def test_nothing_to_map(tmp_path: Path) -> None:
    found = [cell for cell in cells() if not isinstance(cell, SensitivityCell | LayersCell)]
    assert layer_map(analysed(tmp_path, found)) is None


def contrast(a: str, b: str) -> float:
    """WCAG 2.2, from its definition."""

    def luminance(color: str) -> float:
        channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@given(st.floats(0, 1))
def test_text_on_every_shade_can_be_read(position: float) -> None:
    assert ink(position) in INKS
    assert contrast(shade(position), ink(position)) >= 4.5


def test_shades_get_darker() -> None:
    against_white = [contrast(shade(step / 50), "#ffffff") for step in range(51)]
    assert against_white == sorted(against_white)
    assert (shade(0), shade(1)) == (SHADES[0], SHADES[-1])
