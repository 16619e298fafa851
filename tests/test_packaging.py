"""The wheel is what a user gets: it has to hold the profiles, the benchmarks and the embedded model, and ask for bounded dependencies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]

pytest.importorskip("hatchling", reason="the build backend is not installed")


def build(source: Path, target: str, out: Path) -> Path:
    """Build with the real backend, in place: no network, no environment of its own."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.iterdir()
    return built


def contents(wheel: Path) -> set[str]:
    """What a wheel installs, metadata left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def files(folder: Path, under: str) -> set[str]:
    """Every file of a folder of the checkout, as it should be named in the wheel."""
    return {
        f"{under}/{path.relative_to(folder).as_posix()}"
        for path in folder.rglob("*")
        if path.is_file() and not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(folder).parts)
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_the_package_the_profiles_and_the_benchmarks(wheel: Path) -> None:
    expected = (
        files(ROOT / "src/bitzones", "bitzones") | files(ROOT / "profiles", "bitzones/_profiles") | files(ROOT / "bench", "bitzones/bench")
    )
    assert contents(wheel) == expected


@pytest.mark.parametrize("name", ["py.typed", "_profiles/tiny.toml", "bench/conftest.py", "embedded/tiny/model.safetensors"])
def test_the_default_run_is_in_the_wheel(wheel: Path, name: str) -> None:
    assert f"bitzones/{name}" in contents(wheel)


def test_the_wheel_starts_the_command_line_and_carries_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name}
    assert "bitzones = bitzones.cli.main:main" in metadata["entry_points.txt"]
    assert "[pytest11]\nbitzones.plugin = bitzones.plugin" in metadata["entry_points.txt"]
    assert "Apache License" in metadata["LICENSE"]


def test_the_installed_wheel_measures_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    """Unpacked, a wheel is what pip installs: its entry point loads the plugin, and its benches are found by their name."""
    pytest.importorskip("pytest_benchmark", reason="the measuring side is not installed")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    asked = ["--pyargs", "bitzones.bench", "--benchmark-json=run.json", "-k", "memory and w8", "-q", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")} | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *asked], cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((elsewhere / "run.json").read_text(encoding="utf-8"))
    assert [benchmark["extra_info"]["bitzones"]["variant"] for benchmark in data["benchmarks"]] == ["w8"]
    assert data["bitzones"]["model"]["source"] == "embedded:tiny"


def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build(ROOT, "sdist", tmp_path / "sdist")
    subprocess.run(["tar", "-xzf", str(sdist), "-C", str(tmp_path)], check=True, timeout=60)
    again = build(tmp_path / sdist.name.removesuffix(".tar.gz"), "wheel", tmp_path / "again")
    assert contents(again) == contents(wheel)


@pytest.mark.parametrize("requirement", REQUIREMENTS)
def test_every_dependency_is_bounded_on_both_sides(requirement: str) -> None:
    assert re.fullmatch(r"[\w.-]+(?:\[\w+\])?>=[\w.]+,<[\w.]+", requirement), f"{requirement}: write it as name>=lowest,<next"


def test_every_dependency_is_justified() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    missing = sorted({line for line in REQUIREMENTS if f"`{line}`" not in text})
    assert missing == [], "CONTRIBUTING.md says in one line each why a dependency is there; it lacks these"
