"""The registry of cell kinds that a user defines: a test suite can record its own measurements in the same run file.

A kind of one's own is written ``owner.name``; built-in kinds have no dot, so the two never collide, and a mistyped built-in kind is
still refused. A run file may hold kinds whose class this process has not imported: such a cell is read as it stands and kept.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

__all__ = ["BUILT_IN", "OWN_KIND", "checked_kind", "is_own", "register", "registered", "require_finite"]

BUILT_IN = (
    "accuracy",
    "perplexity",
    "latency",
    "unit_latency",
    "memory",
    "layers",
    "sensitivity",
    "fisher",
    "search",
    "plans",
    "tuning",
    "divergence",
    "domain",
    "release",
    "duet",
    "instructions",
)
"""Kinds of cells that bitzones measures; a failed cell names the one that it stands for."""

OWN_KIND = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", re.ASCII)

_REGISTERED: dict[str, type[BaseModel]] = {}

RecordT = TypeVar("RecordT", bound=BaseModel)


def is_own(kind: object) -> bool:
    """Whether a value names a user-defined kind.

    >>> [is_own(kind) for kind in ("acme.energy", "accuracy", "Acme.Energy", "acme.", None)]
    [True, False, False, False, False]
    """
    return isinstance(kind, str) and OWN_KIND.fullmatch(kind) is not None


def register(record: type[RecordT]) -> type[RecordT]:
    """Register a subclass of `bitzones.schema.cells.OwnCell` under the default of its field ``kind``. Use it as a decorator.

    Registering a class again under the same name replaces it, so that a module can be reloaded.

    Raises:
        TypeError: the class has no default kind, the kind is not of the form ``owner.name``, or another class has it.
    """
    field = record.model_fields.get("kind")
    kind = PydanticUndefined if field is None else field.default
    if not is_own(kind):
        raise TypeError(f"{record.__name__}.kind needs a default of the form 'owner.name', such as 'acme.energy'")
    assert isinstance(kind, str)
    if (other := _REGISTERED.get(kind)) is not None and other.__qualname__ != record.__qualname__:
        raise TypeError(f"kind {kind!r} is registered by {other.__qualname__} already; choose another name")
    _REGISTERED[kind] = record
    return record


def registered(kind: str) -> type[BaseModel] | None:
    """The class of a user-defined kind, or None where nothing has registered it in this process."""
    return _REGISTERED.get(kind)


def checked_kind(kind: str) -> str:
    """A kind that a failed cell may stand for.

    Raises:
        ValueError: it is neither built in nor of the form ``owner.name``.
    """
    if kind not in BUILT_IN and not is_own(kind):
        raise ValueError(f"{kind!r} is no kind of cell: {', '.join(BUILT_IN)}, or one of your own, written owner.name")
    return kind


def require_finite(value: object, where: str = "the cell") -> None:
    """Refuse NaN and infinity anywhere in plain JSON values.

    Raises:
        ValueError: the message names the place.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, not a finite number")
    inner: Any = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in inner:
        require_finite(item, f"{where}.{key}")
