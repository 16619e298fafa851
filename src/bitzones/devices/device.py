"""The only place that knows about CUDA, so that every measurement reads the same on a GPU and on a CPU."""

from __future__ import annotations

import gc
import random
import re
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
import psutil
import torch

from bitzones.devices.nvml import NO_DEVICE, missing
from bitzones.schema.environment import cpu_name
from bitzones.schema.errors import DeviceError
from bitzones.schema.record import Figure, Shortage

__all__ = [
    "Clock",
    "allocated_bytes",
    "batch_start_tokens",
    "cache_elements",
    "compiled",
    "compute_dtype",
    "copy_bandwidth",
    "cuda_names",
    "dtype_of",
    "forget_compiled",
    "free",
    "free_bytes",
    "gpus",
    "is_compiler_error",
    "is_out_of_memory",
    "name_of",
    "peak_rss_bytes",
    "reserved_bytes",
    "reset_peaks",
    "resolve",
    "rss_bytes",
    "seed_everything",
    "shortage",
    "synchronize",
    "uuid_of",
]

CPU_CACHE_ELEMENTS = 2**17
"""Half a megabyte of float32: less than the second-level cache of a core, with room for what is made of it."""

CUDA_CHUNK_ELEMENTS = 2**26
"""A quarter of a gigabyte of float32: enough to occupy a GPU, small beside the logits of a batch."""

BATCH_START_TOKENS = {False: 32, True: 2**13}
"""For a CPU and for CUDA: tokens that a small model computes in the time that one more batch takes to begin. Layers are called and weights
unpacked once for each: hundredths of a second, in which a CPU computes a few tokens and a GPU thousands."""

CUDA_COMPILE = {"triton.cudagraphs": True, "coordinate_descent_tuning": True}
"""Of torch.compile: no kernel is launched by hand, and a product with one row is written as a reduction and tuned, which is what comes near
the bandwidth of memory (torch/_inductor/decomposition.py says so of `mm`; gpt-fast, H. He 2023, does the same)."""

COPY_BYTES = {False: 2**28, True: 2**30}
"""For a CPU and for CUDA: far more than the last cache of either holds, so that memory is timed."""

COPY_ROUNDS = 10
"""Each takes a fraction of a second on a CPU and a millisecond on a GPU; their median is steady."""

