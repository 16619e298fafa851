"""bitzones: which layers of a causal language model survive 2 bits, measured.

Importing this package imports neither torch nor pydantic: the public API (`bitzones.api`) is loaded when one of its names is first used,
and torch when a function that runs a model is called. ``__init__.pyi`` tells type checkers what the API is.

>>> import bitzones
>>> bitzones.__version__.count(".")
2
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, or the list of them, loaded at its first use (PEP 562)."""
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bitzones.schema.requirements import needs  # noqa: PLC0415  # nothing is imported before a name is used

    public = import_module("bitzones.api")
    if name == "__all__":
        return [*public.__all__, "__version__"]
    if name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs("measure"):
        value = getattr(public, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
