"""The metrics of a run in the formats of github-action-benchmark and Bencher, which read only times from pytest-benchmark's own JSON.

github-action-benchmark: arrays of name, unit, value and range, one file for what is better smaller and one for what is better bigger
(https://github.com/benchmark-action/github-action-benchmark). Bencher: Bencher Metric Format
(https://bencher.dev/docs/reference/bencher-metric-format/).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Literal

from bitzones.regression.metrics import Reading
from bitzones.report.markdown.tables import plain

__all__ = ["FORMATS", "MetricsFormat", "metrics_files"]

MetricsFormat = Literal["github-action-benchmark", "bencher"]
FORMATS: tuple[MetricsFormat, ...] = ("github-action-benchmark", "bencher")

BENCHER_MEASURES = {"s": "latency", "share": "accuracy", "nats/token": "kl", "bytes": "stored-bytes", "ratio": "time-ratio"}
"""Slugs of Bencher's measures. ``latency`` is built in, in nanoseconds; the user creates the others once."""

NANOSECONDS = 1e9


def metrics_files(found: Iterable[Reading], form: MetricsFormat) -> dict[str, str]:
    """File name to text."""
    if form == "bencher":
        return {"bencher.json": _text(_bencher(found))}
    chosen = tuple(found)
    return {
        f"custom{which}IsBetter.json": _text([_github(item) for item in chosen if item.bigger_is_better == bigger])
        for which, bigger in (("Smaller", False), ("Bigger", True))
    }


def _text(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _github(item: Reading) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": plain(item.name), "unit": item.unit, "value": item.value}
    if item.low is not None and item.high is not None:
        entry["range"] = f"{item.low:.6g} to {item.high:.6g}"
    return {**entry, "extra": f"n = {item.n}"}


def _bencher(found: Iterable[Reading]) -> dict[str, Any]:
    result: dict[str, dict[str, Any]] = {}
    for item in found:
        scale = NANOSECONDS if item.unit == "s" else 1.0
        entry = {"value": item.value * scale}
        if item.low is not None and item.high is not None:
            entry |= {"lower_value": item.low * scale, "upper_value": item.high * scale}
        result.setdefault(plain(item.name), {})[BENCHER_MEASURES[item.unit]] = entry
    return result
