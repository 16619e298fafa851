"""Memory that really runs out halves the batch, down to 1; any other error is none of this module's business."""

from __future__ import annotations

import pytest
import torch

from bitzones.devices import oom_retry
from bitzones.schema.errors import OutOfMemoryError

CPU = torch.device("cpu")


def fits(most: int) -> list[int]:
    tried: list[int] = []

    def work(batch: int) -> str:
        tried.append(batch)
        if batch > most:
            torch.empty(1 << 50, dtype=torch.uint8)
        return f"done at {batch}"

    found, shortages = oom_retry.halving(10, work, CPU)
    assert found == f"done at {tried[-1]}"
    assert [item.batch for item in shortages] == tried[:-1]
    return tried


@pytest.mark.parametrize(("most", "tried"), [(10, [10]), (5, [10, 5]), (3, [10, 5, 2]), (1, [10, 5, 2, 1])])
def test_the_batch_is_halved_until_memory_is_enough(most: int, tried: list[int]) -> None:
    assert fits(most) == tried


def test_at_batch_1_it_is_given_up_with_every_try() -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"^out of memory: asked for 1,125,899,906,842,624 bytes at batch 1, and [\d,]+ were free$"
    ) as caught:
        fits(0)
    assert [item.batch for item in caught.value.shortages] == [10, 5, 2, 1]


def test_another_error_passes() -> None:
    def work(batch: int) -> None:
        raise ValueError(batch)

    with pytest.raises(ValueError, match="10"):
        oom_retry.halving(10, work, CPU)


def test_what_the_failed_try_held_is_free_before_the_next() -> None:
    alive: list[int] = []

    class Held:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def work(batch: int) -> int:
        seen = len(alive)
        held = Held()
        if batch > 1:
            torch.empty(1 << 50, dtype=torch.uint8)
        assert held
        return seen

    assert oom_retry.halving(2, work, CPU)[0] == 0
