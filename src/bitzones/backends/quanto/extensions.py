"""Builds and loads quanto's compiled extensions before anything is timed; quanto alone would build them at their first use.

quanto asks torch to build at the first use in every process. That needs a lock in quanto's own folder and a compiler even if the library
is already built, so it fails in a read-only installation and on a machine without a compiler. And because the GPU architecture is one of
the compiler flags, an image that was built without a GPU would compile the CUDA extension again. So a library that was built for this
version of torch is loaded directly. And a build that was killed leaves torch's own lock behind, a file for which every later process would
wait forever; here the operating system releases the lock with the process.
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
from filelock import FileLock
from optimum.quanto.library import extensions as quanto_extensions

__all__ = ["architecture", "build", "extension_failure", "unpack"]

CPP, CUDA = "quanto_cpp", "quanto_cuda"

MINUTES = {CPP: "about a minute", CUDA: "several minutes"}

_TORCH_LOCK = "lock"
"""torch.utils.cpp_extension creates this file in the build folder, and waits while it is there."""

_state: dict[str, str | None] = {}
_fallbacks: list[torch.library.Library] = []


def extension_failure(notify: Callable[[str], None] = lambda message: None) -> str | None:
    """None if quanto's extensions work on this machine, else the reason in one line. Compiles them if needed.

    Compiling happens once per installation, takes about a minute (with CUDA several) and needs ninja and a C++ compiler (with CUDA also
    nvcc). Call this before anything is timed.
    """
    names = [name for name in (CPP, CUDA) if quanto_extensions.is_extension_available(name)]  # CUDA only if there is a device
    failures = [failure for name in names if (failure := _once(name, notify)) is not None]
    return failures[0] if failures else None


def build(notify: Callable[[str], None] = lambda message: None) -> dict[str, str | None]:
    """Build every extension that this build of torch can use: name -> failure, None if it is built.

    Without a device, as in an image build, the CUDA extension is built for the GPUs in ``TORCH_CUDA_ARCH_LIST``, and skipped if that is
    not set.
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
    """The newest GPU in a ``TORCH_CUDA_ARCH_LIST``, in the notation of quanto's sources; None if the list has no numbers.

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
    """None if the extension is loaded, else the reason in one line."""
    extension = quanto_extensions.get_extension(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about compiler versions, quanto about rebuilding
            if not _is_loaded(extension):
                notify(f"compiling quanto's extension {name} (once per installation, {MINUTES[name]})")
                _compile(extension)
            if name == CPP:
                extension.lib.unpack(torch.zeros(4, 4, dtype=torch.uint8), 4)
    except Exception as error:  # noqa: BLE001  (RuntimeError, OSError, ImportError or CalledProcessError, depending on what is missing)
        if name == CPP:
            _unpack_in_python()
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        what, needed = ("C++", "g++") if name == CPP else ("CUDA", "nvcc, g++")
        return f"quanto's {what} extension cannot be built ({lines[0][:200]}); install {needed} and ninja, and make its folder writable"
    return None


def _is_loaded(extension: Any) -> bool:
    """True if the library is loaded, now or before; nothing is compiled."""
    if extension._lib is None and (library := _built(extension)) is not None:
        extension._lib = _loaded(extension.name, library)
    return extension._lib is not None


def _compile(extension: Any) -> None:
    """Compile and load the library; of several processes, one compiles and the others load what it built."""
    folder = Path(extension.build_directory)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_loaded(extension):
            (folder / _TORCH_LOCK).unlink(missing_ok=True)  # of a build that was killed: a live one would hold the lock above
            _ = extension.lib


def _built(extension: Any) -> Path | None:
    """The library that was built for this version of torch, if there is one."""
    folder = Path(extension.build_directory)
    library, version = folder / f"{extension.name}.so", folder / "pytorch_version.txt"
    try:
        return library if library.is_file() and version.read_text().strip() == torch.__version__ else None
    except OSError:  # unreadable or unfinished
        return None


def _loaded(name: str, library: Path) -> Any:
    """The library as a module; None if it cannot be loaded and has to be built again."""
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
    """Register an unpacking made of torch operations: same integers, but its times are meaningless."""
    library = torch.library.Library("quanto", "IMPL")  # noqa: TOR901  (kept alive below, because its registrations end with it)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this overrides the registered kernel, which is the purpose
        library.impl("unpack", unpack, "CPU")
    _fallbacks.append(library)


def unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacked 2-bit or 4-bit integers as uint8, shape (rows * 8 / bits, ...); quanto packs the first rows into the lowest bits.

    >>> unpack(torch.tensor([0b1110_0100], dtype=torch.uint8), 2).tolist()
    [0, 1, 2, 3]
    """
    return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])
