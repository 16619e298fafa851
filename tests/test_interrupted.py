"""Ctrl-C in the middle of a cell: what was finished stays in the JSON, and the cell in flight says what happened to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest_benchmark

BENCH = """
from bitzones.errors import NotMeasuredError
from bitzones.records import Figure, MemoryCell

none = Figure(value=None, unit="bytes", status="unsupported")


def cell_of(_):
    return MemoryCell(variant="bf16", stored_bytes=1, stored_bytes_by_format={"bf16": 1}, process_rss=none, process_peak_rss=none,
                      device_allocated=none, device_used=none)


def interrupted(_):
    raise KeyboardInterrupt


def impossible(_):
    raise NotMeasuredError("this machine cannot")


def test_finished(cell):
    cell("memory", "bf16").measure(lambda: None, cell_of)


def test_impossible(cell):
    cell("latency", "w4", detail="decode").measure(lambda: None, impossible)


def test_in_flight(cell):
    cell("memory", "w8").measure(lambda: None, interrupted)


def test_never_reached(cell):
    cell("memory", "w4").measure(lambda: None, cell_of)
"""


def test_the_cells_before_an_interruption_are_kept(tmp_path: Path) -> None:
    assert pytest_benchmark.__version__
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["bitzones.measure.plugin"]\n')
    (tmp_path / "test_bench.py").write_text(BENCH)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", "--benchmark-json=run.json", "."]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    cells = {b["name"]: b["extra_info"]["bitzones"] for b in json.loads((tmp_path / "run.json").read_text())["benchmarks"]}
    assert list(cells) == ["test_finished", "test_impossible", "test_in_flight"]
    assert cells["test_finished"]["kind"] == "memory"
    assert (cells["test_impossible"]["status"], cells["test_impossible"]["reason"]) == ("not measured", "this machine cannot")
    assert (cells["test_in_flight"]["status"], cells["test_in_flight"]["reason"]) == ("failed", "interrupted")
