"""The benches are thin: parameters come from the profile, and everything else from the fixtures of the plugin under short names.

Naming this folder, or a file in it, asks for the plugin, so that a wrong profile is refused before anything is collected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from bitzones import plugin

if TYPE_CHECKING:
    from bitzones.run.recorder import Recorder
    from bitzones.run.session import Session


def pytest_configure(config: pytest.Config) -> None:
    """Load the profile."""
    plugin.ask(config)


@pytest.fixture(scope="session")
def session(bitzones_session: Session) -> Session:
    """What the run has loaded."""
    return bitzones_session


@pytest.fixture
def cell(bitzones_cell: Callable[..., Recorder]) -> Callable[..., Recorder]:
    """``cell("accuracy", variant, detail=task)``: the recorder of this benchmark's cell."""
    return bitzones_cell
