"""Retries work at half the batch size when memory runs out, and records every failed attempt. The work must be restartable."""

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
    """The result of ``work`` at the largest of the batch sizes ``batch``, ``batch // 2``, ... that fits in memory.

    Raises:
        OutOfMemoryError: it does not fit at batch 1 either.
    """
    shortages: list[Shortage] = []
    while True:
        try:
            return work(batch), tuple(shortages)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            shortages.append(devices.shortage(error, batch, device))
        devices.free(device)  # outside the handler: the traceback keeps the tensors alive
        if batch == 1:
            raise OutOfMemoryError(f"out of memory: {_said(shortages[-1])}", tuple(shortages))
        batch //= 2


def _said(found: Shortage) -> str:
    asked = "an unknown number of" if found.asked_bytes is None else f"{found.asked_bytes:,}"
    return f"asked for {asked} bytes at batch {found.batch}, and {found.free_bytes or 0:,} were free"
