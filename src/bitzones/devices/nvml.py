"""What the NVIDIA driver says of one GPU: memory in use, whose it is, energy, and what holds the clocks down.

The only importer of ``pynvml``. Nothing here raises: a figure is a number or the reason why there is none, and 0 is never said where
nothing is known. In containers the list of processes can be empty, hold the host's process ids or 0 bytes; a GPU that is split (MIG)
refuses questions about the whole. This module knows no torch: a GPU is found by the UUID that torch gives for it.
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
"""The status of every figure of a GPU where there is none."""

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
"""What NVML returns, and what a report says. NOT_FOUND and INVALID_ARGUMENT come from asking for a UUID that the driver does not list."""

CLOCKS_HELD = {
    "SwPowerCap": "power cap",
    "HwSlowdown": "hardware slowdown",
    "SwThermalSlowdown": "thermal slowdown (software)",
    "HwThermalSlowdown": "thermal slowdown (hardware)",
    "HwPowerBrakeSlowdown": "power brake",
}
"""Clock event reasons that make a time doubtful. Idle, set by somebody and synchronised are none: such clocks are steady."""


def _status(error: Exception) -> str:
    code = getattr(error, "value", None)
    return next((said for name, said in _STATUS.items() if getattr(pynvml, name) == code), f"driver error {code}")


def missing(unit: str, status: str) -> Figure:
    """A figure that there is none of, and why."""
    return Figure(value=None, unit=unit, status=status)


@dataclass(frozen=True)
class Gpu:
    """One GPU, or the reason why nothing can be asked about it: ``handle`` is NVML's, None unless ``status`` is ``ok``.

    ``whole`` is the handle of the GPU itself, which alone knows energy and clocks: for an instance of a split GPU it is another.
    """

    status: str
    handle: Any = None
    whole: Any = None

    def used_bytes(self) -> Figure:
        """Memory in use by every process, without what the driver keeps for itself (which version 1 of this call counts as used)."""
        return self._figure("bytes", lambda: pynvml.nvmlDeviceGetMemoryInfo(self.handle, version=pynvml.nvmlMemory_v2).used)

    def process_bytes(self, pid: int) -> Figure:
        """Memory of one process. ``not-listed`` where the driver does not name it, ``unsupported`` where it names it without bytes."""
        listed = self._asked(lambda: _processes(self.handle))
        if isinstance(listed, str):
            return missing("bytes", listed)
        own = [process.usedGpuMemory for process in listed if process.pid == pid]
        if not own:
            return missing("bytes", "not-listed")
        return Figure(value=own[0], unit="bytes", status="ok") if own[0] else missing("bytes", "unsupported")

    def other_processes(self, pid: int) -> Figure:
        """How many other processes compute on this GPU. ``not-listed`` where ours is not named: one of the others may be ours."""
        listed = self._asked(lambda: _processes(self.handle))
        if isinstance(listed, str):
            return missing("processes", listed)
        pids = {process.pid for process in listed}
        return Figure(value=len(pids - {pid}), unit="processes", status="ok") if pid in pids else missing("processes", "not-listed")

    def energy_joules(self) -> Figure:
        """Energy of the whole GPU since the driver was loaded; Volta or newer."""
        if self.whole is not self.handle:
            return missing("J", "mig")  # the others' instances draw too
        return self._figure("J", lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(self.whole) / 1000)

    def clocks_held(self) -> tuple[str, ...] | str:
        """What holds the clocks down just now, in words (`CLOCKS_HELD`), or the status that says why that is not known."""
        mask = self._asked(lambda: _clock_reasons(self.whole))
        if isinstance(mask, str):
            return mask
        return tuple(said for name, said in CLOCKS_HELD.items() if mask & getattr(pynvml, f"nvmlClocksThrottleReason{name}"))

    def _asked(self, ask: Callable[[], T]) -> T | str:
        """The answer, or the status that stands for none."""
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
    """By its version: the call without one raises an error that is no `NVMLError` where the driver is older than pynvml."""
    return pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)


def _clock_reasons(handle: Any) -> int:
    """Drivers before 535 know the reasons by their older name only."""
    try:
        return int(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        return int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))


def open_gpu(uuid: str | None) -> Gpu:
    """The GPU, or the instance of a split one, that torch computes on.

    Args:
        uuid: as torch gives it, without prefix; None where there is no CUDA device.
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
    """By UUID, since ``CUDA_VISIBLE_DEVICES`` renumbers what NVML numbers otherwise."""
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
    except pynvml.NVMLError:  # a GPU that cannot be split
        return False


def _instances(whole: Any) -> dict[str, Any]:
    """UUID -> handle of every instance of a split GPU that this process may see."""
    found = {}
    for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(whole)):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(whole, number)
        except pynvml.NVMLError:  # no instance of that number
            continue
        found[str(pynvml.nvmlDeviceGetUUID(handle))] = handle
    return found
