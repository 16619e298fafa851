"""The only place that knows about CUDA, so that every measurement reads the same on a GPU and on a CPU."""

from __future__ import annotations

import gc
import random
import resource
import sys

import numpy as np
import psutil
import torch

from bitzones.environment import cpu_name
from bitzones.errors import DeviceError
from bitzones.records import Figure

__all__ = [
    "allocated_bytes",
    "cache_elements",
    "compute_dtype",
    "cuda_names",
    "device_used_bytes",
    "dtype_of",
    "free",
    "is_out_of_memory",
    "name_of",
    "peak_rss_bytes",
    "resolve",
    "rss_bytes",
    "seed_everything",
    "synchronize",
]


CPU_CACHE_ELEMENTS = 2**17
"""Half a megabyte of float32: less than the second-level cache of a core, with room for what is made of it."""

CUDA_CHUNK_ELEMENTS = 2**26
"""A quarter of a gigabyte of float32: enough to occupy a GPU, small beside the logits of a batch."""


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
    return Figure(value=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, unit="bytes", status="ok")


def allocated_bytes(device: torch.device) -> Figure:
    """Peak of torch's allocations on the device; a CPU's allocator keeps no such count."""
    if device.type != "cuda":
        return Figure(value=None, unit="bytes", status="not measured (no CUDA device)")
    return Figure(value=torch.cuda.max_memory_allocated(device), unit="bytes", status="ok")


def device_used_bytes(device: torch.device) -> Figure:
    """Memory of the whole device in use, by every process."""
    if device.type != "cuda":
        return Figure(value=None, unit="bytes", status="not measured (no CUDA device)")
    available, total = torch.cuda.mem_get_info(device)
    return Figure(value=total - available, unit="bytes", status="ok")
