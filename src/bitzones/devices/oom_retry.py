"""Memory that runs out at one batch size may do at half of it: the work is tried again, and every try that failed is kept.

This module does not know what the work is; it must be one that can be begun again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from bitzones.devices import device as devices
from bitzones.schema.errors import OutOfMemoryError
from bitzones.schema.record import Shortage

__all__ = ["halving"]

T = TypeVar("T")


def halving(batch: int, work: Callable[[int], T], device: torch.device) -> tuple[T, tuple[Shortage, ...]]:
    """What ``work`` gives at the largest batch of ``batch``, half of it and so on that memory is enough for.

    Raises:
        OutOfMemoryError: at batch 1 it is not enough either.
    """
    shortages: list[Shortage] = []
    while True:
        try:
            return work(batch), tuple(shortages)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            shortages.append(devices.shortage(error, batch, device))
        devices.free(device)  # not in the handler: the error's traceback holds what is to be freed
        if batch == 1:
            raise OutOfMemoryError(f"out of memory: {_said(shortages[-1])}", tuple(shortages))
        batch //= 2


def _said(found: Shortage) -> str:
    asked = "an unknown number of" if found.asked_bytes is None else f"{found.asked_bytes:,}"
    return f"asked for {asked} bytes at batch {found.batch}, and {found.free_bytes or 0:,} were free"
