"""What changes while a cell runs is seen by its peak; what disturbs a cell is said; without a GPU nothing runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import nvml_stub
import pytest
from nvml_stub import UUID

from bitzones.devices import nvml
from bitzones.devices.gpu_monitor import Watch

SCRIPT = """
import os, sys, time
from bitzones.devices import nvml
from bitzones.devices.gpu_monitor import Watch

pid = os.getpid()
os.environ |= {"STUB_USED": "1000", "STUB_PROCESSES": f"{pid}:400"}
with Watch(nvml.open_gpu(sys.argv[1]), 0.005) as watch:
    time.sleep(0.05)
    os.environ |= {"STUB_USED": "9000", "STUB_PROCESSES": f"{pid}:700,4:1"}
    os.environ["STUB_REASONS"] = sys.argv[2]
    time.sleep(0.05)
    os.environ |= {"STUB_USED": "2000", "STUB_PROCESSES": sys.argv[3].format(pid=pid), "STUB_REASONS": "0"}
    time.sleep(0.02)
print(watch.reading().model_dump_json())
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_stub.build(tmp_path_factory.mktemp("nvml"))


def test_the_peak_of_a_cell_is_kept_and_its_disturbances_are_named(library: Path) -> None:
    found: Any = nvml_stub.ask(library, SCRIPT, UUID, "0x40", "{pid}:300")
    assert found["device_used_peak"]["value"] == 9000
    assert found["process_used_peak"]["value"] == 700
    assert found["other_processes"]["value"] == 1
    share = found["clocks_held"]["thermal slowdown (hardware)"]
    assert 0 < share < 1
    assert found["clocks_held_share"]["value"] == share
    held, beside = found["contended"]
    assert held == f"thermal slowdown (hardware) in {share:.0%} of {found['samples']} samples"
    assert beside == "1 other process on the GPU"
    assert (found["period_s"], found["samples"] >= 5) == (0.005, True)
    assert 0 <= found["coverage"] <= 1


def test_a_figure_that_came_once_stays_although_the_driver_stops_telling(library: Path) -> None:
    found: Any = nvml_stub.ask(library, SCRIPT, UUID, "0x1", "1:300")
    assert found["process_used_peak"] == {"value": 700.0, "unit": "bytes", "status": "ok"}
    assert found["clocks_held"] == {}
    assert found["clocks_held_share"]["value"] == 0


def test_without_a_gpu_no_thread_runs_and_every_figure_says_why() -> None:
    before = threading.active_count()
    with Watch(nvml.open_gpu(None)) as watch:
        assert threading.active_count() == before
    found = watch.reading()
    figures = (found.device_used_peak, found.process_used_peak, found.other_processes, found.clocks_held_share)
    assert {figure.status for figure in figures} == {"not measured (no CUDA device)"}
    assert (found.samples, found.coverage, found.contended, found.clocks_held) == (0, None, (), {})


def test_the_thread_ends_with_an_error_inside(library: Path) -> None:
    script = """
import json, sys, threading
from bitzones.devices import nvml
from bitzones.devices.gpu_monitor import Watch

try:
    with Watch(nvml.open_gpu(sys.argv[1])):
        assert threading.active_count() == 2
        raise ValueError
except ValueError:
    print(json.dumps(threading.active_count()))
"""
    assert nvml_stub.ask(library, script, UUID) == 1
