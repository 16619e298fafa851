"""Which backends there are. A new one is a folder and a row in `_BACKENDS`; in another package an entry point; in a test, `register`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from bitzones.backends.backend_protocol import Backend, Checkpoints
from bitzones.schema.errors import ArgumentError, ModelError
from bitzones.schema.formats import Format

__all__ = ["DEFAULT", "backend", "by_backend", "check", "checkpoints", "loaded", "names", "of", "register"]

DEFAULT = "quanto"
"""The backend whose checkpoints `bitzones apply` writes."""

_BACKENDS: dict[str, str] = {
    "quanto": "bitzones.backends.quanto.quanto_backend:QUANTO",
    "gguf": "bitzones.backends.gguf.gguf_backend:GGUF",
    "int": "bitzones.backends.int.int_backend:INT",
    "mlx": "bitzones.backends.mlx.mlx_backend:MLX",
}
"""Name -> module and object, imported when a format of it is asked for."""

_GROUP = "bitzones.backends"
"""Entry points of installed packages: name -> module and object, as in `_BACKENDS`."""

_loaded: dict[str, Backend] = {}


def register(found: Backend) -> None:
    """Offer a backend's formats under its name, for this process.

    Raises:
        ArgumentError: there is another of that name.
    """
    if found.name in names() and _loaded.get(found.name) is not found:
        raise ArgumentError(f"there is a backend {found.name!r} already")
    _loaded[found.name] = found


@cache
def _known() -> dict[str, str]:
    """Those here, and those of installed packages, which cannot take the name of one here."""
    return {found.name: found.value for found in entry_points(group=_GROUP)} | _BACKENDS


def names() -> tuple[str, ...]:
    """All backends."""
    return tuple(dict.fromkeys((*_BACKENDS, *_known(), *_loaded)))


def backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        ArgumentError: there is none; the message lists those that there are.
    """
    if name not in _loaded:
        if name not in _known():
            raise ArgumentError(f"there is no backend {name!r}; backends: {', '.join(names())}")
        module, _, attribute = _known()[name].partition(":")
        _loaded[name] = cast("Backend", getattr(import_module(module), attribute))
    return _loaded[name]


def loaded() -> tuple[Backend, ...]:
    """The backends that may have quantized a module: those asked for so far, and the default, which a user may have called directly."""
    backend(DEFAULT)
    return tuple(_loaded.values())


def of(format_name: str) -> Backend:
    """The backend of a format."""
    return backend(Format.of(format_name).backend)


def by_backend(assignment: Mapping[str, str]) -> dict[Backend, dict[str, Format]]:
    """Module -> format, apart for each backend."""
    found: dict[Backend, dict[str, Format]] = {}
    for name, format_name in assignment.items():
        found.setdefault(of(format_name), {})[name] = Format.of(format_name)
    return found


def check(format_names: Iterable[str]) -> None:
    """See that every format is offered.

    Raises:
        ArgumentError: one is not; the message lists what its backend offers.
        MissingPackageError: one takes a package that is not installed.
    """
    for name in dict.fromkeys(format_names):
        try:
            of(name).check(Format.of(name))
        except ValueError as error:
            raise ArgumentError(f"format {name!r}: {error}") from error


def checkpoints(name: str) -> Checkpoints:
    """How a backend saves and loads models.

    Raises:
        ModelError: it does not.
    """
    found = backend(name).checkpoints
    if found is None:
        raise ModelError(f"backend {name!r} has no checkpoints of its own: its formats are exported")
    return found
