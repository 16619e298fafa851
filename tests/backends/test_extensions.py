"""A library that is built is loaded as it is: without a compiler, without ninja, and from a folder where nothing can be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock
from torch.utils.file_baton import FileBaton

from bitzones.backends.quanto import extensions

BUILT = """
import sys, torch
from optimum.quanto.library.extensions import get_extension
from bitzones.backends.quanto import extensions

get_extension("quanto_cpp").build_directory = sys.argv[1]
said = []
failure = extensions.extension_failure(said.append)
if failure is None:
    packed = torch.arange(256, dtype=torch.uint8).reshape(64, 4)
    assert torch.equal(torch.ops.quanto.unpack(packed, 2), extensions.unpack(packed, 2))
print(failure, said)
"""


def ask(folder: Path) -> str:
    """In an interpreter that finds no compiler, nor ninja."""
    environment = {**os.environ, "CXX": "/nonexistent/c++", "PATH": "/nonexistent"}
    command = [sys.executable, "-c", BUILT, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A copy of what quanto has built here."""
    if (failure := extensions.extension_failure()) is not None:
        pytest.skip(failure)
    from optimum.quanto.library import get_extension

    return Path(shutil.copytree(get_extension("quanto_cpp").build_directory, tmp_path / "build", ignore=shutil.ignore_patterns("lock")))


def test_what_is_built_needs_no_compiler_and_writes_nothing(built: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in built.iterdir()}
    assert ask(built) == "None []"
    assert {path.name: path.stat().st_mtime_ns for path in built.iterdir()} == before, "something was written beside the library"


@pytest.mark.parametrize("damage", ["another torch", "no version", "no library", None])
def test_only_what_was_built_for_this_torch_is_taken(built: Path, damage: str | None) -> None:
    if damage == "another torch":
        (built / "pytorch_version.txt").write_text("1.0")
    elif damage == "no version":
        (built / "pytorch_version.txt").unlink()
    elif damage == "no library":
        (built / "quanto_cpp.so").unlink()
    found = extensions._built(SimpleNamespace(name="quanto_cpp", build_directory=str(built)))
    assert found == (None if damage else built / "quanto_cpp.so")


def test_a_library_that_does_not_load_is_built_again(built: Path) -> None:
    (built / "quanto_cpp.so").write_bytes(b"no library")
    assert extensions._loaded("quanto_cpp", built / "quanto_cpp.so") is None


class Compiler:
    """quanto's extension, as far as it is used here, whose build waits for torch's lock like the real one."""

    name = "quanto_cpp"

    def __init__(self, folder: Path) -> None:
        self.build_directory = str(folder)
        self._lib: object | None = None
        self.built = 0

    @property
    def lib(self) -> object:
        if self._lib is None:
            baton = FileBaton(str(Path(self.build_directory, "lock")), wait_seconds=0.01)
            if not baton.try_acquire():
                pytest.fail("torch would wait for the lock of a killed build")
            self.built += 1
            self._lib = self
            baton.release()
        return self._lib

    def unpack(self, packed: torch.Tensor, bits: int) -> torch.Tensor:
        return extensions.unpack(packed, bits)


def test_a_build_that_was_killed_holds_up_no_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(tmp_path / "build")
    Path(compiler.build_directory).mkdir()
    Path(compiler.build_directory, "lock").touch()
    monkeypatch.setattr(extensions.quanto_extensions, "get_extension", lambda name: compiler)
    said: list[str] = []
    assert extensions._ready("quanto_cpp", said.append) is None
    assert (compiler.built, len(said)) == (1, 1)
    assert not Path(compiler.build_directory, "lock").exists()


def test_what_another_process_builds_meanwhile_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, built_by_another = Compiler(tmp_path / "build"), threading.Event()
    monkeypatch.setattr(extensions, "_is_loaded", lambda extension: built_by_another.is_set())
    waiting = threading.Thread(target=extensions._compile, args=(compiler,))
    with FileLock(tmp_path / "build.lock"):
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive(), "it compiles beside another process"
        built_by_another.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert compiler.built == 0


@pytest.mark.parametrize(
    ("listed", "number"), [("8.0;8.6;9.0", "900"), ("9.0a", "900"), ("7.5+PTX 12.0", "1200"), ("", None), ("Ampere;Hopper", None)]
)
def test_the_newest_gpu_of_a_list(listed: str, number: str | None) -> None:
    assert extensions.architecture(listed) == number


def test_building_says_what_was_built() -> None:
    found = extensions.build()
    assert set(found) >= {"quanto_cpp"}
    assert found["quanto_cpp"] == extensions.extension_failure() or torch.cuda.is_available()
