"""The diagrams are read by Mermaid itself, at three depths and with hostile names, and tell zones by more than color."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import mermaidx
import pytest
from make_run import cells, decided, hostile, planned, run_dict, sensitivity, small, without, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.markdown.decisions import mix
from bitzones.report.mermaid.flow import STYLES, overview, technical
from bitzones.schema.sensitivity_cells import SensitivityCell

GOLDEN = Path(__file__).parents[1] / "golden"
GITHUB_CHARACTERS = 50_000


@pytest.fixture(scope="module")
def analyses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Analysis]:
    folder = tmp_path_factory.mktemp("runs")
    found = {str(layers): run_dict(cells(layers)) for layers in (12, 30, 80)}
    found |= {"hostile": hostile(), "groups": run_dict([sensitivity(4, groups=("attn.qkv", "mlp.down"))])}
    found["planned"] = run_dict(planned())
    found["planless"] = run_dict(without(SensitivityCell))
    return {name: analyse(read_run(write(folder, data, f"{name}.json"))) for name, data in found.items()}


def blocks(text: str) -> list[str]:
    return re.findall(r"^```mermaid\n(.*?)\n```$", text, re.DOTALL | re.MULTILINE)


@cache
def drawn(source: str) -> mermaidx.Diagram:
    """Mermaid's own picture, drawn once; it raises where it cannot parse."""
    return mermaidx.render(source)


def svg(source: str) -> str:
    return str(drawn(source).svg())


def test_golden_diagrams() -> None:
    analysis = analyse(read_run(GOLDEN / "run.json"))
    assert overview(analysis) == (GOLDEN / "overview_diagram.md").read_text(encoding="utf-8")
    assert technical(analysis) == (GOLDEN / "technical_diagram.md").read_text(encoding="utf-8")


def test_the_parser_refuses_what_is_not_escaped() -> None:
    with pytest.raises(RuntimeError, match="Parse error"):
        svg('flowchart TB\n  a["x"]y"]')


@pytest.mark.parametrize("name", ["12", "30", "80", "hostile"])
def test_overview_parses_and_renders(analyses: dict[str, Analysis], name: str) -> None:
    drawings = blocks(overview(analyses[name]))
    assert len(drawings) == 2
    for source in drawings:
        assert len(source) < GITHUB_CHARACTERS
        assert "SAFE" in svg(source)


def test_without_a_plan_the_overview_says_why(analyses: dict[str, Analysis]) -> None:
    text = overview(analyses["planless"])
    assert "**No plan:** no sensitivity was measured" in text
    assert blocks(text) == []
    drawings = blocks(technical(analyses["planless"]))
    assert "no plan" in svg(drawings[0])
    assert not any("KL at" in source for source in drawings)


def test_a_layer_s_node_names_the_mix_of_its_groups(analyses: dict[str, Analysis]) -> None:
    flow = blocks(overview(analyses["groups"]))[0]
    assert "<svg" in svg(flow)
    for item in decided(analyses["groups"]).layer_zones:
        label = re.search(rf"layer {item.layer}<br/>{item.zone}<br/>(.*?)<br/>", flow)
        assert label is not None
        assert label[1] == mix(item.formats, "groups")


@pytest.mark.parametrize("name", ["80", "hostile"])
def test_technical_parses_and_renders(analyses: dict[str, Analysis], name: str) -> None:
    drawings = blocks(technical(analyses[name]))
    frontier = [source for source in drawings if "KL by budget" in source]
    assert len(frontier) == (name == "hostile")
    assert len(drawings) == 1 + 3 + 3 + len(frontier)
    one_each = (drawings[0], drawings[1], *frontier, drawings[-1])
    chosen = one_each if name == "hostile" else drawings[1:2]  # drawing takes a second
    for source in chosen:
        assert len(source) < GITHUB_CHARACTERS
        assert "<svg" in svg(source)


def test_every_layer_is_a_node_with_its_zone_in_words(analyses: dict[str, Analysis]) -> None:
    flow = blocks(overview(analyses["12"]))[0]
    for item in decided(analyses["12"]).layer_zones:
        assert re.search(rf'n{item.layer}\["\S layer {item.layer}<br/>{item.zone}<br/>', flow)
    assert 'n5["▲ layer 5<br/>CRITICAL<br/>qint8<br/>KL 6.5"]:::critical' in flow


