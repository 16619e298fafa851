"""What the user may name as a side of a duet, and the process that it becomes.

Where the environment has a bitzones that knows the protocol, that one measures, so that two versions of bitzones can be compared. Where it
has none, or only an old one, the driver's own source measures there, and what differs is the environment.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bitzones
from bitzones.duets import side_start
from bitzones.duets.requirements_env import environment_of
from bitzones.schema.cache import cache_folder
from bitzones.schema.errors import DuetError

__all__ = ["THIS", "Cores", "Side", "side"]

THIS = "this"
"""The environment and the bitzones that run the driver."""

DOCKER = "docker:"
GIT = "git:"
IN_COMMIT = ("src", "profiles", "bench")
"""What a wheel is built from."""
GIT_LIMIT_S = 60
IN_CONTAINER = "/bitzones-source"

REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,\s.-]+\])?\s*(===|==|~=|!=|<=|>=|<|>|@)\s*\S+")

HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
"""Variables of the driver's environment that would leak its packages into a side."""


@dataclass(frozen=True)
class Cores:
    """Cores that both sides share, none where they are not pinned, and the threads that each computes with."""

    numbers: tuple[int, ...]
    threads: int


@dataclass(frozen=True)
class Side:
    """A side that can be started: its Python, and whose bitzones measures (`side_start`)."""

    spec: str
    python: tuple[str, ...]
    whose: str
    source: str
    container: bool = False
    name: str = field(default_factory=lambda: f"bitzones-duet-{uuid.uuid4().hex[:12]}")

    def command(self, cores: Cores) -> list[str]:
        """What to start."""
        text = Path(side_start.__file__).read_text(encoding="utf-8")
        pinned = ",".join(map(str, cores.numbers))
        arguments = ["-c", text, self.whose, self.source, pinned, str(cores.threads)]
        return [*self._docker(), *arguments] if self.container else [*self.python, *arguments]

    def _docker(self) -> list[str]:
        gpus = ["--gpus", "all"] if shutil.which("nvidia-smi") else []
        mount = ["-v", f"{_package()}:{IN_CONTAINER}/bitzones:ro"]
        return ["docker", "run", "--rm", "-i", "--init", "--name", self.name, *gpus, *mount, "--entrypoint", "python", *self.python]

    @property
    def stop(self) -> tuple[str, ...]:
        """A command that ends what killing the process leaves."""
        return ("docker", "rm", "-f", self.name) if self.container else ()

    def environment(self) -> Mapping[str, str]:
        """The variables of the process: the driver's, without those that would leak its packages."""
        kept = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        return {**kept, "TRANSFORMERS_VERBOSITY": "error", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def side(spec: str, which: str, notify: Callable[[str], None] = lambda line: None) -> Side:
    """The side that a specification names; what it needs is installed or unpacked, once.

    Args:
        spec: ``this``; the folder of a virtual environment or of a checkout of bitzones; a wheel of bitzones; requirements, separated by
            spaces, which are installed over the present environment; ``git:REF``, a commit of bitzones in the repository around the
            current folder; or ``docker:IMAGE``.
        which: OLD or NEW, for messages.
        notify: told of what takes long.

    Raises:
        DuetError: there is no such environment, or it cannot be made.
    """
    place = Path(spec)
    if spec == THIS:
        return Side(spec, (sys.executable,), "given", str(_linked(_package())))
    if spec.startswith(DOCKER):
        if shutil.which("docker") is None:
            raise DuetError(f"{which}: {spec}: there is no docker command here")
        return Side(spec, (spec.removeprefix(DOCKER),), "either", IN_CONTAINER, container=True)
    if spec.startswith(GIT):
        return _folder(spec, _committed(spec.removeprefix(GIT), which), which)
    if place.suffix == ".whl":
        return Side(spec, (sys.executable,), "own", str(_unpacked(place, which)))
    if spec and place.is_dir():
        return _folder(spec, place, which)
    if all(REQUIREMENT.fullmatch(part) for part in spec.split()) and spec.strip():
        python = environment_of(spec.split(), which, notify)
        return Side(spec, (str(python),), "given", str(_linked(_package())))
    raise DuetError(
        f"{which}: {spec!r} is no environment: give a venv, a wheel or checkout of bitzones, a requirement such as optimum-quanto==0.2.4, "
        "git:REF, docker:IMAGE, or this"
    )


def _folder(spec: str, place: Path, which: str) -> Side:
    for python in (place / "bin" / "python", place / "Scripts" / "python.exe"):
        if python.exists():
            return Side(spec, (str(python.absolute()),), "either", str(_linked(_package())))
    for package in (place / "src" / "bitzones", place / "bitzones"):
        if (package / "__init__.py").is_file():
            return Side(spec, (sys.executable,), "own", str(_linked(package.resolve())))
    raise DuetError(f"{which}: {spec}: neither a virtual environment (bin/python) nor a checkout of bitzones (src/bitzones)")


def _committed(ref: str, which: str) -> Path:
    """The sources of a commit, taken out of the repository around the current folder, once."""
    commit = _git(["rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}"], ref, which).decode("ascii").strip()
    folder = cache_folder() / "duet" / "commits" / commit
    if not folder.is_dir():
        top = _git(["rev-parse", "--show-toplevel"], ref, which).decode().strip()
        archive = _git(["-C", top, "archive", "--format=zip", commit, *IN_COMMIT], ref, which)
        part = folder.with_name(f".{folder.name}.{os.getpid()}")
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            members.extractall(part)  # zipfile keeps members inside the folder
        part.replace(folder)
    return folder


def _git(arguments: list[str], ref: str, which: str) -> bytes:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False, timeout=GIT_LIMIT_S)  # noqa: S603, S607 (the user's git)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DuetError(f"{which}: git:{ref}: git cannot be asked: {error}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["git said nothing"]
        raise DuetError(f"{which}: git:{ref}: no commit of a bitzones repository here: {said[-1].removeprefix('fatal: ')}")
    return done.stdout


def _package() -> Path:
    """The folder of the bitzones that drives."""
    return Path(bitzones.__file__).resolve().parent


def _linked(package: Path) -> Path:
    """A folder with nothing in it but this package, so that putting it on a path adds nothing else."""
    folder = cache_folder() / "duet" / "sources" / re.sub(r"\W+", "-", str(package)).strip("-")
    link = folder / "bitzones"
    folder.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.resolve() != package:
        fresh = folder / f".{os.getpid()}"
        fresh.symlink_to(package, target_is_directory=True)
        fresh.replace(link)
    return folder


def _unpacked(wheel: Path, which: str) -> Path:
    """The contents of a wheel of bitzones, which is pure Python; its dependencies are those of the present environment."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            if "bitzones/__init__.py" not in archive.namelist():
                raise DuetError(f"{which}: {wheel}: no wheel of bitzones; name a requirement or a virtual environment for other packages")
            stat = wheel.stat()
            folder = cache_folder() / "duet" / "wheels" / f"{wheel.stem}-{stat.st_size:x}-{stat.st_mtime_ns:x}"
            if not folder.is_dir():
                part = folder.with_name(f".{folder.name}.{os.getpid()}")
                archive.extractall(part)  # zipfile keeps members inside the folder
                part.replace(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise DuetError(f"{which}: {wheel}: cannot be read as a wheel: {getattr(error, 'strerror', None) or error}") from error
    return folder
