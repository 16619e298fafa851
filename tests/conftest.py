"""What the tests share: warnings are errors, which files need torch, and which skips are not to be accepted.

The deciding side is tested on Pythons without torch. There a file that imports the measuring side, anywhere in it, is not collected; nobody
has to keep a list. Where torch is, everything is.

``BITZONES_REQUIRE="real_data cuda"`` names markers whose tests must run: a skip of one is then a failure, so that a CI that has the data
or the GPU cannot pass by not using it.
"""

from __future__ import annotations

import ast
import gc
import os
from collections.abc import Generator, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import make_run
import pytest
from hypothesis import settings
from imports import MEASURING, within

HAS_TORCH = find_spec("torch") is not None
REQUIRED = frozenset(os.environ.get("BITZONES_REQUIRE", "").split())

FILTER_WARNINGS = (
    "error",
    # torch.compile of torch 2.11 imports a module of torch that uses what torch deprecates.
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
    # A backward pass that returns from the host to a GPU: the thread that computes it there has no context yet, and torch makes it one.
    "ignore:Attempting to run cuBLAS, but there was no current CUDA context:UserWarning",
)
"""As pytest's ``filterwarnings``, later ones win. An exception is written here, with its reason."""


SLOWEST = """run/test_pytest_plugins run/test_runner models/test_offload report/test_flow models/test_loading run/test_measuring
    report/test_writer test_packaging deploy/test_quanto_checkpoint run/test_plugin api/test_notebook api/test_api evaluation/test_accuracy
    backends/test_quantizers""".split()
"""Files that take longest, a minute and more each on a busy core: they run first. Under xdist one that begins last keeps its worker busy
when the others are done, and xdist by itself begins with the files of the most tests, which are the quickest."""


settings.register_profile("bitzones", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("bitzones")
"""No test is timed, and a gate does not depend on luck: the search for new examples goes on where people work."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--update-goldens`` rewrites tests/golden before the tests run: read the diff before you commit it."""
    parser.addoption("--update-goldens", action="store_true", help="rewrite tests/golden with what the code gives now")


def pytest_configure(config: pytest.Config) -> None:
    """Make warnings errors here and not in pyproject.toml, which a run of bench/ reads too."""
    for line in FILTER_WARNINGS:
        config.addinivalue_line("filterwarnings", line)
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # the order of `SLOWEST` stays
    if config.getoption("--update-goldens") and not hasattr(config, "workerinput"):  # under xdist: by the controller only
        make_run.golden()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what is imported out of every later search for garbage: each takes 0.4 s, and every pytest inside a test makes five.

    Without torch there is little to search, and old versions of hypothesis take what is frozen for garbage.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        if HAS_TORCH:
            gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files first, and all others in their order."""
    places = {Path(__file__).parent / f"{name}.py": number for number, name in enumerate(SLOWEST)}
    assert all(map(Path.is_file, places)), "a file of SLOWEST was renamed"
    items.sort(key=lambda item: places.get(item.path, len(places)))


@cache
def needs_torch(path: Path) -> bool:
    """Whether a test file imports the measuring side, at its top or in a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return any(within(name, MEASURING) for name in names)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a file that needs torch where there is none, and a room whose fixtures do."""
    shared = collection_path / "conftest.py"
    is_test = collection_path.suffix == ".py" and collection_path.name.startswith("test_")
    asked = collection_path if is_test else shared if shared.is_file() else None
    return True if asked and not HAS_TORCH and needs_torch(asked) else None


def pytest_report_header() -> str | None:
    """Say what is left out: a test that does not run is not to be taken for one that passed."""
    if HAS_TORCH:
        return None
    left_out = sorted(path.name for path in Path(__file__).parent.rglob("test_*.py") if needs_torch(path))
    return f"no torch here: only the deciding side is tested, without {', '.join(left_out) or 'leaving anything out'}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Turn the skip of a test that has to run into a failure."""
    report = yield
    required = REQUIRED.intersection(mark.name for mark in item.iter_markers())
    if report.skipped and required and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped although BITZONES_REQUIRE names {', '.join(sorted(required))}: {reason}"
    return report
