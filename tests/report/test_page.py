"""The page is one file that asks for nothing, runs nothing that is not its own, and does in a browser what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_slices
import pytest
from make_run import hostile, planned, run_dict, small, write

from bitzones.analysis.analyze import analyse, read_run
from bitzones.analysis.results import Analysis
from bitzones.report.html.page import page

LARGEST = 6_000_000
"""Bytes: what a mail takes along."""

MOST_WAITS = 600
"""Of a tenth of a second each."""

CHROMIUM = shutil.which("chromium")
GROUPS = ("attn.qkv", "attn.o", "mlp.gate_up", "mlp.down")


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return analyse(read_run(write(tmp_path_factory.mktemp("run"), run_dict(small()))))


@pytest.fixture(scope="module")
def text(analysis: Analysis) -> str:
    return page(analysis)


def without_scripts(text: str) -> str:
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_one_file_of_a_size_that_can_be_sent(text: str) -> None:
    assert len(text.encode()) < LARGEST
    outside = re.findall(r"""\b(?:src|href)=["']([^"'#]+)""", without_scripts(text))
    assert set(outside) <= {"technical_diagram.md"}, "everything is in the file, but for its neighbour in the folder"


def test_the_policy_allows_only_its_own_scripts(text: str) -> None:
    import base64
    import hashlib

    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    policy = policy.replace("&#39;", "'")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "eval" not in policy


def test_the_data_can_be_read_back_and_holds_every_chart(text: str) -> None:
    (data,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.DOTALL)
    charts = json.loads(data)
    assert set(charts) == {"map", "domains", "frontier", "accuracy", "latency", "memory", "rules"}
    assert len(charts["map"]) == 5


def test_hostile_names_are_text(tmp_path: Path) -> None:
    text = page(analyse(read_run(write(tmp_path, hostile()))))
    text = without_scripts(text)
    assert "alert(1)" in text
    assert "<script>alert" not in text.lower()
    assert "<img" not in text
    assert 'href="http' not in text


def browsing() -> Any:
    """Playwright with the system's chromium; skips, with the reason, where one of them is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    return api


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browsing().sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(page(analyse(read_run(write(folder, run_dict(planned(12, 24, GROUPS)))))), encoding="utf-8")
    return path.as_uri()


class Visit:
    """One look at the page, with everything that it said or asked for."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, "color_scheme": "light", **settings}).new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)
        self.drawn(1)

    def drawn(self, count: int) -> None:
        """Wait until that many charts have been drawn. Asked from here: waiting inside the page takes eval, which its policy forbids."""
        for _ in range(MOST_WAITS):
            if self.page.evaluate("window.bitzonesDrawn") >= count:
                return
            self.page.wait_for_timeout(100)
        raise AssertionError(f"{self.page.evaluate('window.bitzonesDrawn')} of {count} charts were drawn")

    def whole(self) -> None:
        """Go down the page, so that every chart is drawn."""
        for place in self.page.query_selector_all(".chart"):
            place.scroll_into_view_if_needed()
        self.drawn(6)
        self.page.evaluate("scrollTo(0, 0)")


@pytest.mark.browser
def test_it_works_in_a_browser(browser: Any, address: str) -> None:
    """Hover, the switch of the map, sorting, CSV and the theme; nothing on the console, nothing over the network."""
    visit = Visit(browser, address)
    visit.whole()
    view = visit.page

    view.locator("#chart-map svg text", has_text="attn.qkv").first.wait_for()
    view.locator("#chart-map svg path[fill='#6d1020']").first.hover(force=True)  # the darkest shade: the most sensitive unit
    tip = view.locator("#vg-tooltip-element.visible")
    tip.wait_for(timeout=5_000)
    assert re.search(r"KL at qint2:hqq \[95%\]\s*[\d.]+ \[[\d.]+, [\d.]+\] nats per token", tip.inner_text())

    before = view.evaluate("window.bitzonesDrawn")
    view.select_option("select[data-chart=map]", label="Activations of the reference")
    visit.drawn(before + 1)
    assert view.locator("#chart-map svg text", has_text="kurtosis").count() == 1

    view.locator("details.fold > summary").first.click()
    table = view.locator("#map details table").first
    layers = table.locator("tbody tr td:first-child")
    table.locator("th button").first.click()
    assert layers.all_inner_texts() == [str(layer) for layer in range(12)]
    table.locator("th button").first.click()
    assert layers.all_inner_texts() == [str(layer) for layer in reversed(range(12))]
    assert table.locator("th").first.get_attribute("aria-sort") == "descending"

    with view.expect_download() as download:
        view.locator("#map .tools button", has_text="CSV").first.click()
    rows = Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert rows[0].startswith('"zone","layers","count"')
    assert len(rows) == 1 + view.locator("#map table").first.locator("tbody tr").count()

    before = view.evaluate("window.bitzonesDrawn")
    view.click("#theme")
    visit.drawn(before + 6)
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert view.get_attribute("#theme", "aria-pressed") == "true"
    assert visit.said == []
    assert visit.asked == [address]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "rules"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})])
def test_no_serious_violation_of_accessibility(browser: Any, address: str, scheme: str, rules: dict[str, list[str]]) -> None:
    browsing()
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    visit = Visit(browser, address, color_scheme=scheme, bypass_csp=True)  # axe is injected, which the page's policy forbids
    visit.whole()
    found = axe.Axe().run(visit.page, options=rules).response
    grave = [f"{item['id']}: {item['nodes'][0]['html'][:150]}" for item in found["violations"] if item["impact"] in ("serious", "critical")]
    assert grave == []
    assert found["passes"], "axe looked at something"


@pytest.mark.browser
def test_it_can_be_read_on_a_phone_and_printed(browser: Any, address: str) -> None:
    visit = Visit(browser, address, viewport={"width": 390, "height": 844})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than the screen"
    assert visit.page.locator("#chart-map svg").bounding_box()["width"] <= 390
    visit.page.emulate_media(media="print")
    assert not visit.page.locator(".tools").first.is_visible()
    assert visit.said == []


@pytest.mark.browser
def test_the_map_of_layers_by_tasks_can_be_switched(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    found = analyse(read_run(write(tmp_path, run_dict(make_slices.sliced(each=20), make_slices.sliced_profile()))))
    path.write_text(page(found), encoding="utf-8")
    visit = Visit(browser, path.as_uri())
    place = visit.page.locator("#chart-slices")
    place.scroll_into_view_if_needed()
    place.locator("svg text", has_text="word_problems_mini").first.wait_for()
    assert place.locator("svg text", has_text="\u2260").count() == 2 + 1, "both layers that depend, and the legend"
    before = visit.page.evaluate("window.bitzonesDrawn")
    visit.page.select_option("select[data-chart=slices]", label="Share of the sensitivity")
    visit.drawn(before + 1)
    assert place.locator("svg path[fill='#6d1020']").count() == 3, "the most sensitive layer of all, and of each task"
    assert visit.said == []
