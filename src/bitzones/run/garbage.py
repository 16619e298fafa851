"""When garbage is looked for: not while libraries are imported, and afterwards not in what they have loaded.

torch, transformers and what they import make about 760,000 objects that stay for as long as the process. Python looks through all of them
several times while they are imported, and again whenever the memory of a variant is given back.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["set_aside", "suspended"]


@contextmanager
def suspended() -> Iterator[None]:
    """Look for no garbage inside this block: what is imported there stays."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def set_aside() -> Iterator[None]:
    """Leave what is loaded by now out of every search until the block ends; what is garbage already goes first.

    Where a caller has set something aside for good (``gc.freeze``), all of it stays so.
    """
    for_good = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not for_good:
            gc.unfreeze()
