"""The stored runs as terminal lines."""

from __future__ import annotations

from collections.abc import Iterable

from bitzones.regression.baseline_store import KeptRun
from bitzones.report.markdown.tables import ABSENT, plain

__all__ = ["baseline_lines"]

RELEASES = ("torch", "transformers", "optimum-quanto")
"""Packages whose versions a line shows."""


def baseline_lines(runs: Iterable[KeptRun]) -> list[str]:
    """One line per run: time, model, versions, number of cells; for a broken file, what is wrong."""
    return [plain(_line(item), 400) for item in runs] or ["no bitzones run is stored here"]


def _line(item: KeptRun) -> str:
    if item.run is None:
        return f"broken: {item.fault}"
    run = item.run.run
    versions = run.environment.versions if run.environment else {}
    releases = ", ".join(f"{name} {versions[name]}" for name in RELEASES if name in versions)
    model = run.model.source if run.model else ABSENT
    device = run.environment.device_name if run.environment else ABSENT
    return f"{(item.run.measured_at or ABSENT)[:19]}  {item.path}  {model}, {len(item.run.cells)} cells, {releases}, {device}"
