"""What a worker does in a process of its own: it holds the model of a run and measures blocks of its sweep. Knows nothing of Ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

from bitzones.run import garbage
from bitzones.run.divided_sweep import block_bench
from bitzones.run.session import Session
from bitzones.run.session_record import sweep_fingerprint
from bitzones.schema.errors import BitzonesError
from bitzones.schema.profile import Profile
from bitzones.schema.record import Record
from bitzones.schema.shard_record import Block, MeasuredBlock
from bitzones.sensitivity.block_bench import BlockBench

__all__ = ["Refused", "Started", "SweepWorker"]


class Started(Record):
    """A worker that is ready, and everything that its results depend on."""

    pid: int
    host: str
    fingerprint: dict[str, Any]


class Refused(Record):
    """Why a worker cannot go on, in one line, and whether memory ran out."""

    reason: str
    out_of_memory: bool = False


class SweepWorker:
    """One model in one process. A user's mistake, and memory that runs out, are returned and not raised: the driver says them once."""

    def __init__(self) -> None:
        self._bench: BlockBench | None = None

    def start(self, profile: Profile, batch: int) -> Started | Refused:
        """Load the model and the sequences."""
        try:
            session = Session(profile)
            with garbage.suspended():
                _ = session.scored, session.variants
            session.check_invariants()
            self._bench = block_bench(session, batch)
            return Started(pid=os.getpid(), host=socket.gethostname(), fingerprint=sweep_fingerprint(session))
        except Exception as error:  # noqa: BLE001  (a bug is raised again)
            return _refused(error)

    def measure(self, block: Block, ahead: Sequence[Block] = ()) -> MeasuredBlock | Refused:
        """Measure a block; ``ahead`` are others that are to follow, whose layers are rounded in the same pass."""
        assert self._bench is not None
        try:
            self._bench.prepare([block, *ahead])
            return self._bench.measure(block)
        except Exception as error:  # noqa: BLE001  (a bug is raised again)
            return _refused(error)


def _refused(error: Exception) -> Refused:
    """The record of an error that is no bug.

    Raises:
        Exception: it is one.
    """
    from bitzones.devices import device as devices

    if devices.is_out_of_memory(error):
        return Refused(reason=str(error), out_of_memory=True)
    if isinstance(error, BitzonesError):
        return Refused(reason=str(error))
    raise error
