"""The colors of the layer map, and the text color that is legible on each."""

from __future__ import annotations

__all__ = ["INKS", "SHADES", "ink", "shade"]

SHADES = ("#fdf3d8", "#f6b65f", "#d9622b", "#6d1020")
"""From least to most sensitive, light to dark: the order survives grayscale print and color blindness."""

INKS = ("#000000", "#ffffff")
"""Text colors; `ink` picks the one with more contrast. One of black and white always has 4.5:1 (WCAG 2.2, 1.4.3)."""

Shade = tuple[int, int, int]


def shade(position: float) -> str:
    """The color at a position from 0 to 1, between its two neighbors in `SHADES` in RGB, as Vega interpolates."""
    return "#" + "".join(f"{channel:02x}" for channel in _shade(position))


def _shade(position: float) -> Shade:
    stops = [tuple(int(stop[at : at + 2], 16) for at in (1, 3, 5)) for stop in SHADES]
    place = min(max(position, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(place), len(stops) - 2)
    red, green, blue = (round(a + (b - a) * (place - left)) for a, b in zip(stops[left], stops[left + 1], strict=True))
    return red, green, blue


def ink(position: float) -> str:
    """The one of `INKS` that contrasts more with `shade` (relative luminance, WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in _shade(position))]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return INKS[0] if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else INKS[1]
