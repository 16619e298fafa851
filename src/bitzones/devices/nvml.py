"""Queries the NVIDIA driver about one GPU through NVML: memory use by process, energy, and the reasons for throttled clocks.

Nothing here raises. A figure is a number or the reason why there is none, and an unknown figure is never 0. In a container the process
list can be empty, hold process IDs of the host, or report 0 bytes; a GPU partitioned with MIG rejects queries about the whole GPU. The GPU
is found by the UUID that torch reports.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from bitzones.schema.record import Figure

try:
    import pynvml
except ModuleNotFoundError:  # the extra 'gpu' is not installed
    pynvml = None

__all__ = ["NO_DEVICE", "Gpu", "missing", "open_gpu"]

T = TypeVar("T")

NO_DEVICE = "not measured (no CUDA device)"
"""The status of every GPU figure on a machine without a GPU."""

_STATUS = {
    "NVML_ERROR_LIBRARY_NOT_FOUND": "no-library",
    "NVML_ERROR_DRIVER_NOT_LOADED": "no-driver",
    "NVML_ERROR_LIB_RM_VERSION_MISMATCH": "no-driver",
    "NVML_ERROR_NO_PERMISSION": "no-permission",
    "NVML_ERROR_NOT_SUPPORTED": "unsupported",
    "NVML_ERROR_FUNCTION_NOT_FOUND": "unsupported",
    "NVML_ERROR_ARGUMENT_VERSION_MISMATCH": "unsupported",
    "NVML_ERROR_NOT_FOUND": "not-listed",
    "NVML_ERROR_INVALID_ARGUMENT": "not-listed",
}
"""NVML error -> the status in a report. A UUID that the driver does not list gives NOT_FOUND or INVALID_ARGUMENT."""

CLOCKS_HELD = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal slowdown (software)",
    "HwThermalSlowdown": "thermal slowdown (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}
"""Clock event reasons that make a time doubtful. Idle, user-set and synchronized clocks are left out: they are steady."""


def _status(error: Exception) -> str:
    code = getattr(error, "value", None)
    return next((said for name, said in _STATUS.items() if getattr(pynvml, name) == code), f"driver error {code}")


def missing(unit: str, status: str) -> Figure:
    """A figure without a value, and the reason."""
    return Figure(value=None, unit=unit, status=status)


@dataclass(frozen=True)
class Gpu:
    """One GPU, or the reason why it cannot be queried: ``handle`` is None unless ``status`` is ``ok``.

    ``whole`` is the handle of the physical GPU, which is the one that reports energy and clocks. It differs from ``handle`` for a MIG
    instance.
    """

    status: str
    handle: Any = None
    whole: Any = None

    def used_bytes(self) -> Figure:
        """Memory in use by all processes, without the driver's own reservation, which version 1 of this call counts as used."""
        return self._figure("bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(self.handle, version=pynvml.nvmlMemory_v2).used)

    def process_bytes(self, pid: int) -> Figure:
        """Memory of one process. ``not-listed`` if the driver does not list it, ``unsupported`` if it lists it without bytes."""
        listed = self._asked(lambda: _processes(self.handle))
        if isinstance(listed, str):
            return missing("bytes", listed)
        own = [process.usedGpuMemory for process in listed if process.pid == pid]
        if not own:
            return missing("bytes", "not-listed")
        return Figure(value=own[0], unit="bytes", status="ok") if own[0] else missing("bytes", "unsupported")

    def other_processes(self, pid: int) -> Figure:
        """Number of other compute processes on this GPU. ``not-listed`` if this process is not listed: one of the others may be it."""
        listed = self._asked(lambda: _processes(self.handle))
        if isinstance(listed, str):
            return missing("processes", listed)
        pids = {process.pid for process in listed}
        return Figure(value=len(pids - {pid}), unit="processes", status="ok") if pid in pids else missing("processes", "not-listed")

    def energy_joules(self) -> Figure:
        """Energy of the physical GPU since the driver was loaded; Volta or newer."""
        if self.whole is not self.handle:
            return missing("J", "mig")  # other instances contribute to the counter
        return self._figure("J", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self.whole) / 1000)

    def clocks_held(self) -> tuple[str, ...] | str:
        """Why the clocks are throttled at this moment (`CLOCKS_HELD`), or the status if that is unknown."""
        mask = self._asked(lambda: _clock_reasons(self.whole))
        if isinstance(mask, str):
            return mask
        return tuple(said for name, said in CLOCKS_HELD.items() if mask & getattr(pynvml, f"nvmlClocksThrottleReason{name}"))

    def _asked(self, ask: Callable[[], T]) -> T | str:
        """The result of a query, or the status of its error."""
        if self.handle is None:
            return self.status
        try:
            return ask()
        except pynvml.NVMLError as error:
            return _status(error)

    def _figure(self, unit: str, ask: Callable[[], float]) -> Figure:
        answer = self._asked(ask)
        return missing(unit, answer) if isinstance(answer, str) else Figure(value=answer, unit=unit, status="ok")


def _processes(handle: Any) -> Any:
    """Calls version 3 explicitly: with a driver older than pynvml, the unversioned call raises an error that is not an `NVMLError`."""
    return pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)


def _clock_reasons(handle: Any) -> int:
    """Drivers before 535 have this query under its old name only."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def open_gpu(uuid: str | None) -> Gpu:
    """The GPU, or the MIG instance, that torch computes on.

    Args:
        uuid: as torch reports it, without prefix; None if there is no CUDA device.
    """
    if uuid is None:
        return Gpu(NO_DEVICE)
    if pynvml is None:
        return Gpu("no-library")
    try:
        pynvml.nvmlInit()
        return _found(uuid)
    except pynvml.NVMLError as error:
        return Gpu(_status(error))


def _found(uuid: str) -> Gpu:
    """Finds the GPU by UUID, because ``CUDA_VISIBLE_DEVICES`` renumbers devices for torch but not for NVML."""
    try:
        whole = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except pynvml.NVMLError as error:
        if _status(error) != "not-listed":
            raise
        instance = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")
        return Gpu("ok", instance, pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance))
    if not _is_split(whole):
        return Gpu("ok", whole, whole)
    instances = _instances(whole)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    named = [handle for name, handle in instances.items() if name in visible.split(",")]
    chosen = named or list(instances.values())
    return Gpu("ok", chosen[0], whole) if len(chosen) == 1 else Gpu("mig")


def _is_split(whole: Any) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(whole)[0] == pynvml.NVML_DEVICE_MIG_ENABLE)
    except pynvml.NVMLError:  # the GPU does not support MIG
        return False


def _instances(whole: Any) -> dict[str, Any]:
    """UUID -> handle of every MIG instance that is visible to this process."""
    found = {}
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number)
        except pynvml.NVMLError:  # no instance with this number
            continue
        found[str(pynvml.nvmlDeviceGetUUID(handle))] = handle
    return found
