"""The one module that knows how a Vega-Lite chart becomes a picture, and where the JavaScript that draws it in a browser comes from.

Both come from vl-convert, which runs the same Vega outside a browser: a chart has one definition, whether it is looked at in the page, in
a paper or in a pull request. This module does not know what a chart shows.
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
"""A chart in the language of Vega-Lite."""

Files = dict[str, bytes]
"""Pictures by the names of their files."""

Drawn = Callable[[], Files]
"""Waits until they are drawn."""

Draw = Callable[[Mapping[str, Spec]], Drawn]
"""Is given charts as soon as they are known, and asked for their pictures when nothing else is left to do."""

VERSION = "6.4"
"""Of Vega-Lite. One number, so that a report looks the same whichever release of vl-convert made it."""

SCHEMA_URL = "https://vega.github.io/schema/vega-lite/v6.json"
"""What a chart names as its language; nothing is ever fetched from there."""

PICTURE_SCALE = 3.0
"""Pixels of a PNG per unit of the drawing: about 300 a printed inch at the width of a column."""

SNIPPET = "window.vegaEmbed = vegaEmbed;"

PICTURE_CONFIG: Spec = {"background": "white"}
"""A picture is pasted onto any ground, and its text is dark."""


def svg(chart: Spec) -> str:
    """The chart as an SVG of its own, on white."""
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
    """The charts are drawn by this process, when they are asked for."""
    return functools.partial(pictures, charts)


@functools.cache
def script() -> str:
    """JavaScript that defines ``vegaEmbed``, everything it needs included; the same for the same release of vl-convert.

    Bundling takes more than a second, so the result is kept in the user's cache folder (``BITZONES_CACHE``), and made anew where it is not
    there, is not what it was, or cannot be kept.
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
    """Whatever the folder holds under that name and is still what it was: its hash stands in the file's name."""
    try:
        for path in sorted(folder.glob(f"{name}-*.js")):
            data = path.read_bytes()
            if path.stem == f"{name}-{_hash(data)}":
                yield data.decode("utf-8")
    except OSError:  # no cache is no fault: the bundle is made again
        return


def _keep(folder: Path, name: str, made: str) -> None:
    data = made.encode("utf-8")
    place = folder / f"{name}-{_hash(data)}.js"
    with contextlib.suppress(OSError), beside(place) as whole:
        whole.write_bytes(data)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
