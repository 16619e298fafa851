"""The pictures under docs/pictures, from any run: the report's first screens as a browser shows them, and its charts.

    PYTHONPATH=src python scripts/make_pictures.py run.json smollm2     smollm2-light.png, -dark.png, -phone.png, -map.png, -bytes.png
    PYTHONPATH=src python scripts/make_pictures.py run.json smollm2 --only light phone --out /tmp/look

Those of docs/tutorial.md: ``smollm2 --only light bytes`` from a run of profile smollm2, ``tiny --only light phone`` from one of tiny, and
``eighty-layers --only dark`` from the run that ``scripts/report_speed.py --keep`` makes. Look at every picture before it is committed.
Needs chromium (apt-get install chromium) and playwright; nothing is fetched.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from bitzones.analysis.analyze import analyse, read_run
from bitzones.report.writer import write_report

PLACE = Path(__file__).resolve().parents[1] / "docs" / "pictures"

PATIENCE_MS = 120_000
"""Until charts are drawn: a busy machine takes seconds."""


@dataclass(frozen=True)
class Look:
    """One way to look at the page: its size in pixels of CSS, and which part of it."""

    width: int
    height: int
    scheme: str = "light"
    section: str | None = None
    """Only this section; the first screen where None."""


LOOKS = {
    "light": Look(1280, 900),
    "dark": Look(1280, 900, "dark"),
    "phone": Look(390, 844),
    "map": Look(1280, 900, section="map"),
    "bytes": Look(1280, 900, section="frontier"),
}


def photograph(browser: Any, address: str, look: Look, place: Path) -> None:
    """One look at the page, kept as a PNG."""
    context = browser.new_context(viewport={"width": look.width, "height": look.height}, color_scheme=look.scheme, device_scale_factor=1.5)
    page = context.new_page()
    page.goto(address)
    charts = page.query_selector_all(".chart")
    for chart in charts:
        chart.scroll_into_view_if_needed()
    page.locator(".chart svg").nth(len(charts) - 1).wait_for(timeout=PATIENCE_MS)
    page.evaluate("scrollTo(0, 0)")
    if look.section:
        page.locator(f"#{look.section} .chart").first.screenshot(path=place)
    else:
        page.screenshot(path=place)
    context.close()


def main() -> None:
    ask = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    ask.add_argument("run", type=Path)
    ask.add_argument("name", help="what the pictures' names begin with")
    ask.add_argument("--only", nargs="+", choices=sorted(LOOKS), default=list(LOOKS))
    ask.add_argument("--out", type=Path, default=PLACE)
    asked = ask.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    asked.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        write_report(analyse(read_run(asked.run)), Path(scratch))
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name in asked.only:
            place = asked.out / f"{asked.name}-{name}.png"
            photograph(browser, (Path(scratch) / "report.html").as_uri(), LOOKS[name], place)
            print(place)
        browser.close()


if __name__ == "__main__":
    main()
