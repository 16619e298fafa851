"""Vega-Lite charts as SVG and PNG, and the JavaScript that draws them in a browser.

Both come from vl-convert, which runs Vega outside a browser, so one definition of a chart serves the page, a paper and a pull request.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs

from bitzones.schema.files import beside

__all__ = ["SCHEMA_URL", "VERSION", "Draw", "Drawn", "Files", "Spec", "cached", "here", "pictures", "png", "script", "svg"]

Spec = dict[str, Any]
"""A Vega-Lite chart."""

Files = dict[str, bytes]
"""Images by file name."""

Drawn = Callable[[], Files]
"""Waits until the charts are drawn."""

Draw = Callable[[Mapping[str, Spec]], Drawn]
"""Takes charts as soon as they are known; the result is called when the images are needed."""

VERSION = "6.4"
"""Version of Vega-Lite, fixed so that a report looks the same under any release of vl-convert."""

SCHEMA_URL = "https://vega.github.io/schema/vega-lite/v6.json"
"""The schema that a chart names; it is never fetched."""

PICTURE_SCALE = 3.0
"""PNG pixels per drawing unit: about 300 dpi at the width of a printed column."""

SNIPPET = "window.vegaEmbed = vegaEmbed;"

PICTURE_CONFIG: Spec = {"background": "white"}
"""Text is dark, so images need a white background."""


def svg(chart: Spec) -> str:
    """The chart as an SVG on white."""
    import vl_convert  # noqa: PLC0415

    drawn: str = vl_convert.vegalite_to_svg(chart, vl_version=VERSION, config=PICTURE_CONFIG, allowed_base_urls=[])
    return drawn


def png(drawn: str) -> bytes:
    """An SVG of `svg` as a PNG, `PICTURE_SCALE` pixels per unit."""
    import vl_convert  # noqa: PLC0415

    picture: bytes = vl_convert.svg_to_png(drawn, scale=PICTURE_SCALE)
    return picture


def pictures(charts: Mapping[str, Spec]) -> Files:
    """Every chart as an SVG and as a PNG."""
    drawn = {name: svg(chart) for name, chart in charts.items()}
    return {f"{name}.{kind}": data for name, text in drawn.items() for kind, data in (("svg", text.encode("utf-8")), ("png", png(text)))}


def here(charts: Mapping[str, Spec]) -> Drawn:
    """Draw in this process, when the images are asked for."""
    return functools.partial(pictures, charts)


@functools.cache
def script() -> str:
    """JavaScript that defines ``vegaEmbed``, everything it needs included; the same for the same release of vl-convert.

    Bundling takes more than a second, so the result is cached in the user's cache folder (``BITZONES_CACHE``) and rebuilt where the cached
    file is missing or damaged.
    """
    folder = Path(os.environ.get("BITZONES_CACHE") or platformdirs.user_cache_path("bitzones"))
    name = f"vega-{VERSION}-{version('vl-convert-python')}"
    for text in cached(folder, name):
        return text
    import vl_convert  # noqa: PLC0415

    made: str = vl_convert.javascript_bundle(SNIPPET, vl_version=VERSION)
    _keep(folder, name, made)
    return made


def cached(folder: Path, name: str) -> Iterator[str]:
    """Cached files of that name that are intact: the file name holds a hash of the content."""
    try:
        for path in sorted(folder.glob(f"{name}-*.js")):
            data = path.read_bytes()
            if path.stem == f"{name}-{_hash(data)}":
                yield data.decode("utf-8")
    except OSError:  # an unreadable cache is no error: the bundle is built again
        return


def _keep(folder: Path, name: str, made: str) -> None:
    data = made.encode("utf-8")
    place = folder / f"{name}-{_hash(data)}.js"
    with contextlib.suppress(OSError), beside(place) as whole:
        whole.write_bytes(data)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
