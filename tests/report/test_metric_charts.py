"""Charts hold the figures of their tables, in the language of Vega-Lite, and are absent where nothing was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from make_run import SENSITIVE, planned, run_dict, sensitivity, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis, SlowPath
from bitzones.report.charts.vega import Spec
from bitzones.report.mermaid import metric_charts

alt = pytest.importorskip("altair", reason="altair holds the schema of Vega-Lite")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(planned()))))


@pytest.mark.parametrize("chart", [metric_charts.accuracy, metric_charts.latency, metric_charts.memory, metric_charts.rules])
def test_every_chart_is_of_the_language(analysis: Analysis, chart: Callable[[Analysis], Spec | None]) -> None:
    made = chart(analysis)
    assert made is not None
    alt.ConcatChart.from_dict(made)


@pytest.mark.parametrize("chart", [metric_charts.accuracy, metric_charts.latency, metric_charts.memory])
def test_no_chart_without_figures(tmp_path: Path, chart: Callable[[Analysis], Spec | None]) -> None:
    assert chart(analyse(read_run(write(tmp_path, run_dict([sensitivity()]))))) is None


def test_accuracy_has_interval_flips_and_verdict(analysis: Analysis) -> None:
    made = metric_charts.accuracy(analysis)
    assert made is not None
    rows = {row["variant"]: row for row in made["concat"][0]["data"]["values"]}
    w2 = next(item for item in analysis.accuracy if (item.variant, item.task, item.metric) == ("w2", "science_mini", "acc"))
    assert w2.against is not None
    assert (rows["w2"]["value"], rows["w2"]["low"], rows["w2"]["high"]) == tuple(
        100 * value for value in (w2.share.value, w2.share.low, w2.share.high)
    )
    assert rows["w2"]["verdict"] == "worse"
    assert rows["w2"]["tip"]["flips"].startswith(f"{w2.against.lost} lost")
    assert (rows["plan"]["chosen"], rows["w2"]["chosen"]) == (True, False)


def test_slow_paths_disturbances_and_the_floor_are_said(analysis: Analysis) -> None:
    first, second, third, *rest = (item.model_copy(update={"roofline_s": None, "slow_path": None}) for item in analysis.latency)
    told = (
        first.model_copy(update={"roofline_s": first.median_s / 2, "times_roofline": 2.0}),
        second.model_copy(update={"slow_path": SlowPath(code="unpacked", times=3.0, modules=8, of=8, kernels=("plain",))}),
        third.model_copy(update={"contended": ("hot",)}),
    )
    made = metric_charts.latency(analysis.model_copy(update={"latency": (*told, *rest)}))
    assert made is not None
    rows = [row for panel in made["concat"] for row in panel["data"]["values"]]
    assert sorted(row["note"] for row in rows if row["note"]) == ["! contended", "! no fused kernel"]
    assert [row["roofline"] for row in rows if row["roofline"]] == [pytest.approx(500 * first.median_s)]
    assert sum("dashes: bandwidth roofline" in panel["title"]["text"][1] for panel in made["concat"]) == 1
    alt.ConcatChart.from_dict(made)


def test_rules_scatter_their_statistic_against_kl(analysis: Analysis) -> None:
    made = metric_charts.rules(analysis)
    assert made is not None
    panel = next(item for item in made["concat"] if item["title"]["text"][0] == "entropy")
    rows = {row["tip"]["layer"]: row for row in panel["data"]["values"]}
    assert rows[3]["x"] == pytest.approx(1.3), "entropy is 1.0 + 0.1 * layer"
    assert max(rows, key=lambda layer: rows[layer]["y"]) in SENSITIVE
