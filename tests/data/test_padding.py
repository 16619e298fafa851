"""Padding by hand, on both sides."""

from __future__ import annotations

import pytest
import torch

from bitzones.data import padding
from bitzones.schema import progress

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("left", "ids", "mask", "places"),
    [
        (True, [[7, 8, 9], [0, 0, 5]], [[1, 1, 1], [0, 0, 1]], [[0, 1, 2], [0, 0, 0]]),
        (False, [[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 1, 2], [0, 0, 0]]),
    ],
)
def test_rows_are_padded_on_the_side_that_is_asked_for(
    left: bool, ids: list[list[int]], mask: list[list[int]], places: list[list[int]]
) -> None:
    found_ids, found_mask = padding.padded([[7, 8, 9], [5]], CPU, left=left)
    assert found_ids.tolist() == ids
    assert found_mask.tolist() == mask
    assert padding.positions(found_mask).tolist() == places


def test_positions_go_on_after_left_padding() -> None:
    assert padding.positions(torch.tensor([[0, 0, 1, 1, 1]])).tolist() == [[0, 0, 0, 1, 2]]


def test_nobody_has_to_listen() -> None:
    assert progress.silent(0.5) is None
