"""Keys of a run's state in pytest's config, so that no module needs a global.

Imports nothing heavy, because the plugin is loaded into every test suite of an environment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bitzones.run.given import Given
    from bitzones.run.journal import Entry, Journal
    from bitzones.run.ray_options import RayOptions
    from bitzones.run.session import Session
    from bitzones.schema.profile import Profile
    from bitzones.schema.progress import Progress
    from bitzones.schema.record import Measured

__all__ = ["CELLS", "GIVEN", "HELD", "JOURNAL", "NOTIFY", "PROFILE", "PROGRESS", "RAY", "SESSION", "Recorded"]

Recorded = dict[str, tuple["Measured", "float | None"]]
"""Node ID -> the cell and its timed seconds; a cell that is rerun replaces its earlier record."""

PROFILE: pytest.StashKey[Profile] = pytest.StashKey()
"""The profile. Its presence means that the plugin is active."""
GIVEN: pytest.StashKey[Given] = pytest.StashKey()
"""Objects in memory that replace what the profile names."""
RAY: pytest.StashKey[RayOptions] = pytest.StashKey()
"""A cluster that measures the sweep."""
SESSION: pytest.StashKey[Session] = pytest.StashKey()
PROGRESS: pytest.StashKey[Progress] = pytest.StashKey()
"""Receives the share of the current cell that is done."""
NOTIFY: pytest.StashKey[Callable[[str], None]] = pytest.StashKey()
"""Receives a line about anything that takes long and is not a cell."""
JOURNAL: pytest.StashKey[Journal[Entry]] = pytest.StashKey()
HELD: pytest.StashKey[bool] = pytest.StashKey()
"""Set if the caller of pytest has already locked the journal."""
CELLS: pytest.StashKey[Recorded] = pytest.StashKey()
