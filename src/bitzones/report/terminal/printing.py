"""Text on a terminal or a pipe that cannot encode all of it: a sensible ASCII spelling instead of a traceback or mojibake.

A run names models and tasks in any script, and reports write arrows, signs and block characters; a Windows console (cp1252) or a C locale
(ASCII) can print few of them.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from typing import TextIO

__all__ = ["CODEC", "HANDLER", "make_printable", "plain_ascii"]

HANDLER = "bitzones.ascii"
"""Name of the error handler."""

CODEC = "bitzones_ascii"
"""ASCII under a name of its own. Click takes a stream whose encoding is called ASCII for misconfigured and writes UTF-8 into it."""

SPELLINGS = {
    "→": "->",
    "←": "<-",
    "↑": "^",
    "↓": "v",
    "±": "+/-",
    "×": "x",
    "·": ".",
    "•": "*",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "≠": "!=",
    "∞": "inf",
    "°": " deg",
    "µ": "u",
    "μ": "u",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "█": "#",
    "▓": "#",
    "▒": "+",
    "░": ".",
    "■": "#",
    "□": ".",
    "●": "o",
    "○": "o",
    "✓": "yes",
    "✗": "no",
    "Δ": "delta",
    "σ": "sigma",
}
"""Spelled so that a line still reads; what stands in a map of one character a layer has one character here too."""


def plain_ascii(letter: str) -> str:
    """One character in ASCII: its spelling, its base letter, a line for a box-drawing character, else a question mark.

    >>> [plain_ascii(letter) for letter in "→é─┼▁▇層"]
    ['->', 'e', '-', '+', '_', '#', '?']
    """
    if letter in SPELLINGS:
        return SPELLINGS[letter]
    name = unicodedata.name(letter, "")
    if name.startswith("BOX DRAWINGS"):
        return "+" if " AND " in name else "-" if name.endswith(" HORIZONTAL") else "|" if name.endswith(" VERTICAL") else "+"
    if "BLOCK" in name:
        return "_" if "ONE EIGHTH" in name or "ONE QUARTER" in name else "#"
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(plain_ascii, error.object[error.start : error.end])), error.end


class _Encoder(codecs.IncrementalEncoder):
    def encode(self, text: str, final: bool = False) -> bytes:
        return codecs.ascii_encode(text, self.errors)[0]


class _Decoder(codecs.IncrementalDecoder):
    def decode(self, data: object, final: bool = False) -> str:
        return codecs.ascii_decode(data, self.errors)[0]  # type: ignore[arg-type]


def _found(name: str) -> codecs.CodecInfo | None:
    if name != CODEC:
        return None
    return codecs.CodecInfo(codecs.ascii_encode, codecs.ascii_decode, incrementalencoder=_Encoder, incrementaldecoder=_Decoder, name=CODEC)


def make_printable(*streams: TextIO | None) -> None:
    """Have streams print what their encoding lacks in ASCII; one that is UTF-8, or that cannot be changed, stays as it is.

    Args:
        streams: such as ``sys.stdout`` and ``sys.stderr``, which are taken where none are given.
    """
    codecs.register_error(HANDLER, _replaced)
    for stream in streams or (sys.stdout, sys.stderr):
        change = getattr(stream, "reconfigure", None)
        name = _codec_name(getattr(stream, "encoding", None))
        if change is None or name is None or name.startswith("utf"):
            continue
        if name == "ascii":
            codecs.register(_found)
            change(encoding=CODEC, errors=HANDLER)
        else:
            change(errors=HANDLER)


def _codec_name(encoding: str | None) -> str | None:
    try:
        return None if encoding is None else codecs.lookup(encoding).name
    except LookupError:
        return None
