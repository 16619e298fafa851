"""A sweep that is measured in blocks: the bench of a session, what cannot be divided, and memory that runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitzones.data import sequences
from bitzones.devices import device as devices
from bitzones.models import streamed_weights
from bitzones.schema.errors import OutOfMemoryError, ProfileError
from bitzones.schema.profile import Profile
from bitzones.sensitivity.block_bench import BlockBench

if TYPE_CHECKING:
    from bitzones.run.session import Session

__all__ = ["block_bench", "one_batch_size", "require_divisible"]


def require_divisible(profile: Profile) -> None:
    """Refuse a sweep whose later measurements depend on earlier ones.

    Raises:
        ProfileError: names the key to change.
    """
    if (effort := profile.sensitivity.effort) != "full":
        raise ProfileError(
            f'sensitivity.effort = "{effort}": what such a sweep measures next depends on what it has measured, so it cannot be divided: '
            'set effort = "full"'
        )


def block_bench(session: Session, batch: int) -> BlockBench:
    """The session's sweep in blocks, in batches of at most so many sequences."""
    streamed_weights.refuse(session.variants.reference, "a sweep in parts")
    chosen = session.sensitivity_set
    batches = list(sequences.batches(chosen, batch, session.device))
    return BlockBench(session.variants, session.units, session.granularity, chosen, batches, session.profile.sensitivity.head)


@contextmanager
def one_batch_size(session: Session, batch: int) -> Iterator[None]:
    """Refuse to go on with smaller batches where memory runs out: the last digits of a KL depend on what it was batched with.

    Raises:
        OutOfMemoryError: says what to set in the profile.
    """
    try:
        yield
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
        smaller = f"set sensitivity.batch = {batch // 2} for all shards" if batch > 1 else "it takes a device with more memory"
        raise OutOfMemoryError(
            f"memory ran out at batches of {batch}: {smaller}", (devices.shortage(error, batch, session.device),)
        ) from error
