"""Versions and the processor are those of this machine, read without importing what they name."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata

import numpy as np

from bitzones.schema import environment


def test_versions_are_those_installed() -> None:
    found = environment.versions()
    assert found["numpy"] == np.__version__
    assert set(found) <= set(environment.PACKAGES)
    for name, version in found.items():
        assert metadata.version(name) == version


def test_absent_packages_are_left_out() -> None:
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
from bitzones.schema import environment
environment.PACKAGES = ("numpy", "no-such-package")
print(list(environment.versions()), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "['numpy'] False", done.stderr


def test_the_record_of_this_process() -> None:
    record = environment.collect("cpu", "a processor", 3, "built")
    assert record.python == platform.python_version()
    assert record.cpu == environment.cpu_name() != ""
    assert record.versions == environment.versions()
    assert (record.device, record.device_name, record.threads, record.quanto_extension) == ("cpu", "a processor", 3, "built")
