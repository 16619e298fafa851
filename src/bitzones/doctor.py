"""What this machine can measure, and what to do where it cannot: the first thing to run, and the first thing to paste into an issue."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from bitzones import environment

__all__ = ["Finding", "examine"]

NEEDED = ("torch", "transformers", "optimum.quanto", "pytest_benchmark")
"""Modules without which nothing is measured."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; ``advice`` is empty where nothing is wrong."""

    what: str
    found: str
    advice: str = ""


def examine() -> Iterator[Finding]:
    """Look at versions, processor, devices and quanto's extension (compiling it if it is not there), one finding at a time."""
    for name, version in environment.versions().items():
        yield Finding(name, version)
    yield Finding("processor", f"{environment.cpu_name()}, {os.cpu_count()} logical cores")
    missing = [name for name in NEEDED if not _is_there(name)]
    if missing:
        yield Finding("measuring", f"not possible: {', '.join(missing)} missing", "pip install 'bitzones[measure]'; a report needs none")
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
    from bitzones.measure import device

    names = device.cuda_names()
    for number, name in enumerate(names):
        yield Finding(f"cuda:{number}", name)
    if not names:
        yield Finding("CUDA", "no device", "none is needed; for a GPU, a CUDA build of torch where nvidia-smi lists one")


def _compiler() -> Iterator[Finding]:
    for tool, package in ((os.environ.get("CXX", "g++"), "g++"), ("ninja", "ninja")):
        path = shutil.which(tool)
        yield Finding(tool, path or "not found", "" if path else f"install {package}: quanto compiles with it")


def _extension() -> Iterator[Finding]:
    from bitzones.measure import quantizers

    failure = quantizers.extension_failure()
    if failure is None:
        yield Finding("quanto's extension", "built")
    else:
        yield Finding("quanto's extension", failure, "all but the latency of 4- and 2-bit weights is measured without it")
