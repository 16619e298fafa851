"""Every figure of a GPU is a number or the reason why there is none, asked through the real pynvml of a library that the test compiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nvml_stub
import pytest
from nvml_stub import UUID

from bitzones.devices import nvml

SCENARIOS: dict[str, dict[str, str]] = {
    "ok": {"STUB_USED": "3000", "STUB_PROCESSES": "{pid}:2000,7:500", "STUB_ENERGY": "1500", "STUB_REASONS": "0x44"},
    "idle clocks": {"STUB_REASONS": "0x113"},
    "older driver": {"STUB_REASONS": "0x4", "STUB_FAIL": "nvmlDeviceGetCurrentClocksEventReasons=13"},
    "no driver": {"STUB_FAIL": "nvmlInitWithFlags=9"},
    "driver of another version": {"STUB_FAIL": "nvmlInitWithFlags=18"},
    "no permission": {"STUB_FAIL": "nvmlDeviceGetMemoryInfo_v2=4,nvmlDeviceGetComputeRunningProcesses_v3=4"},
    "no permission to start": {"STUB_FAIL": "nvmlInitWithFlags=4"},
    "unsupported": {
        "STUB_FAIL": "nvmlDeviceGetMemoryInfo_v2=3,nvmlDeviceGetComputeRunningProcesses_v3=13,"
        "nvmlDeviceGetTotalEnergyConsumption=3,nvmlDeviceGetCurrentClocksEventReasons=3"
    },
    "lost": {"STUB_FAIL": "nvmlDeviceGetMemoryInfo_v2=15"},
    "another GPU": {"STUB_UUID": "GPU-other"},
    "empty list": {"STUB_PROCESSES": ""},
    "host pids": {"STUB_PROCESSES": "1:900,2:800"},
    "zero bytes": {"STUB_PROCESSES": "{pid}:0"},
    "no bytes": {"STUB_PROCESSES": "{pid}:18446744073709551615"},
    "cannot be split": {"STUB_USED": "5", "STUB_FAIL": "nvmlDeviceGetMigMode=3"},
    "one instance": {"STUB_INSTANCES": "1", "STUB_USED": "1000", "STUB_ENERGY": "7"},
    "instances": {"STUB_INSTANCES": "2"},
    "instance that is visible": {"STUB_INSTANCES": "3", "CUDA_VISIBLE_DEVICES": "MIG-2", "STUB_USED": "1000"},
    "uuid of an instance": {"STUB_INSTANCES": "2", "UUID": "1", "STUB_USED": "1000"},
}

SCRIPT = """
import json, os, sys
from bitzones.devices import nvml

answers = {}
for name, environment in json.loads(sys.argv[1]).items():
    for key in [key for key in os.environ if key.startswith("STUB_") and key != "STUB_UUID" or key == "CUDA_VISIBLE_DEVICES"]:
        del os.environ[key]
    os.environ["STUB_UUID"] = "GPU-" + sys.argv[2]
    os.environ.update({key: value.format(pid=os.getpid()) for key, value in environment.items()})
    gpu = nvml.open_gpu(environment.get("UUID", sys.argv[2]))
    pid = os.getpid()
    figures = {"used": gpu.used_bytes(), "process": gpu.process_bytes(pid), "others": gpu.other_processes(pid)}
    figures["energy"] = gpu.energy_joules()
    answers[name] = {key: [figure.value, figure.status, figure.unit] for key, figure in figures.items()}
    answers[name] |= {"clocks": gpu.clocks_held(), "status": gpu.status}
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nvml_stub.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def answers(library: Path) -> Any:
    return nvml_stub.ask(library, SCRIPT, json.dumps(SCENARIOS), UUID)


def test_numbers_with_their_units(answers: Any) -> None:
    found = answers["ok"]
    assert found["used"] == [3000, "ok", "bytes"]
    assert found["process"] == [2000, "ok", "bytes"]
    assert found["others"] == [1, "ok", "processes"]
    assert found["energy"] == [1.5, "ok", "J"]
    assert found["clocks"] == ["power cap", "thermal slowdown (hardware)"]


def test_clocks_that_rest_or_were_set_disturb_nothing(answers: Any) -> None:
    assert answers["idle clocks"]["clocks"] == []
    assert answers["older driver"]["clocks"] == ["power cap"]


@pytest.mark.parametrize(
    ("scenario", "status"),
    [
        ("no driver", "no-driver"),
        ("driver of another version", "no-driver"),
        ("no permission to start", "no-permission"),
        ("another GPU", "not-listed"),
        ("instances", "mig"),
    ],
)
def test_a_gpu_that_cannot_be_asked_says_so_everywhere(answers: Any, scenario: str, status: str) -> None:
    found = answers[scenario]
    for name in ("used", "process", "others"):
        assert found[name][:2] == [None, status]
    assert (found["clocks"], found["status"]) == (status, status)


@pytest.mark.parametrize(
    ("scenario", "statuses"),
    [
        ("no permission", {"used": "no-permission", "process": "no-permission", "others": "no-permission", "energy": "ok"}),
        ("unsupported", {"used": "unsupported", "process": "unsupported", "others": "unsupported", "energy": "unsupported"}),
        ("lost", {"used": "driver error 15"}),
        ("empty list", {"process": "not-listed", "others": "not-listed"}),
        ("host pids", {"process": "not-listed", "others": "not-listed"}),
        ("zero bytes", {"process": "unsupported", "others": "ok"}),
        ("no bytes", {"process": "unsupported", "others": "ok"}),
    ],
)
def test_what_the_driver_does_not_tell_is_null_with_its_reason(answers: Any, scenario: str, statuses: dict[str, str]) -> None:
    found = answers[scenario]
    assert {name: found[name][1] for name in statuses} == statuses
    assert all(found[name][0] is None for name, status in statuses.items() if status != "ok")
    if scenario == "unsupported":
        assert found["clocks"] == "unsupported"


def test_the_instance_of_a_split_gpu_is_found(answers: Any) -> None:
    assert answers["cannot be split"]["used"][0] == 5
    assert answers["one instance"]["used"][0] == 1000 + 100, "the GPU was asked, not its instance"
    assert answers["instance that is visible"]["used"][0] == 1000 + 102
    assert answers["uuid of an instance"]["used"][0] == 1000 + 101
    assert answers["one instance"]["energy"] == [None, "mig", "J"]


ONE = """
import json, sys
from bitzones.devices import nvml

gpu = nvml.open_gpu(sys.argv[1])
print(json.dumps([gpu.used_bytes().status, gpu.clocks_held(), gpu.energy_joules().status]))
"""


def test_without_the_driver_s_library(tmp_path: Path) -> None:
    (tmp_path / nvml_stub.LIBRARY).write_bytes(b"")  # found first, and no library: the same on a machine that has a driver
    assert nvml_stub.ask(tmp_path, ONE, UUID)[:2] == ["no-library", "no-library"]


def test_without_pynvml(library: Path) -> None:
    assert nvml_stub.ask(library, f"import sys; sys.modules['pynvml'] = None\n{ONE}", UUID)[:2] == ["no-library", "no-library"]


def test_without_a_device_nothing_is_asked() -> None:
    gpu = nvml.open_gpu(None)
    for figure in (gpu.used_bytes(), gpu.process_bytes(1), gpu.other_processes(1)):
        assert (figure.value, figure.status) == (None, "not measured (no CUDA device)")
    assert gpu.clocks_held() == nvml.NO_DEVICE
