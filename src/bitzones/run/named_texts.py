"""Names for texts that a caller holds in memory, under which the profile and the run file know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bitzones.data.text import Texts, origin_of

__all__ = ["Mixture", "NamedTexts", "Sources"]

Mixture: TypeAlias = Sequence[tuple[Texts, float]]
"""Sources of one set, each with its share."""

Sources: TypeAlias = Sequence[dict[str, Any]]
"""The same as a profile has it."""


class NamedTexts:
    """Gives every text its name, the same text the same one: ``in_memory`` are those that no path or hub id names.

    >>> texts = NamedTexts()
    >>> texts.mixture([("tasks", 0.5), (["a", "b"], 0.5)]), texts.name(["c"])
    (({'source': 'tasks', 'share': 0.5}, {'source': 'memory:list', 'share': 0.5}), 'memory:list 2')
    """

    def __init__(self) -> None:
        self.in_memory: dict[str, Texts] = {}

    def mixture(self, given: Texts | Mixture | None) -> Sources:
        """The sources of a set; none where nothing was given."""
        if given is None:
            return ()
        if isinstance(given, list | tuple) and given and all(_is_share(item) for item in given):
            return tuple({"source": self.name(text), "share": float(share)} for text, share in given)
        return ({"source": self.name(given)},)

    def domain(self, name: str, given: Texts | Mapping[str, Any]) -> dict[str, Any]:
        """A domain as a profile has it."""
        if isinstance(given, Mapping):
            return {**given, "name": name, "source": self.name(given.get("source", ""))}
        return {"name": name, "source": self.name(given)}

    def name(self, given: Texts) -> str:
        """What a profile calls a text."""
        if isinstance(given, str | Path):
            return origin_of(given)
        if known := [name for name, text in self.in_memory.items() if text is given]:
            return known[0]
        origin = origin_of(given)
        like = sum(name.startswith(origin) for name in self.in_memory)
        name = f"{origin} {like + 1}" if like else origin
        self.in_memory[name] = given
        return name


def _is_share(item: object) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], int | float)
