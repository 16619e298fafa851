"""What this machine can measure, and how to fix what it cannot. Run it first; paste it into an issue."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from bitzones.schema import environment

__all__ = ["Finding", "build", "examine"]

NEEDED = ("torch", "transformers", "optimum.quanto", "pytest_benchmark")
"""Modules that every measurement needs."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``advice`` is empty if nothing is wrong."""

    what: str
    found: str
    advice: str = ""


def build() -> Iterator[Finding]:
    """Build quanto's extensions, one finding each; without a GPU, for the architectures in ``TORCH_CUDA_ARCH_LIST``."""
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        yield Finding("extensions", f"not built: {', '.join(missing)} missing", "pip install 'bitzones[measure]'")
        return
    from bitzones.backends import registry

    for name, failure in registry.backend(registry.DEFAULT).build().items():
        yield Finding(name, failure or "built", "" if failure is None else "must build before anything can be timed")


def examine() -> Iterator[Finding]:
    """Report versions, processor, devices and quanto's extension (built if missing), one finding at a time."""
    for name, version in environment.versions().items():
        yield Finding(name, version)
    yield Finding("processor", f"{environment.cpu_name()}, {os.cpu_count()} logical cores")
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        yield Finding(
            "measuring", f"not possible: {', '.join(missing)} missing", "pip install 'bitzones[measure]' to measure; reports work without"
        )
        return
    yield from _devices()
    yield from _compiler()
    yield from _extension()


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _devices() -> Iterator[Finding]:
    from bitzones.devices import device

    names = device.cuda_names()
    for number, name in enumerate(names):
        yield Finding(f"cuda:{number}", name)
        yield _driver(number)
    if not names:
        yield Finding("CUDA", "no device", "not required; if nvidia-smi lists a GPU, install a CUDA build of torch")


def _driver(number: int) -> Finding:
    """Whether the driver reports memory, processes and energy of a GPU."""
    from bitzones.devices import device, nvml

    gpu = nvml.open_gpu(device.uuid_of(device.resolve(f"cuda:{number}")))
    figures = {"memory": gpu.used_bytes(), "this process": gpu.process_bytes(os.getpid()), "energy": gpu.energy_joules()}
    told = ", ".join(f"{name} {figure.status}" for name, figure in figures.items())
    wrong = any(figure.status == "no-library" for figure in figures.values())
    return Finding(
        f"NVML of cuda:{number}", told, "pip install 'bitzones[gpu]'; the driver must provide libnvidia-ml.so.1" if wrong else ""
    )


def _compiler() -> Iterator[Finding]:
    for tool, package in ((os.environ.get("CXX", "g++"), "g++"), ("ninja", "ninja")):
        path = shutil.which(tool)
        yield Finding(tool, path or "not found", "" if path else f"install {package}: quanto needs it to compile")


def _extension() -> Iterator[Finding]:
    from bitzones.backends import registry

    failure = registry.backend(registry.DEFAULT).prepare()
    if failure is None:
        yield Finding("quanto's extension", "built")
    else:
        yield Finding("quanto's extension", failure, "without it, everything but the latency of 4- and 2-bit weights can be measured")
