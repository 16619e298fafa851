"""The frontier draws what was measured where it was measured, the recommended plan last, and nothing where nothing was."""

from __future__ import annotations

from pathlib import Path

import pytest
from make_run import analysed, cells, decided, planned, without

from bitzones.analysis.results import Analysis
from bitzones.report.charts.frontier import KINDS, frontier, kind_of, units_bytes
from bitzones.schema.plan_cells import PlansCell
from bitzones.schema.quality_cells import AccuracyCell, DivergenceCell

alt = pytest.importorskip("altair", reason="altair holds the schema of Vega-Lite")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analysed(tmp_path_factory.mktemp("run"), planned())


def test_points_are_the_plans_with_intervals_and_predictions(analysis: Analysis) -> None:
    chart = frontier(analysis)
    assert chart is not None
    alt.ConcatChart.from_dict(chart)
    kl, *accuracies = chart["concat"]
    assert analysis.plans is not None
    rows = {row["name"]: row for row in kl["data"]["values"]}
    assert set(rows) == {item.name for item in analysis.plans.plans if item.measured is not None}
    plan = decided(analysis).plan
    assert plan.measured_kl is not None
    row = rows[plan.name]
    assert (row["kind"], row["value"], row["low"], row["high"]) == (
        "recommended plan",
        plan.measured_kl.value,
        plan.measured_kl.low,
        plan.measured_kl.high,
    )
    assert row["mb"] == pytest.approx(plan.achieved.stored_bytes / 1e6)
    assert row["predicted"] == pytest.approx(plan.predicted_kl.value)
    assert kl["data"]["values"][-1]["kind"] == "recommended plan", "drawn last, over what it hides"
    assert len(accuracies) == 2
    assert {row["name"]: row["kind"] for row in accuracies[0]["data"]["values"]}["bf16"] == "reference"


def test_without_plans_whole_variants_stand_there(tmp_path: Path) -> None:
    chart = frontier(analysed(tmp_path, cells()))
    assert chart is not None
    assert [row["name"] for row in chart["concat"][0]["data"]["values"]] == ["w8", "w4", "w2"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    found = without(AccuracyCell, without(DivergenceCell, without(PlansCell)))
    assert frontier(analysed(tmp_path, found)) is None


def test_bytes_of_the_quantized_units(analysis: Analysis) -> None:
    plan = decided(analysis).plan
    assert units_bytes(analysis, "bf16") == plan.reference_bytes
    assert units_bytes(analysis, "w4") == sum(item.stored_bytes for item in analysis.sensitivity if item.format == "qint4")
    assert units_bytes(analysis, "unheard of") is None


def test_kinds_are_told_apart_by_shape_too() -> None:
    assert len({sign.shape for sign in KINDS.values()}) == len(KINDS) == len({sign.color for sign in KINDS.values()})


def test_kinds(analysis: Analysis) -> None:
    name = decided(analysis).plan.name
    assert [kind_of(analysis, *item) for item in ((name, "search"), ("x", "uniform"), ("x", "frontier"), ("x", "random"))] == [
        "recommended plan",
        "uniform format",
        "other budget",
        "other plan",
    ]
