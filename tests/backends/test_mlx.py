"""MLX's affine formats: rounded as mlx does, bit for bit, and exported as they were measured."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch

from bitzones.backends import quantizing, registry
from bitzones.backends.integers import Rounded
from bitzones.backends.mlx.mlx_rounding import round_rows
from bitzones.schema.formats import Format

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def rows(dtype: torch.dtype) -> torch.Tensor:
    """Random rows, and those in which rounding has a choice: of zeros, of one sign, of one value, evenly spaced, with an outlier."""
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)) * 0.05
    weight[0] = 0
    weight[1], weight[2] = weight[1].abs(), -weight[2].abs()
    weight[3] = 0.25
    weight[4] = torch.linspace(-1, 1, 256)
    weight[5, 7] = 40
    weight[6] *= 1e-9
    return weight.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_integers_scales_and_biases_are_those_of_mlx(bits: int, group: int, dtype: torch.dtype) -> None:
    mx = pytest.importorskip("mlx.core")
    weight = rows(dtype)
    packed: Any = quantizing.quantized_alone(weight, f"mlx:{bits}g{group}")
    given = mx.array(weight.float().numpy()).astype(getattr(mx, str(dtype).removeprefix("torch.")))
    words, scales, biases = (torch.tensor(part.astype(kind).tolist()) for part, kind in zip(
        mx.quantize(given, group, bits), (mx.uint32, mx.float32, mx.float32), strict=True))  # fmt: skip
    assert torch.equal(packed.words.long(), words)
    assert torch.equal(packed.scale.float(), scales)
    assert torch.equal(-packed.shift.float(), biases)


def test_zero_and_the_farther_end_of_a_group_are_kept_exactly() -> None:
    weight = torch.tensor([[-0.75, 0.0, 0.5, 0.2] * 8])
    values = round_rows(weight, 2, 32).values()
    assert values[0, :4].tolist() == [-0.75, 0.0, 0.375, 0.375]  # scale 0.375: 1.25 / 3 with a whole number of steps to zero


@pytest.mark.parametrize("name", ["mlx:3g64", "mlx:2g32", "mlx:8g128:gptq"])
def test_bytes_by_hand(name: str) -> None:
    format_ = Format.of(name)
    group = int(format_.width.partition("g")[2])
    by_hand = 12 * (256 * format_.bits // 8 + 256 // group * 2 * 2)  # a bfloat16 scale and bias a group
    assert quantizing.expected_bytes(12, 256, torch.bfloat16, name) == by_hand
    assert quantizing.quantized_alone(rows(torch.bfloat16)[:12], format_.stock.name).stored_bytes == by_hand


def test_given_integers_are_packed_as_they_are() -> None:
    """What GPTQ chose: three bits lie across words."""
    integers = torch.arange(2 * 64).remainder(8).to(torch.uint8).reshape(2, 64)
    scale = torch.tensor([[0.5, 0.25], [1.0, 2.0]], dtype=torch.bfloat16)
    given = Rounded(integers, scale, scale * 3)
    packed = registry.of("mlx:3g32:gptq").pack(given, Format.of("mlx:3g32:gptq"))
    assert (packed.format, packed.group_size, packed.stored_bytes) == ("mlx:3g32", 32, 2 * 64 * 3 // 8 + 4 * 2 * 2)
    assert torch.equal(packed.parts().integers, integers)
    assert torch.equal(packed.values(torch.float32), given.values())


def test_a_group_that_is_not_whole_stays_and_says_what_fits() -> None:
    model = tiny_models.llama()  # 192 and 384 input features
    wanted = [("model.layers.0.mlp.up_proj", "mlx:4g128"), ("model.layers.0.mlp.down_proj", "mlx:4g128")]
    stays = quantizing.unsupported(model, wanted, torch.float32, torch.device("cpu"))
    assert stays == {
        "mlx:4g128": {
            "model.layers.0.mlp.up_proj": "its weight is 384 x 192, and 192 input features make no whole groups of 128; "
            "the nearest format that fits is mlx:4g64"
        }
    }
