"""Collects the environment of a run, which must agree before times of two runs are compared. Reads versions without imports."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

from bitzones.schema.run_record import Environment

__all__ = ["PACKAGES", "collect", "cpu_name", "versions"]

PACKAGES = ("torch", "transformers", "optimum-quanto", "tokenizers", "safetensors", "accelerate", "numpy", "pytest-benchmark", "lm_eval")
"""Packages whose version can change a result."""


def versions() -> dict[str, str]:
    """Installed version of each package that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_name() -> str:
    """The model name of the processor if the system reports it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def collect(device: str, device_name: str, threads: int, quanto_extension: str) -> Environment:
    """The environment record of this process.

    Args:
        device: as torch writes it (``cpu``, ``cuda:0``).
        threads: that torch computes with.
        quanto_extension: ``built``, or why not.
    """
    return Environment(
        python=platform.python_version(),
        versions=versions(),
        platform=platform.platform(),
        cpu=cpu_name(),
        threads=threads,
        device=device,
        device_name=device_name,
        quanto_extension=quanto_extension,
    )
