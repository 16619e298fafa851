"""Activates the pytest plugin: loads the profile, locks the journal, and refuses sessions in which nothing can be timed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bitzones.run.stash import CELLS, HELD, PROFILE
from bitzones.schema.errors import MeasureError

if TYPE_CHECKING:
    from bitzones.schema.profile import Profile

__all__ = ["activate", "measuring", "require_one_process"]


def activate(config: pytest.Config) -> Profile:
    """The profile of this session, loaded at the first call.

    Raises:
        BitzonesError: the profile, the data folder or the journal is not usable.
    """
    if PROFILE in config.stash:
        if CELLS not in config.stash:  # the caller of pytest passed the profile
            config.stash[CELLS] = {}
            _hold_journal(config)
        return config.stash[PROFILE]
    from bitzones.schema import profile_files

    name = config.getoption("bitzones_profile") or os.environ.get("BITZONES_PROFILE") or profile_files.DEFAULT
    data = config.getoption("bitzones_data") or os.environ.get("BITZONES_DATA")
    config.stash[PROFILE] = profile_files.load(name).resolved(Path(data) if data else None, config.getoption("bitzones_limit"))
    config.stash[CELLS] = {}
    _hold_journal(config)
    return config.stash[PROFILE]


def _hold_journal(config: pytest.Config) -> None:
    """Lock the journal, so that a second run with the same one ends here, before it loads anything."""
    place = config.getoption("bitzones_journal")
    if place is None and config.getoption("bitzones_resume"):
        raise MeasureError("--bitzones-resume needs --bitzones-journal=FILE, the source of finished cells")
    if place is None and config.getoption("bitzones_sweep"):
        raise MeasureError("--bitzones-sweep needs --bitzones-journal=FILE, where the sensitivities are noted")
    if place is not None and not config.stash.get(HELD, False):
        from bitzones.run import journal

        hold = ExitStack()
        hold.enter_context(journal.sole(place))
        config.add_cleanup(hold.close)


def measuring(config: pytest.Config) -> Profile:
    """The profile of a session that measures.

    Raises:
        BitzonesError: the profile is not usable, or cells cannot be timed in this process.
    """
    require_one_process(config)
    if not config.pluginmanager.hasplugin("pytest-benchmark"):
        raise MeasureError(
            "cells are timed by pytest-benchmark, which is not loaded: pip install 'bitzones[measure]', or -p pytest_benchmark.plugin"
        )
    return activate(config)


def require_one_process(config: pytest.Config) -> None:
    """Refuse pytest-xdist.

    Raises:
        MeasureError: tests run in several processes.
    """
    if _distributed(config):
        raise MeasureError(
            "cells are timed one after another, and -n of pytest-xdist runs tests in several processes: leave it out, "
            "or measure first and give --bitzones-run RUN.json"
        )


def _distributed(config: pytest.Config) -> bool:
    """Whether tests run in several processes at once."""
    return hasattr(config, "workerinput") or config.getoption("dist", "no") != "no" or bool(config.getoption("numprocesses", None))