_ASKED = re.compile(r"ried to allocate (?P<count>\d+(?:\.\d+)?) (?P<unit>bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def resolve(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a device that is there.

    Raises:
        DeviceError: a CUDA device was asked for and this machine, or this build of torch, has none of that number.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    number = int(name.partition(":")[2] or 0)
    if not torch.cuda.is_available():
        why = "this torch is a CPU build" if torch.version.cuda is None else "no CUDA device is visible"
        raise DeviceError(f"device {name!r} was asked for, but {why}; use device = 'auto' or 'cpu'")
    if number >= torch.cuda.device_count():
        raise DeviceError(f"device {name!r} was asked for, but there are only cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    return torch.device("cuda", number)


def compute_dtype(device: torch.device, asked: str, stored: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: what was asked for, or for ``auto`` the stored dtype on CUDA and float32 on a CPU.

    A 16-bit matrix product on a CPU without AVX512-BF16 or AMX ran some 70 times slower than float32 (LOG.md); widening loses nothing.
    """
    if asked != "auto":
        return dtype_of(asked)
    return stored if device.type == "cuda" else torch.float32


def cache_elements(device: torch.device) -> int:
    """Numbers that are best worked on at a time where nothing else limits it."""
    return CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CPU_CACHE_ELEMENTS


def batch_start_tokens(device: torch.device) -> int:
    """What beginning another batch costs, in tokens: fewer of padding are not worth one."""
    return BATCH_START_TOKENS[device.type == "cuda"]


def dtype_of(name: str) -> torch.dtype:
    """``"bfloat16"`` as ``torch.bfloat16``; profiles admit only real dtypes."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators, of all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from the legacy generator)
    torch.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    """What the device calls itself: the GPU's name, or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def cuda_names() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def gpus(first: torch.device) -> list[torch.device]:
    """All CUDA devices, the run's own first; none where it runs on the CPU."""
    if first.type != "cuda":
        return []
    return [first, *(other for number in range(torch.cuda.device_count()) if (other := torch.device("cuda", number)) != first)]


def free(device: torch.device) -> None:
    """Give back what nothing refers to any more, so that one variant's memory is not counted with the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the device or (torch's allocator on a CPU) in the process."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def rss_bytes() -> Figure:
    """Resident memory of this process now."""
    return Figure(value=psutil.Process().memory_info().rss, unit="bytes", status="ok")


def peak_rss_bytes() -> Figure:
    """Largest resident memory that this process ever had: earlier cells count."""
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes on Linux, bytes on macOS
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return Figure(value=max(highest, psutil.Process().memory_info().rss), unit="bytes", status="ok")  # the kernel's count lags a little


def reset_peaks(device: torch.device) -> None:
    """Let `allocated_bytes` and `reserved_bytes` count from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def allocated_bytes(device: torch.device) -> Figure:
    """Peak of what torch had handed out on the device since `reset_peaks`; a CPU's allocator keeps no such count."""
    if device.type != "cuda":
        return missing("bytes", NO_DEVICE)
    return Figure(value=torch.cuda.max_memory_allocated(device), unit="bytes", status="ok")


def reserved_bytes(device: torch.device) -> Figure:
    """Peak of what torch had taken from the device since `reset_peaks`, in use or kept for later."""
    if device.type != "cuda":
        return missing("bytes", NO_DEVICE)
    return Figure(value=torch.cuda.max_memory_reserved(device), unit="bytes", status="ok")


def free_bytes(device: torch.device) -> int:
    """What is left: of the device as its driver counts, or of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def shortage(error: BaseException, batch: int, device: torch.device) -> Shortage:
    """The record of memory that ran out at a batch size; the bytes that were asked for stand in the message of torch's allocators only."""
    found = _ASKED.search(str(error))
    asked = round(float(found["count"]) * _UNITS[found["unit"]]) if found else None
    return Shortage(batch=batch, asked_bytes=asked, free_bytes=free_bytes(device))


def uuid_of(device: torch.device) -> str | None:
    """The UUID by which the driver knows a GPU, without prefix; None for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


class Clock:
    """Times rounds by the device's own clock: CUDA events around what is given to it. A CPU has no clock of its own."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[tuple[Any, Any]] = []
        self._device = device

    def start(self) -> None:
        """A round begins."""
        if self._device.type == "cuda":
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record(torch.cuda.current_stream(self._device))

    def stop(self) -> None:
        """A round ends: waits for the device."""
        if self._device.type == "cuda":
            self._events[-1][1].record(torch.cuda.current_stream(self._device))
        synchronize(self._device)

    def rounds_s(self, last: int) -> tuple[float, ...] | None:
        """Seconds of the last rounds; None where the device has no clock."""
        if self._device.type != "cuda":
            return None
        return tuple(begin.elapsed_time(end) / 1000 for begin, end in self._events[-last:])


def copy_bandwidth(device: torch.device) -> Figure:
    """Bytes per second that a large copy reads and writes on the device: the median of `COPY_ROUNDS`, the first not counted.

    The way of STREAM's Copy (J. McCalpin): one byte read and one written for each that is copied.
    """
    size = min(COPY_BYTES[device.type == "cuda"], free_bytes(device) // 4)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target, clock, walls = torch.zeros_like(source), Clock(device), []
    for _ in range(COPY_ROUNDS + 1):
        clock.start()
        began = time.perf_counter()
        target.copy_(source)
        clock.stop()
        walls.append(time.perf_counter() - began)
    rounds = clock.rounds_s(COPY_ROUNDS) or walls[-COPY_ROUNDS:]
    return Figure(value=2 * size / statistics.median(rounds), unit="bytes/s", status="ok")


def compiled(model: torch.nn.Module, device: torch.device) -> Any:
    """A model through torch.compile for fixed shapes: with `CUDA_COMPILE` on a GPU, plain on a CPU. Compiles when it is first called."""
    return torch.compile(model, options=dict(CUDA_COMPILE) if device.type == "cuda" else None, dynamic=False)


def is_compiler_error(error: BaseException) -> bool:
    """Whether an exception comes from torch.compile refusing a model, and not from the model."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def forget_compiled() -> None:
    """Drop what was compiled, so that one variant's code is not looked through for the next."""
    torch.compiler.reset()
