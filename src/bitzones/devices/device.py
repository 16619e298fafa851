"""Everything that differs between CUDA and the CPU: device selection, synchronization, memory counters, clocks and torch.compile."""

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
"""Half a megabyte of float32: fits in a core's L2 cache together with the intermediate results."""

CUDA_CHUNK_ELEMENTS = 2**26
"""A quarter of a gigabyte of float32: enough to keep a GPU busy, and small compared with the logits of a batch."""

BATCH_START_TOKENS = {False: 32, True: 2**13}
"""For CPU and CUDA: the fixed cost of one more batch, in tokens that a small model processes in that time. Every batch calls all layers and
unpacks all weights, which takes some 10 ms: a few tokens on a CPU, thousands on a GPU."""

CUDA_COMPILE = {"triton.cudagraphs": True, "coordinate_descent_tuning": True}
"""Options of torch.compile: CUDA graphs remove the launch overhead, and tuning turns a one-row matrix product into a reduction that comes
close to the memory bandwidth (see `mm` in torch/_inductor/decomposition.py; gpt-fast, H. He 2023, uses the same options)."""

COPY_BYTES = {False: 2**28, True: 2**30}
"""For CPU and CUDA: far larger than the last-level cache of either, so that memory is timed and not a cache."""

COPY_ROUNDS = 10
"""Each round takes a fraction of a second on a CPU and a millisecond on a GPU; the median of ten is stable."""

_ASKED = re.compile(r"ried to allocate (?P<count>\d+(?:\.\d+)?) (?P<unit>bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def resolve(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        DeviceError: the requested CUDA device does not exist on this machine or in this build of torch.
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
    """The dtype of the arithmetic. ``auto`` is the stored dtype on CUDA and float32 on a CPU.

    On a CPU without AVX512-BF16 or AMX, 16-bit matrix products were about 70 times slower than float32 (LOG.md). Widening is exact.
    """
    if asked != "auto":
        return dtype_of(asked)
    return stored if device.type == "cuda" else torch.float32


def cache_elements(device: torch.device) -> int:
    """A good number of elements to process at once, if nothing else limits it."""
    return CUDA_CHUNK_ELEMENTS if device.type == "cuda" else CPU_CACHE_ELEMENTS


def batch_start_tokens(device: torch.device) -> int:
    """The fixed cost of another batch, in tokens: less padding than this does not justify one."""
    return BATCH_START_TOKENS[device.type == "cuda"]


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype of a name, such as ``"bfloat16"``; profiles accept only names of dtypes."""
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and torch, on all devices."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (libraries draw from the legacy generator)
    torch.manual_seed(seed)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    """The name of the GPU, or the model of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def cuda_names() -> list[str]:
    """Names of the CUDA devices that torch sees."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def gpus(first: torch.device) -> list[torch.device]:
    """All CUDA devices, starting with the run's own; empty if the run is on the CPU."""
    if first.type != "cuda":
        return []
    return [first, *(other for number in range(torch.cuda.device_count()) if (other := torch.device("cuda", number)) != first)]


def free(device: torch.device) -> None:
    """Release unreferenced memory, so that one variant's memory is not attributed to the next."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the device or in host memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def rss_bytes() -> Figure:
    """Current resident memory of this process."""
    return Figure(value=psutil.Process().memory_info().rss, unit="bytes", status="ok")


def peak_rss_bytes() -> Figure:
    """Peak resident memory of this process since it started, earlier cells included."""
    scale = 1 if sys.platform == "darwin" else 1024  # getrusage(2): kilobytes on Linux, bytes on macOS
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    return Figure(value=max(highest, psutil.Process().memory_info().rss), unit="bytes", status="ok")  # the kernel's maximum lags a little


def reset_peaks(device: torch.device) -> None:
    """Reset the peaks that `allocated_bytes` and `reserved_bytes` return."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def allocated_bytes(device: torch.device) -> Figure:
    """Peak memory that torch allocated on the device since `reset_peaks`; torch does not count this on a CPU."""
    if device.type != "cuda":
        return missing("bytes", NO_DEVICE)
    return Figure(value=torch.cuda.max_memory_allocated(device), unit="bytes", status="ok")


def reserved_bytes(device: torch.device) -> Figure:
    """Peak memory that torch reserved on the device since `reset_peaks`, in use or cached."""
    if device.type != "cuda":
        return missing("bytes", NO_DEVICE)
    return Figure(value=torch.cuda.max_memory_reserved(device), unit="bytes", status="ok")


def free_bytes(device: torch.device) -> int:
    """Free memory of the device according to its driver, or available memory of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def shortage(error: BaseException, batch: int, device: torch.device) -> Shortage:
    """Records that memory ran out at a batch size. Only messages of torch's allocators say how many bytes were requested."""
    found = _ASKED.search(str(error))
    asked = round(float(found["count"]) * _UNITS[found["unit"]]) if found else None
    return Shortage(batch=batch, asked_bytes=asked, free_bytes=free_bytes(device))


def uuid_of(device: torch.device) -> str | None:
    """The UUID of a GPU as the driver lists it, without prefix; None for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


class Clock:
    """Times rounds on the device with CUDA events. A CPU has no separate clock."""

    def __init__(self, device: torch.device) -> None:
        self._events: list[tuple[Any, Any]] = []
        self._device = device

    def start(self) -> None:
        """Start a round."""
        if self._device.type == "cuda":
            self._events.append((torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)))
            self._events[-1][0].record(torch.cuda.current_stream(self._device))

    def stop(self) -> None:
        """End a round and wait for the device."""
        if self._device.type == "cuda":
            self._events[-1][1].record(torch.cuda.current_stream(self._device))
        synchronize(self._device)

    def rounds_s(self, last: int) -> tuple[float, ...] | None:
        """Seconds of the last rounds; None on a CPU."""
        if self._device.type != "cuda":
            return None
        return tuple(begin.elapsed_time(end) / 1000 for begin, end in self._events[-last:])


def copy_bandwidth(device: torch.device) -> Figure:
    """Memory bandwidth of the device in bytes per second: the median of `COPY_ROUNDS` large copies after one warmup copy.

    Counted as in STREAM's Copy (J. McCalpin): one byte read and one written for every byte copied.
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
    """The model under torch.compile with static shapes, using `CUDA_COMPILE` on a GPU. Compilation happens at the first call."""
    return torch.compile(model, options=dict(CUDA_COMPILE) if device.type == "cuda" else None, dynamic=False)


def is_compiler_error(error: BaseException) -> bool:
    """Whether an exception comes from torch.compile, and not from the model."""
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)


def forget_compiled() -> None:
    """Clear torch.compile's caches, so that one variant's guards are not checked for the next."""
    torch.compiler.reset()
