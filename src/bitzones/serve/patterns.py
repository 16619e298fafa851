"""Patterns of an operator's rules, searched for in what clients send: by RE2, whose time is linear in the text whatever the pattern.

Python's own ``re`` backtracks: ``(a+)+$`` on 30 letters takes minutes. RE2 has no backreferences and looks neither ahead nor behind.
"""

from __future__ import annotations

from typing import Protocol

from bitzones.schema.requirements import needs

__all__ = ["Searched", "compiled"]


class Searched(Protocol):
    """A compiled pattern."""

    def search(self, text: str) -> object | None:
        """Where the pattern is in the text; None where it is not."""
        ...


def compiled(pattern: str) -> Searched:
    """The pattern, ready to search.

    Raises:
        ValueError: RE2 refuses it; the message says why.
        MissingPackageError: RE2 is not installed (``pip install 'bitzones[serve]'``).
    """
    with needs("serve"):
        import re2  # noqa: PLC0415
    options = re2.Options()
    options.log_errors = False  # else it writes to standard error besides
    try:
        found: Searched = re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0].decode(errors="replace") if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"not a regular expression of RE2, which has no lookaround and no backreferences: {said}") from error
    return found
