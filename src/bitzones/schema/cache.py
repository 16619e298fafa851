"""The user's cache: fetched weights, and what is known of this machine's kernels."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "BITZONES_CACHE"


def cache_folder() -> Path:
    """Where what was fetched or found out once is kept: ``BITZONES_CACHE`` where it is set, else the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("bitzones"))
