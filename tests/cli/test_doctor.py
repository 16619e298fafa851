"""The examination names what is there, and says what to do about what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitzones.cli import doctor
from bitzones.schema import environment


def findings() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.examine()}


def test_versions_processor_devices_and_the_extension_are_there() -> None:
    found = findings()
    for name, version in environment.versions().items():
        assert (found[name].found, found[name].advice) == (version, "")
    assert found["processor"].found.startswith(environment.cpu_name())
    if torch.cuda.is_available():
        assert found["cuda:0"].found == torch.cuda.get_device_name(0)
    else:
        assert found["CUDA"].found == "no device"
        assert found["CUDA"].advice
    extension = found["quanto's extension"]
    assert (extension.found == "built") == (extension.advice == "")


def test_without_the_measuring_side_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("json", "no_such_package", "no_such_package.part"))
    found = list(doctor.examine())
    assert found[-1].what == "measuring"
    assert found[-1].found == "not possible: no_such_package, no_such_package.part missing"
    assert "pip install" in found[-1].advice


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    found = findings()
    for tool in ("g++", "ninja"):
        assert found[tool].found == "not found"
        assert found[tool].advice.startswith(f"install {tool}")
    monkeypatch.setenv("CXX", "my-compiler")
    assert findings()["my-compiler"].advice.startswith("install g++")
    (tmp_path / "my-compiler").touch(mode=0o755)
    assert findings()["my-compiler"] == doctor.Finding("my-compiler", str(tmp_path / "my-compiler"))
