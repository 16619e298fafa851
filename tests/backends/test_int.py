"""Integers with integer zero points: scale and zero searched together, and stored as checkpoints with zero points store them."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitzones.backends import quantizing, registry, whole_zeros
from bitzones.backends.bit_words import unpack
from bitzones.backends.integers import Rounded
from bitzones.rounding.gptq import round_rows
from bitzones.schema.formats import Format

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def weight(rows: int = 32, columns: int = 128, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.05).to(dtype)


def test_weights_on_a_grid_with_a_whole_zero_stay_what_they_are() -> None:
    """Scale 0.25 and zero 1: the four values of two bits are -0.25, 0, 0.25 and 0.5."""
    on_grid = torch.tensor([[-0.25, 0.0, 0.25, 0.5] * 8] * 32)
    made: Any = quantizing.quantized_alone(on_grid, "int:2g32")
    assert made.parts().integers[0, :4].tolist() == [0, 1, 2, 3]
    assert made.parts().scale.unique().tolist() == [0.25]
    assert unpack(made.zeros, 2).unique().tolist() == [1]
    assert torch.equal(made.values(torch.float32), on_grid)


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3])
def test_a_group_of_one_value(value: float) -> None:
    made = quantizing.quantized_alone(torch.full((32, 32), value), "int:2g32").values(torch.float32)
    assert (made - value).abs().max() <= abs(value) * 2**-11  # half a step of float16


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_searched_together_is_nearer_than_a_rounded_zero(bits: int) -> None:
    """Against min and max of the range with its zero rounded to the nearest integer, as optimizers of ranges do."""
    wide, levels = weight(dtype=torch.float32), 2**bits - 1
    grouped = wide.unflatten(1, (-1, 32))
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    scale = (high - low) / levels
    zero = (-low / scale).round()
    ranged = (((grouped / scale).round() + zero).clamp(0, levels) - zero) * scale
    made = quantizing.quantized_alone(wide, f"int:{bits}g32").values(torch.float32)
    lost, lost_ranged = (float((values - wide).square().sum()) for values in (made, ranged.flatten(1)))
    assert lost < {2: 0.7, 3: 0.9, 4: 0.97}[bits] * lost_ranged


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["int:3g64", "int:2g32", "int:8g128", "int:4"])
def test_bytes_by_hand(name: str, dtype: torch.dtype) -> None:
    bits, group = Format.of(name).bits, int(name.partition("g")[2] or 256)
    by_hand = 64 * 256 * bits // 8 + 256 // group * 64 * 2 + 256 // group * 64 * bits // 8  # integers, scales of two bytes, zeros
    assert quantizing.expected_bytes(64, 256, dtype, name) == by_hand
    made = quantizing.quantized_alone(weight(64, 256, dtype), name)
    assert (made.stored_bytes, made.format) == (by_hand, name)
    assert made.group_size == (None if group == 256 else group)


@given(st.integers(-40, 40), st.sampled_from(DTYPES))
def test_scales_are_the_same_in_the_models_dtype_and_in_float16(power: int, dtype: torch.dtype) -> None:
    found = whole_zeros.storable(torch.tensor([1.2345 * 2.0**power]), dtype)
    assert torch.equal(found, found.half().float())
    assert torch.equal(found, found.to(dtype).float())
    assert 0 < found < 65504


@given(st.integers(2, 4), st.integers(0, 1000))
def test_the_search_is_never_worse_than_any_of_its_starts(bits: int, seed: int) -> None:
    """Over every whole zero with the scale that covers the range."""
    columns = torch.randn(32, 4, generator=torch.Generator().manual_seed(seed))
    levels = 2.0**bits - 1
    scale, zero = whole_zeros.fit(columns, torch.ones(32), torch.full((4,), levels), torch.float32)
    assert torch.equal(zero, zero.round())
    assert ((zero >= 0) & (zero <= levels)).all()

    def lost(step: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return ((((columns / step).round() + at).clamp(0, levels) - at) * step - columns).square().sum(0)

    middle = (-columns.amin(0).clamp_max(0) / (columns.amax(0).clamp_min(0) - columns.amin(0).clamp_max(0)) * levels).round()
    cover = torch.maximum(columns.amax(0) / (levels - middle).clamp_min(1), -columns.amin(0) / middle.clamp_min(1))
    assert (lost(scale, zero) <= lost(whole_zeros.storable(cover, torch.float32), middle) + 1e-4).all()


def test_given_integers_and_zeros_are_packed_as_they_are() -> None:
    """What GPTQ chose: three bits lie across words, and each row of a group has its own zero."""
    integers = torch.arange(32 * 64).remainder(8).to(torch.uint8).reshape(32, 64)
    scale = (torch.arange(1, 65).reshape(32, 2) / 64).to(torch.bfloat16)
    zeros = torch.arange(64).remainder(8).reshape(32, 2)
    rounded = Rounded(integers, scale, scale.float() * zeros)
    packed: Any = registry.of("int:3g32:gptq").pack(rounded, Format.of("int:3g32:gptq"))
    assert torch.equal(packed.parts().integers, integers)
    assert torch.equal(unpack(packed.zeros, 3, 32).T, zeros)
    assert torch.equal(packed.values(torch.float32), rounded.values())


@pytest.mark.parametrize("bits", [2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gptq_works_on_grids_with_whole_zeros(bits: int, dtype: torch.dtype) -> None:
    """What comes out is packed without a change, and its outputs are nearer than those of rounding to the nearest."""
    wide, mixed = weight(), torch.randn(128, 128, generator=torch.Generator().manual_seed(2))
    second = (mixed @ mixed.T).double()
    name = f"int:{bits}g32"
    made = round_rows(wide.float(), second, torch.full((32,), 2.0**bits - 1), 32, dtype, whole=True)
    packed = registry.of(name).pack(made, Format.of(f"{name}:gptq"))
    assert torch.equal(packed.values(torch.float32), made.values())
    apart = (packed.values(torch.float32) - wide.float(), quantizing.quantized_alone(wide, name).values(torch.float32) - wide.float())
    fed_back, nearest = (float(((error.double() @ second) * error).sum()) for error in apart)
    assert fed_back < 0.8 * nearest


def test_shapes_that_do_not_fit_stay_and_say_what_fits() -> None:
    model = tiny_models.llama()  # 192 and 384 input features
    wanted = [("model.layers.0.mlp.up_proj", "int:4g128"), ("model.layers.0.mlp.down_proj", "int:4g128")]
    stays = quantizing.unsupported(model, wanted, torch.float32, torch.device("cpu"))
    assert stays == {
        "int:4g128": {
            "model.layers.0.mlp.up_proj": "its weight is 384 x 192, and 192 input features make no whole groups of 128; "
            "the nearest format that fits is int:4g64"
        }
    }
    odd = torch.nn.ModuleDict({"odd": torch.nn.Linear(64, 40)})
    assert "no multiples of 32" in quantizing.unsupported(odd, [("odd", "int:2")], torch.float32, torch.device("cpu"))["int:2"]["odd"]
