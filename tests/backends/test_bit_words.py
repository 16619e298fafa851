"""Integers in 32-bit words, with known answers."""

from __future__ import annotations

import pytest
import torch

from bitzones.backends.bit_words import pack, unpack


def test_integers_are_packed_lowest_bits_first() -> None:
    packed = pack(torch.arange(16, dtype=torch.uint8).reshape(1, 16), 4)
    assert packed.tolist() == [[0x76543210, 0xFEDCBA98]]
    assert pack(torch.tensor([[3, 2, 1, 0] * 4], dtype=torch.uint8), 2).tolist() == [[0x1B1B1B1B]]
    assert unpack(packed, 4).tolist() == [list(range(16))]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_row_that_fills_no_whole_word_comes_back(bits: int) -> None:
    drawn = torch.randint(0, 2**bits, (3, 37), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    words = pack(drawn, bits)
    assert words.shape == (3, -(-37 * bits // 32))
    assert torch.equal(unpack(words, bits, 37), drawn)
