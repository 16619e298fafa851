"""The examples in the docstrings are documentation, so they have to be true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import bitzones

MEASURING = ("bitzones.measure", "bitzones.deploy", "bitzones.data", "bitzones.run")
NOT_MODULES = ("bitzones.bench", "bitzones.__main__")
"""Benchmarks are pytest's to import; ``__main__`` runs."""


def module_names() -> list[str]:
    """Every module of the package; without torch, only those of the deciding side."""
    left_out = NOT_MODULES + (() if find_spec("torch") else MEASURING)
    found = pkgutil.walk_packages(bitzones.__path__, "bitzones.", onerror=lambda name: None)
    return ["bitzones", *(module.name for module in found if not module.name.startswith(left_out))]


@pytest.mark.parametrize("name", module_names())
def test_examples_are_true(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0
