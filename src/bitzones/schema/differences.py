"""What two fingerprints differ in, in words: cells of two runs, or shards of two sweeps, are never mixed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["difference"]


def difference(there: Any, here: Any, places: tuple[str, str] = ("there", "here")) -> str:
    """The first difference between two fingerprints, with both values, and the number of others; empty if they are equal.

    ``places`` are words for where the two are.

    >>> difference({"profile": {"seed": 0}, "code": "a"}, {"profile": {"seed": 1}, "code": "b"})
    'profile.seed is 0 there and 1 here (and 1 more)'
    """
    found = list(_differences(there, here, ""))
    if not found:
        return ""
    at, one, other = found[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{at} is {_short(one)} {places[0]} and {_short(other)} {places[1]}{more}"


def _differences(there: Any, here: Any, at: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            yield from _differences(there.get(key), here.get(key), f"{at}.{key}".lstrip("."))
    elif isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        for number, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{at}.{number}")
    elif there != here:
        yield at, there, here


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
