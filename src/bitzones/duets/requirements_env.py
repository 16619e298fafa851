"""Virtual environments with some packages exchanged, cached: an older quanto over everything else that is installed here."""

from __future__ import annotations

import hashlib
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from bitzones.schema.cache import cache_folder
from bitzones.schema.errors import DuetError

__all__ = ["environment_of"]

NEEDED = ("accelerate", "datasets", "filelock", "ninja", "psutil", "pydantic", "safetensors", "transformers")
"""What measures besides; named so that an older release of one gets releases of the others that go with it. What fits stays as it is."""

INSTALL_LIMIT_S = 1800


def environment_of(requirements: Sequence[str], which: str, notify: Callable[[str], None]) -> Path:
    """The Python of an environment where these are installed over the present one; made at the first call.

    Args:
        requirements: as pip takes them.
        which: OLD or NEW, for messages.
        notify: told before an installation.

    Raises:
        DuetError: pip cannot install them; nothing is left behind.
    """
    folder = cache_folder() / "duet" / "environments" / _hash(requirements)
    python = folder / "bin" / "python"
    if python.exists():
        return python
    notify(f"{which}: installing {' '.join(requirements)} over this environment, once, in {folder}")
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        venv.create(part, with_pip=False, symlinks=True)
        _lay_over(part)
        _install(part / "bin" / "python", requirements, which)
        folder.parent.mkdir(parents=True, exist_ok=True)
        part.replace(folder)
    except OSError as error:
        raise DuetError(f"{which}: {folder}: cannot be made: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return python


def _hash(requirements: Sequence[str]) -> str:
    """Of everything that decides what is installed: the requirements, this Python and every package under the new environment."""
    under = sorted(f"{found.name}=={found.version}" for found in metadata.distributions())
    text = "\n".join([*sorted(requirements), sys.version, sys.prefix, *under])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _lay_over(folder: Path) -> None:
    """Put the packages of the present environment behind those of the new one."""
    paths = dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    lines = "; ".join(f"site.addsitedir({path!r})" for path in paths)
    place = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (place / "_under.pth").write_text(f"import site; {lines}\n", encoding="utf-8")


def _install(python: Path, requirements: Sequence[str], which: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    installed = [name for name in NEEDED if not any(requirement.lower().startswith(name) for requirement in requirements)]
    try:
        done = subprocess.run(  # noqa: S603 (pip, of this environment)
            [*command, *requirements, *installed], capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DuetError(f"{which}: pip did not install {' '.join(requirements)} within {INSTALL_LIMIT_S} s") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines() or ["pip said nothing"]
        raise DuetError(f"{which}: {' '.join(requirements)} cannot be installed: {said[-1].removeprefix('ERROR: ')}")