@pytest.mark.parametrize("name", ["30", "80"])
def test_deep_models_are_folded_without_losing_a_layer(analyses: dict[str, Analysis], name: str) -> None:
    flow, layers = blocks(overview(analyses[name]))[0], set()
    nodes = re.findall(r"\S layers? (\d+)(?:-(\d+))?<br/>", flow)
    for first, last in nodes:
        layers |= set(range(int(first), int(last or first) + 1))
    assert layers == set(range(int(name)))
    assert len(nodes) < int(name) / 2


def test_deep_charts_are_lines_on_a_numbered_axis(analyses: dict[str, Analysis]) -> None:
    assert '  x-axis "layer" 0 --> 79\n' in technical(analyses["80"])
    assert "  line [" in technical(analyses["80"])
    assert "  bar [" in blocks(technical(analyses["12"]))[1]


def test_charts_show_the_figures(analyses: dict[str, Analysis]) -> None:
    chart = next(block for block in blocks(technical(analyses["12"])) if "qint2" in block)
    values = [float(value) for value in re.search(r"bar \[(.*)\]", chart)[1].split(", ")]  # type: ignore[index]
    expected = [item.kl.value for item in analyses["12"].sensitivity if item.format == "qint2:hqq" and item.kl]
    assert values == pytest.approx(expected, rel=1e-3)


def test_a_layer_s_units_are_summed_and_its_formats_listed(analyses: dict[str, Analysis]) -> None:
    analysis = analyses["groups"]
    chart = blocks(technical(analysis))[1]
    first = float(re.search(r"bar \[([\d.]+)", chart)[1])  # type: ignore[index]
    units = [item.kl.value for item in analysis.sensitivity if (item.layer, item.format) == (0, "qint2:hqq") and item.kl]
    assert len(units) == 2
    assert first == pytest.approx(sum(units), rel=1e-3)


def test_what_failed_is_said_and_not_drawn_as_measured(tmp_path: Path) -> None:
    text = technical(analyse(read_run(write(tmp_path, run_dict(small())))))
    assert "Not or not fully measured at qint2:hqq, and drawn too low: layers 1." in text


def test_the_recommendation_asks_for_a_measurement(analyses: dict[str, Analysis]) -> None:
    flow = blocks(overview(analyses["12"]))[1]
    assert "measure the plan<br/>before you ship it" in flow
    assert "layers 3, 7-8<br/>store in qint2:hqq" in flow


def test_a_measured_plan_stands_with_its_interval_and_n(analyses: dict[str, Analysis]) -> None:
    flow = blocks(overview(analyses["planned"]))[1]
    assert "measure the plan" not in flow
    assert "store in" not in flow  # the searched plan need not do what is best for each layer alone
    assert "alone: qint2:hqq costs least;<br/>together: see the plan" in flow
    assert re.search(r'whole -- "yes" --> before\["KL 1\.17<br/>\(1\.01 to 1\.32\)<br/>30 held-out sequences"\]', flow)
    assert "held-out" in svg(flow)


def test_the_frontier_is_drawn_from_the_fewest_bytes_up(analyses: dict[str, Analysis]) -> None:
    (source,) = (source for source in blocks(technical(analyses["planned"])) if "KL by budget" in source)
    plans = analyses["planned"].plans
    assert plans is not None
    axis = re.findall(r'"([^"]+)"', source.split("x-axis", 1)[1].split("[", 1)[1].split("]")[0])
    stored = [plans.named(name).stored_bytes for name in axis]
    assert stored == sorted(stored)
    bars = [float(value) for value in source.split("bar [")[1].rstrip("]").split(",")]
    assert bars == pytest.approx([plans.named(name).measured.value for name in axis], rel=1e-3)  # type: ignore[union-attr]
    assert {"plan", "additive", "3 bits"} <= set(axis)


@pytest.mark.parametrize("name", ["12", "hostile"])
def test_a_fence_cannot_be_closed_from_inside(analyses: dict[str, Analysis], name: str) -> None:
    for text in (overview(analyses[name]), technical(analyses[name])):
        assert text.count("```") == 2 * len(blocks(text))
        assert "<script" not in text


def luminance(color: str) -> float:
    channels = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("zone", STYLES)
def test_colors_have_the_contrast_of_wcag_aaa(zone: str) -> None:
    style = dict(step.split(":", 1) for step in STYLES[zone].split(","))  # type: ignore[index]
    ground, text, border = (luminance(style[key]) for key in ("fill", "color", "stroke"))
    assert (ground + 0.05) / (text + 0.05) >= 7
    assert (ground + 0.05) / (border + 0.05) >= 3


def test_png_of_twelve_layers(analyses: dict[str, Analysis]) -> None:
    picture = drawn(blocks(overview(analyses["12"]))[0]).png(width=800, background="#ffffff")
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000
