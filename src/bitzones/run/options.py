"""The plugin's options. Imports nothing heavy, because the plugin is loaded into every test suite of an environment."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

__all__ = ["ACTIVATING", "add"]

ACTIVATING = (
    "bitzones",
    "bitzones_profile",
    "bitzones_data",
    "bitzones_limit",
    "bitzones_journal",
    "bitzones_resume",
    "bitzones_sweep",
    "bitzones_ray",
    "bitzones_run",
    "bitzones_duet",
)
"""Any of these activates the plugin."""


def add(parser: pytest.Parser) -> None:
    """Add the options to pytest's command line."""
    group = parser.getgroup("bitzones")
    group.addoption("--bitzones", action="store_true", help="load the profile at startup; end with the run's result and its failed cells")
    group.addoption(
        "--bitzones-profile",
        metavar="NAME|PATH",
        default=None,
        help="the profile: the name of an installed one ('bitzones profiles' lists them) or a TOML file (default: $BITZONES_PROFILE, "
        "else tiny)",
    )
    group.addoption(
        "--bitzones-data",
        metavar="FOLDER",
        default=None,
        help="published data sets in the hub's layouts: ai2_arc, svamp (default: $BITZONES_DATA)",
    )
    group.addoption("--bitzones-limit", metavar="N", type=_items, default=None, help="items per task, instead of the profile's limits")
    group.addoption("--bitzones-journal", metavar="FILE", type=Path, default=None, help="append every finished cell to this file")
    group.addoption("--bitzones-resume", action="store_true", help="take finished cells from --bitzones-journal")
    group.addoption(
        "--bitzones-sweep",
        metavar="SWEEP.json",
        type=Path,
        default=None,
        help="take the sensitivities from this file, which 'bitzones merge' wrote; needs --bitzones-journal",
    )
    group.addoption("--bitzones-ray", metavar="ADDRESS", default=None, help="measure the sensitivities on this Ray cluster, or on 'local'")
    group.addoption(
        "--bitzones-duet",
        metavar="OLD",
        default=None,
        help="time every latency cell against this environment too, as 'bitzones duet OLD this' does",
    )
    group.addoption(
        "--bitzones-run",
        metavar="RUN.json",
        type=Path,
        default=None,
        help="the run for the fixture bitzones_run, instead of measuring the profile",
    )


def _items(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of items; give 1 or more")
    return int(text)
