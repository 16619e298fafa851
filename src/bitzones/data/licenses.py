"""What a data set says of its own license: the front matter of its card, as the hub has it."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["of_folder"]

CARD = "README.md"
CARD_BYTES = 1 << 16
"""Of a card that are read: its front matter stands first."""

_FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LICENSE = re.compile(r"^license:[ \t]*(?:\n-[ \t]*)?[\"']?([\w.+ -]+)", re.MULTILINE)


def of_folder(folder: Path) -> str | None:
    """The license that the card of a data set in a folder names; None where there is no card, or it names none."""
    try:
        with (folder / CARD).open(encoding="utf-8", errors="replace") as file:
            front = _FRONT.match(file.read(CARD_BYTES))
    except OSError:
        return None
    found = _LICENSE.search(front[1]) if front else None
    return found[1].strip() if found else None
