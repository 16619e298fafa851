"""What a run keeps in pytest's config, under one key each, so that no module has a global of its own.

This module imports nothing heavy: the plugin is loaded beside every test suite of an environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bitzones.run.given import Given
    from bitzones.run.journal import Journal
    from bitzones.run.session import Session
    from bitzones.schema.profile import Profile
    from bitzones.schema.progress import Progress
    from bitzones.schema.record import Measured

__all__ = ["CELLS", "GIVEN", "HELD", "JOURNAL", "NOTIFY", "PROFILE", "PROGRESS", "SESSION", "Recorded"]

Recorded = dict[str, tuple["Measured", "float | None"]]
"""Node id -> the cell, and the seconds that pytest-benchmark timed; a cell that is run again replaces its earlier record."""

PROFILE: pytest.StashKey[Profile] = pytest.StashKey()
"""What is run. Its presence means that the plugin is active."""
GIVEN: pytest.StashKey[Given] = pytest.StashKey()
"""Objects handed over in memory in place of what the profile names."""
SESSION: pytest.StashKey[Session] = pytest.StashKey()
PROGRESS: pytest.StashKey[Progress] = pytest.StashKey()
"""Told how far the present cell is."""
NOTIFY: pytest.StashKey[Callable[[str], None]] = pytest.StashKey()
"""Told, in a line, of anything that takes long and is not a cell."""
JOURNAL: pytest.StashKey[Journal] = pytest.StashKey()
HELD: pytest.StashKey[bool] = pytest.StashKey()
"""Set where whoever started pytest holds the journal for it already."""
CELLS: pytest.StashKey[Recorded] = pytest.StashKey()
