"""monitor.html and its Markdown: every part of a watch, hostile names as text, and a browser that finds nothing to complain about."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from bitzones.monitor.monitor_page import page
from bitzones.monitor.overview import Overview
from bitzones.monitor.records import CanaryCheck, DomainShadow, DriftFeature, DriftWindow, EvidenceReading, ShadowBatch
from bitzones.monitor.words import lines, summary
from bitzones.schema.activation_record import LayerCrossing, RuleWatch, ThresholdReading

NASTY = "<script>alert(1)</script>|`x`\n[a](http://b)"
EMPTY = Overview("http://host", (), (), (), (), {}, {}, 0, 0, {})
CHROMIUM = shutil.which("chromium")


def check(number: int, *, alarm: bool = False, model: str = "tiny") -> CanaryCheck:
    def test(name: Any, mean: float, bound: float) -> EvidenceReading:
        evidence = 40.0 if alarm else -1.5
        return EvidenceReading(
            name=name, prompts=50, mean_nats=mean, bound_nats=bound, evidence=evidence, peak=max(0.0, evidence), alarm=alarm
        )

    tests = test("plan", 2e-3 if alarm else 0.0, 1e-4), test("unchanged", 2e-3 if alarm else 0.0, 1e-7)
    at = f"2026-11-{number:02}T12:00:00+00:00"
    return CanaryCheck(
        number=number, kind="check", at=at, model=model, way="prompts as text", asked=50, answered=48, unanswered={"busy": 2}, tests=tests
    )


def overview(name: str = "law", *, alarm: bool = True) -> Overview:
    feature = DriftFeature(name="characters", requests=90, distance=0.25, p=1e-9, p_adjusted=2e-9, typical=9, expected=80, drifted=alarm)
    domain = DomainShadow(
        domain=name, prompts=30, tokens=900, kl_nats=0.2, low=0.1, high=0.3, bound_nats=0.06, evidence=9, peak=9, alarm=alarm
    )
    crossing = LayerCrossing(layer=2, run=3.5, served=4.5, low=4.2, high=4.8)
    rule = RuleWatch(
        rule=name, statistic="magnitude", threshold=4, verdict="does not hold", flagged_in_run=(1,), flagged=(1, 2), crossed=(crossing,)
    )
    at = "2026-11-30T12:00:00+00:00"
    return Overview(
        server="http://host",
        checks=tuple(check(number, alarm=alarm and number == 9, model=name) for number in range(1, 10)),
        windows=(DriftWindow(number=3, at=at, requests=90, malformed=2, alpha=0.001, features=(feature,)),),
        shadows=(ShadowBatch(number=1, at=at, rate=0.001, requests=30_000, sampled=30, domains=(domain,)),),
        thresholds=(ThresholdReading(at=at, rate=0.1, passes=300, sampled=30, rules=(rule,)),),
        checks_made={"enroll": 1, "check": 8},
        prompts={"answered": 800, "busy": 18},
        retries=40,
        outages=1,
        requests={"read": 90, "malformed": 2},
    )


def test_alarms_come_first_and_say_what_to_do() -> None:
    said = lines(overview())
    kinds = [line.split(":")[0] for line in said[:4]]
    assert kinds == ["ALARM canary", "ALARM canary", "ALARM drift", "ALARM shadow"]
    assert "calibrate again" in said[3]
    assert not any(line.startswith("ALARM") for line in said[4:])
    assert not any(line.startswith("ALARM") for line in lines(overview(alarm=False)))
    assert lines(EMPTY) == ("nothing was checked yet",)


def test_markdown_has_a_table_for_each_part() -> None:
    text = summary(overview())
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Watch of http&#58;//host", "## Canary", "## Missing answers", "## Requests", "## Shadow", "## Thresholds of activations",
    ]  # fmt: skip
    assert re.search(r"\| the plan's record +\| +50 \| +0.002 \| +0.0001 \| +40.0 \| +7.6 \| +\*\*yes\*\* \|", text)
    assert re.search(r"\| characters +\| +90 \| +9 \| +80 \| +0.25 \| +< 0.0001 \| +\*\*yes\*\* \|", text)
    assert re.search(r"\| law +\| +30 \| +900 \| +0.2 \[0.1, 0.3\] \| +0.06 \| +9.0 \| +\*\*yes\*\* \|", text)
    assert re.search(r"\| law +\| \*\*does not hold\*\* +\| 1 +\| 1, 2 +\| 2 \(3.5 to 4.5\) +\|", text)
    assert "40 tries beyond the first, 1 checks stopped" in text
    assert summary(EMPTY) == "# Watch of http&#58;//host\n\nNo alarm.\n"


def test_what_strangers_name_is_text() -> None:
    text = page(overview(NASTY))
    shown = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "alert(1)" in shown
    assert "<script>alert" not in shown
    assert 'href="http' not in shown
    assert "<script>" not in summary(overview(NASTY))


def test_the_page_holds_every_chart_and_an_empty_watch_none() -> None:
    def charts(found: Overview) -> set[str]:
        (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page(found), re.DOTALL)
        return set(json.loads(data))

    assert charts(overview()) == {"deviation", "evidence", "drift", "shadow"}
    assert charts(EMPTY) == set()


@pytest.mark.browser
def test_it_is_drawn_and_accessible_in_a_browser(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    place, said = tmp_path / "monitor.html", list[str]()
    place.write_text(page(overview()), encoding="utf-8")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_context(viewport={"width": 390, "height": 844}, bypass_csp=True).new_page()
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto(place.as_uri())
        for chart in view.query_selector_all(".chart"):
            chart.scroll_into_view_if_needed()
            chart.wait_for_selector("svg", timeout=120_000)
        grave = [item["id"] for item in axe.Axe().run(view).response["violations"] if item["impact"] in ("serious", "critical")]
        width = view.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == []
    assert grave == []
    assert width <= 390


def test_every_chart_is_what_vega_lite_defines() -> None:
    alt = pytest.importorskip("altair", reason="altair holds the schema of Vega-Lite")
    (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page(overview()), re.DOTALL)
    for (spec,) in json.loads(data).values():
        alt.ConcatChart.from_dict(spec)
        (panel,) = spec["concat"]
        assert len({row["series"] for row in panel["data"]["values"]}) >= 1
        assert all(row.get("bound", 0) is not None for row in panel["data"]["values"])
