"""Quanto's compiled extensions, built once and then loaded as they are, because quanto builds them in the midst of what is to be timed.

Left to itself quanto asks torch to build at every first use: that takes a lock in its own folder and a compiler, even where all is built,
so a read-only installation and one without a compiler fail with a library that lies ready; and the CUDA extension would be built again in
an image that was made without a GPU, since the GPU stands in its flags. So a library that was built for this torch is loaded directly.
This module does not know weights.
"""

from __future__ import annotations

import importlib.util
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from optimum.quanto.library import extensions as quanto_extensions

__all__ = ["architecture", "build", "extension_failure", "unpack"]

CPP, CUDA = "quanto_cpp", "quanto_cuda"

MINUTES = {CPP: "about a minute", CUDA: "several minutes"}

_state: dict[str, str | None] = {}
_fallbacks: list[torch.library.Library] = []


def extension_failure(notify: Callable[[str], None] = lambda message: None) -> str | None:
    """None where quanto's extensions for this machine work, else why not, in one line; compiles them at the first call.

    Compiling takes about a minute (with CUDA several), needs a C++ compiler (and nvcc) and ninja, and happens once per installation: call
    this before anything is timed.
    """
    names = [name for name in (CPP, CUDA) if quanto_extensions.is_extension_available(name)]  # CUDA's only where there is a device
    failures = [failure for name in names if (failure := _once(name, notify)) is not None]
    return failures[0] if failures else None


def build(notify: Callable[[str], None] = lambda message: None) -> dict[str, str | None]:
    """Build all that this installation of torch has a use for, with a device or without: name -> failure, None where it is built.

    Where no device is there, as in the making of an image, the GPUs that are built for are those of ``TORCH_CUDA_ARCH_LIST``; without it
    the CUDA extension is left alone.
    """
    found = {CPP: _once(CPP, notify)}
    if quanto_extensions.is_extension_available(CUDA):
        found[CUDA] = _once(CUDA, notify)
    elif torch.version.cuda and (number := architecture(os.environ.get("TORCH_CUDA_ARCH_LIST", ""))):
        from optimum.quanto.library.extensions import cuda  # noqa: PLC0415  (registers itself; without a device quanto leaves it out)

        flags = [flag for flag in cuda.ext.extra_cuda_cflags if not flag.startswith("-DQUANTO_CUDA_ARCH=")]
        cuda.ext.extra_cuda_cflags = [*flags, f"-DQUANTO_CUDA_ARCH={number}"]
        found[CUDA] = _once(CUDA, notify)
    return found


def architecture(listed: str) -> str | None:
    """The newest GPU of a ``TORCH_CUDA_ARCH_LIST`` as quanto's sources want it; None where the list names none by number.

    >>> architecture("8.0;9.0+PTX"), architecture("8.6 10.0"), architecture("Hopper")
    ('900', '1000', None)
    """
    numbers = [(int(major), int(minor)) for major, minor in re.findall(r"(\d+)\.(\d)", listed)]
    return "{}{}0".format(*max(numbers)) if numbers else None


def _once(name: str, notify: Callable[[str], None]) -> str | None:
    if name not in _state:
        _state[name] = _ready(name, notify)
    return _state[name]


def _ready(name: str, notify: Callable[[str], None]) -> str | None:
    """Why an extension cannot be had, in one line; None where it is loaded."""
    extension = quanto_extensions.get_extension(name)
    if extension._lib is None and (library := _built(extension)) is not None:
        extension._lib = _loaded(name, library)
    if extension._lib is None:
        notify(f"compiling quanto's extension {name} (once per installation, {MINUTES[name]})")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about compiler versions, quanto about rebuilding
            loaded = extension.lib
            if name == CPP:
                loaded.unpack(torch.zeros(4, 4, dtype=torch.uint8), 4)
    except Exception as error:  # noqa: BLE001  (torch raises RuntimeError, OSError, ImportError or CalledProcessError, by what is missing)
        if name == CPP:
            _unpack_in_python()
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        what, needed = ("C++", "g++") if name == CPP else ("CUDA", "nvcc, g++")
        return f"quanto's {what} extension cannot be built ({lines[0][:200]}); install {needed} and ninja, and let its folder be writable"
    return None


def _built(extension: Any) -> Path | None:
    """The library that quanto built for this torch; None where there is none, or one for another torch."""
    folder = Path(extension.build_directory)
    library, version = folder / f"{extension.name}.so", folder / "pytorch_version.txt"
    try:
        return library if library.is_file() and version.read_text().strip() == torch.__version__ else None
    except OSError:  # it cannot be read, or was not finished
        return None


def _loaded(name: str, library: Path) -> Any:
    """The library as a module; None where it cannot be loaded: it is built again then."""
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError:  # built against another C++ library
        return None
    return module


def _unpack_in_python() -> None:
    """Let torch's own operations unpack: the same integers, but no time worth reporting."""
    library = torch.library.Library("quanto", "IMPL")  # noqa: TOR901  (kept below: its registrations end with it)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the compiled kernel's registration is overridden: that is the purpose
        library.impl("unpack", unpack, "CPU")
    _fallbacks.append(library)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Integers of 2 or 4 bits out of bytes, as quanto packs them: all lowest bits first, shape (rows * 8 / bits, ...), uint8.

    >>> unpack(torch.tensor([0b1110_0100], dtype=torch.uint8), 2).tolist()
    [0, 1, 2, 3]
    """
    return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])
