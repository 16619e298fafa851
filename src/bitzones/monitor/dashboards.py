"""A Grafana dashboard and Prometheus alert rules for the metrics of `bitzones.monitor.prometheus_metrics`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from bitzones.schema.files import write_text

__all__ = ["ASSETS", "asset", "write_assets"]

ASSETS = ("grafana.json", "alerts.yml")


def asset(name: str) -> str:
    """The text of one of `ASSETS`."""
    return (files("bitzones.monitor") / "assets" / name).read_text(encoding="utf-8")


def write_assets(folder: Path) -> tuple[Path, ...]:
    """Write all of them.

    Raises:
        OutputError: a file cannot be written.
    """
    for name in ASSETS:
        write_text(folder / name, asset(name))
    return tuple(folder / name for name in ASSETS)
