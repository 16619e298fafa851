"""A format: how a weight is stored. Names are parsed here and nowhere else.

A name is ``backend:width`` or ``backend:width:method``, such as ``mlx:3g64`` or ``mlx:3g64:gptq``. quanto's have short names:
``quanto:4:gptq`` is ``qint4:gptq``. This module knows how names are built; what a backend offers is known to the backend
(`bitzones.backends`), so a run file can be read wherever it was made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["REFERENCE_NAMES", "Format", "FormatName", "format_bits", "is_calibrated"]

REFERENCE_NAMES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
"""Dtype that a model is stored in -> the name of that format, which is also the reference's variant id."""

_REFERENCE_BITS = {"bf16": 16, "f16": 16, "f32": 32}

_QUANTO = re.compile(r"(?:qint|quanto:)(?P<bits>[248])(?::(?P<method>max|hqq|gptq))?")
_NAMED = re.compile(r"(?P<backend>[a-z][a-z0-9-]{0,31}):(?P<width>[A-Za-z]{0,8}(?P<bits>[1-8])(?!\d)\w{0,16})(?::(?P<method>[a-z]{1,16}))?")

_ALLOWED = (
    "not a format; allowed: qint8, qint4, qint2, and qint4 or qint2 with :max, :hqq or :gptq, as in qint2:hqq; "
    "of another backend backend:width, as in mlx:4g64 or gguf:Q4_K"
)

_CALIBRATED = {"gptq", "imatrix"}
"""Methods that take a calibration set."""


@dataclass(frozen=True)
class Format:
    """How a weight is stored: by which backend, in which width, with scales (and integers) chosen by which method.

    Methods: ``dense`` is the reference's own dtype; ``absmax`` a scale per row; ``max`` quanto's default for groups; ``hqq`` scales and
    shifts by half-quadratic splitting (Badri & Shaji 2023); ``gptq`` integers too, on the calibration set (arXiv:2210.17323);
    ``imatrix`` weighs each column by its input feature's mean square there, as llama.cpp does; empty is the backend's own.
    """

    backend: str
    width: str
    """In the backend's words: ``4``, ``3g64``; of the reference ``bf16``, ``f16`` or ``f32``."""
    bits: int
    """Of an integer, without scales: the first number of the width."""
    method: str = ""

    @classmethod
    def of(cls, name: str) -> Format:
        """The format of a name.

        Raises:
            ValueError: it is not the name of one; the message lists how they are built.

        >>> Format.of("qint2:gptq")
        Format(backend='quanto', width='2', bits=2, method='gptq')
        >>> Format.of("mlx:3g64").bits, Format.of("mlx:3g64:gptq").stock.name
        (3, 'mlx:3g64')
        >>> Format.of("bf16").name, Format.of("qint4:max").name, Format.of("quanto:4").name
        ('bf16', 'qint4', 'qint4')
        """
        return _parsed(name)

    @property
    def name(self) -> str:
        """The name in profiles, run files and plans; quanto's default method is left out."""
        if self.backend == "reference":
            return self.width
        if self.backend == "quanto":
            return f"qint{self.bits}" + (f":{self.method}" if self.method in ("hqq", "gptq") else "")
        return f"{self.backend}:{self.width}" + (f":{self.method}" if self.method else "")

    @property
    def plain(self) -> str:
        """The name without a method, which is all that packed tensors tell.

        >>> Format.of("qint2:gptq").plain, Format.of("mlx:3g64:gptq").plain
        ('qint2', 'mlx:3g64')
        """
        return Format(self.backend, self.width, self.bits).name

    @property
    def label(self) -> str:
        """What tells it from others of the same bits, as the end of a variant id.

        >>> Format.of("qint4").label, Format.of("mlx:4g64:gptq").label
        ('max', 'mlx-4g64-gptq')
        """
        return self.method if self.backend == "quanto" else "-".join(filter(None, (self.backend, self.width, self.method)))

    @property
    def is_calibrated(self) -> bool:
        """Whether its integers come from the calibration set."""
        return self.method in _CALIBRATED

    @property
    def stock(self) -> Format:
        """The backend's own best format of the same width: what a module gets that could not be calibrated.

        >>> Format.of("qint2:gptq").stock.name, Format.of("mlx:2g64:gptq").stock.name
        ('qint2:hqq', 'mlx:2g64')
        """
        return Format(self.backend, self.width, self.bits, "hqq" if self.backend == "quanto" else "") if self.is_calibrated else self


@lru_cache(maxsize=1024)
def _parsed(name: str) -> Format:
    if name in _REFERENCE_BITS:
        return Format("reference", name, _REFERENCE_BITS[name], "dense")
    if match := _QUANTO.fullmatch(name):
        bits = int(match["bits"])
        if bits == 8 and match["method"]:
            raise ValueError(_ALLOWED)
        return Format("quanto", match["bits"], bits, "absmax" if bits == 8 else match["method"] or "max")
    match = _NAMED.fullmatch(name)
    if match is None or match["backend"] in ("quanto", "reference"):
        raise ValueError(_ALLOWED)
    return Format(match["backend"], match["width"], int(match["bits"]), match["method"] or "")


def _quantized(name: str) -> str:
    """The canonical name of a format that weights can be quantized to."""
    found = Format.of(name) if name not in _REFERENCE_BITS else None
    if found is None:
        raise ValueError("not a format to quantize to: it is the reference, which is always measured")
    return found.name


FormatName = Annotated[str, AfterValidator(_quantized)]
"""The name of a format that weights can be quantized to, made canonical."""


def format_bits(name: str) -> int:
    """Bits per weight of a format's integers, without scales: ``format_bits("qint2:hqq")`` is 2.

    Raises:
        ValueError: as `Format.of`.
    """
    return Format.of(name).bits


def is_calibrated(name: str) -> bool:
    """Whether the format of that name takes a calibration set; for ``any(map(is_calibrated, names))``. Any other name does not.

    >>> is_calibrated("qint2:gptq"), is_calibrated("qint2:hqq"), is_calibrated("bf16")
    (True, False, False)
    """
    try:
        return Format.of(name).is_calibrated
    except ValueError:
        return False
