"""A format: how a weight is stored. Names are parsed here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator

__all__ = ["REFERENCE_NAMES", "Format", "FormatName", "format_bits", "is_calibrated"]

REFERENCE_NAMES = {"bfloat16": "bf16", "float16": "f16", "float32": "f32"}
"""Dtype that a model is stored in -> the name of that format, which is also the reference's variant id."""

_REFERENCE_BITS = {"bf16": 16, "f16": 16, "f32": 32}

_QUANTIZED = re.compile(r"qint(?P<bits>[248])(?::(?P<method>max|hqq|gptq))?")

Method = Literal["dense", "absmax", "max", "hqq", "gptq"]


@dataclass(frozen=True)
class Format:
    """How a weight is stored: by which backend, in how many bits, with scales (and integers) chosen by which method.

    Methods: ``dense`` is the reference's own dtype; ``absmax`` a scale per row; ``max`` quanto's default for groups; ``hqq`` scales and
    shifts by half-quadratic splitting (Badri & Shaji 2023); ``gptq`` integers too, on the calibration set (arXiv:2210.17323).
    """

    backend: Literal["reference", "quanto"]
    bits: int
    method: Method
    dtype: str = ""
    """Of the reference only: ``bf16``, ``f16`` or ``f32``."""

    @classmethod
    def of(cls, name: str) -> Format:
        """The format of a name.

        Raises:
            ValueError: there is none of that name; the message lists those that there are.

        >>> Format.of("qint2:gptq")
        Format(backend='quanto', bits=2, method='gptq', dtype='')
        >>> Format.of("bf16").name, Format.of("qint4:max").name
        ('bf16', 'qint4')
        """
        return _parsed(name)

    @property
    def name(self) -> str:
        """The name in profiles, run files and plans; quanto's default method is left out."""
        if self.backend == "reference":
            return self.dtype
        return f"qint{self.bits}" + (f":{self.method}" if self.method in ("hqq", "gptq") else "")

    @property
    def is_calibrated(self) -> bool:
        """Whether its integers come from the calibration set."""
        return self.method == "gptq"

    @property
    def stock(self) -> Format:
        """The backend's own best format of the same width: what a module gets that could not be calibrated.

        >>> Format.of("qint2:gptq").stock.name
        'qint2:hqq'
        """
        return Format(self.backend, self.bits, "hqq") if self.is_calibrated else self


@lru_cache(maxsize=256)
def _parsed(name: str) -> Format:
    if name in _REFERENCE_BITS:
        return Format("reference", _REFERENCE_BITS[name], "dense", name)
    match = _QUANTIZED.fullmatch(name)
    if match is None or (match["bits"] == "8" and match["method"]):
        raise ValueError("not a format; allowed: qint8, qint4, qint2, and qint4 or qint2 with :max, :hqq or :gptq, as in qint2:hqq")
    bits = int(match["bits"])
    method: Method = "absmax" if bits == 8 else match["method"] or "max"  # type: ignore[assignment]
    return Format("quanto", bits, method)


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
