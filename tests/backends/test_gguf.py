"""llama.cpp's formats: rounded as it rounds, read as the gguf package reads, weighed by the importance of columns."""

from __future__ import annotations

from typing import Any

import gguf
import pytest
import tiny_models
import torch

from bitzones.backends import quantizing, registry
from bitzones.backends.gguf.gguf_backend import BLOCKS
from bitzones.schema.errors import ArgumentError, MissingPackageError, ModelError
from bitzones.schema.formats import Format

LEGACY = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""Types that the gguf package rounds too."""


@pytest.fixture(scope="module", autouse=True)
def _libgguf() -> None:
    pytest.importorskip("libgguf")


def rows(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random rows, and those in which rounding has a choice: of zeros, of one sign, of one value, evenly spaced, with an outlier."""
    weight = torch.randn(12, 512, generator=torch.Generator().manual_seed(0)) * 0.05
    weight[0] = 0
    weight[1], weight[2] = weight[1].abs(), -weight[2].abs()
    weight[3] = 0.25
    weight[4] = torch.linspace(-1, 1, 512)
    weight[5, 7] = 40
    return weight.to(dtype)


def packed(width: str, weight: torch.Tensor | None = None) -> Any:
    return quantizing.quantized_alone(rows() if weight is None else weight, f"gguf:{width}")


@pytest.mark.parametrize("width", LEGACY)
def test_blocks_are_those_of_the_gguf_package(width: str) -> None:
    expected = gguf.quantize(rows().numpy(), gguf.GGMLQuantizationType[width])
    assert torch.equal(packed(width).blocks, torch.from_numpy(expected))


@pytest.mark.parametrize("width", BLOCKS)
def test_values_are_those_that_the_gguf_package_reads(width: str) -> None:
    made = packed(width, rows(torch.bfloat16))
    expected = torch.from_numpy(gguf.dequantize(made.blocks.numpy(), gguf.GGMLQuantizationType[width]))
    assert torch.equal(made.values(torch.float32), expected)
    assert made.values(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("width", BLOCKS)
def test_bytes_are_those_of_whole_blocks(width: str) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[width]]
    assert BLOCKS[width] == block
    assert packed(width).stored_bytes == 12 * 512 // block * size
    assert quantizing.expected_bytes(12, 512, torch.bfloat16, f"gguf:{width}") == 12 * 512 // block * size
    assert quantizing.group_size(f"gguf:{width}", 512) == block
    assert packed(width, rows()[:, :block].contiguous()).group_size is None


def test_a_block_of_q4_0_by_hand() -> None:
    """The value farthest from zero is -8 steps: a step of 0.5, in which half lies between two integers and goes up."""
    made = packed("Q4_0", torch.tensor([[-4.0, 0.0, 1.0, 3.5] * 8]))
    assert made.values(torch.float32)[0, :4].tolist() == [-4.0, 0.0, 1.0, 3.5]


@pytest.mark.parametrize("width", [name for name in BLOCKS if name != "Q8_0"])
def test_an_importance_lowers_the_error_of_what_is_important(width: str) -> None:
    weight = torch.randn(16, 512, generator=torch.Generator().manual_seed(1)) * 0.05
    importance = torch.rand(512, generator=torch.Generator().manual_seed(2)).pow(4) * 9 + 0.01
    format_ = Format.of(f"gguf:{width}:imatrix")
    backend = registry.of(format_.name)

    def lost(made: Any) -> float:
        return float(((made.values(torch.float32) - weight).square() * importance).sum())

    weighed = backend.weigh(weight, importance, format_)
    assert lost(weighed) < 0.95 * lost(backend.quantize(weight, format_.stock))
    assert (weighed.format, weighed.stored_bytes) == (f"gguf:{width}", packed(width).stored_bytes * 16 // 12)


@pytest.mark.parametrize("name", ["gguf:Q4_K_M", "gguf:q4_K", "gguf:Q4_K:gptq", "gguf:IQ1_S", "gguf:4"])
def test_what_is_not_offered_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"gguf has Q8_0, Q6_K, .* as in gguf:Q4_K, each but Q8_0 also with :imatrix"):
        registry.check([name])
    with pytest.raises(ArgumentError, match="Q8_0 to the nearest value and has no use for an importance matrix"):
        registry.check(["gguf:Q8_0:imatrix"])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "libgguf", None)
    with pytest.raises(MissingPackageError, match=r"libgguf: pip install 'bitzones\[gguf\]'"):
        registry.check(["gguf:Q4_K"])


def test_columns_that_make_no_whole_blocks_stay_and_say_what_fits() -> None:
    model = tiny_models.llama()  # 192 and 384 input features
    name = "model.layers.0.mlp.up_proj"
    for width, nearest in (("Q4_K", "IQ4_NL"), ("Q2_K", "IQ4_NL"), ("Q6_K", "Q8_0")):
        stays = quantizing.unsupported(model, [(name, f"gguf:{width}")], torch.float32, torch.device("cpu"))
        assert stays[f"gguf:{width}"][name].endswith(f"no whole blocks of 256; the nearest format that fits is gguf:{nearest}")
    with pytest.raises(ModelError, match="cannot be gguf:Q4_K"):
        quantizing.quantize(model, {name: "gguf:Q4_K"})


def test_it_has_no_integers_that_another_file_could_hold() -> None:
    with pytest.raises(ModelError, match="gguf:Q4_K: its blocks hold no integers"):
        packed("Q4_K").parts()
