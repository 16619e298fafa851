"""Joules per token from the driver's counter, idle subtracted, through the real pynvml: known answers, and null where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nvml_stub
import pytest
from nvml_stub import UUID

from bitzones.devices import energy, nvml

SCRIPT = """
import json, sys
from bitzones.devices import energy; from bitzones.devices import nvml
from bitzones.schema.record import Figure

gpu = nvml.open_gpu(sys.argv[1])
runs = []
watts = energy.idle_watts(gpu, 0.05)
idle = Figure(value=float(sys.argv[2]), unit="W", status="ok")
used = energy.per_token(gpu, idle if watts.status == "ok" else watts, lambda: runs.append(1), 4, float(sys.argv[3]))
print(json.dumps({"watts": watts.model_dump(), "runs": len(runs), **used.model_dump()}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_stub.build(tmp_path_factory.mktemp("nvml"))


def test_what_is_above_idle_is_shared_among_the_tokens(library: Path) -> None:
    found: Any = nvml_stub.ask(library, SCRIPT, UUID, "10", "0.02", STUB_ENERGY="9000", STUB_ENERGY_STEP="5000")
    assert 0 < found["watts"]["value"] <= 5 / 0.05
    assert found["tokens"] == 4 * found["runs"] > 0
    assert found["window_s"] >= 0.02
    assert found["per_token"]["value"] == pytest.approx((5 - 10 * found["window_s"]) / found["tokens"])
    assert (found["per_token"]["unit"], found["per_token"]["status"], found["idle"]["value"]) == ("J/token", "ok", 10)


def test_a_run_longer_than_the_window_is_run_once(library: Path) -> None:
    assert nvml_stub.ask(library, SCRIPT, UUID, "0", "0", STUB_ENERGY_STEP="1")["runs"] == 1


def test_what_does_not_rise_above_idle_is_null_and_not_0(library: Path) -> None:
    found: Any = nvml_stub.ask(library, SCRIPT, UUID, "0", "0", STUB_ENERGY="9000")
    assert found["per_token"] == {"value": None, "unit": "J/token", "status": "not seen above idle"}


def test_a_gpu_that_does_not_count(library: Path) -> None:
    found: Any = nvml_stub.ask(library, SCRIPT, UUID, "0", "0", STUB_FAIL="nvmlDeviceGetTotalEnergyConsumption=3")
    assert (found["watts"]["status"], found["per_token"]["status"], found["runs"]) == ("unsupported", "unsupported", 0)


def test_without_a_gpu_nothing_is_waited_for_nor_run() -> None:
    idle = energy.idle_watts(nvml.open_gpu(None), window_s=1000)
    assert (idle.value, idle.unit, idle.status) == (None, "W", nvml.NO_DEVICE)
    found = energy.per_token(nvml.open_gpu(None), idle, lambda: pytest.fail("it was run"), 1)
    assert (found.per_token.status, found.idle, found.tokens) == (nvml.NO_DEVICE, idle, 0)
