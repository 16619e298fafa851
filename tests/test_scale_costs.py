"""The formula behind docs/scale.md: passes counted by hand, and the tables that the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tabulate import tabulate

import scale_costs
from scale_costs import Architecture, costs

TWO_LAYERS = Architecture("two layers", 2, 8, layer_parameters=30.0, active_parameters=60.0, head_parameters=20.0)


def test_passes_by_hand() -> None:
    """From layer 0 the whole model runs again, from layer 1 50 of 80; three formats, and two workers that each run the reference."""
    assert TWO_LAYERS.passes(formats=3, workers=2) == pytest.approx(2 + 3 * (1 + 50 / 80))
    assert TWO_LAYERS.flops(tokens=10) == 2 * 10 * 80
    assert TWO_LAYERS.stored_bytes == 2 * (60 + 2 * 20)


def test_the_measured_sweep_costs_what_was_measured() -> None:
    found = costs(scale_costs.MISTRAL_7B, scale_costs.SWEEP_FORMATS, scale_costs.SWEEP_TOKENS, scale_costs.SWEEP_TOKENS, 1)
    assert found.computing_s == pytest.approx(scale_costs.SWEEP_S)
    assert found.rounding_s == pytest.approx(scale_costs.ROUNDING_S / scale_costs.ROUNDING_LAYERS * 32)


def test_small_batches_cost_reading_all_weights_each() -> None:
    model = scale_costs.MOE_400B
    many, few = (costs(model, 3, 4096, batch, 1) for batch in (64, 4096))
    assert many.computing_s == pytest.approx(many.passes * 64 * model.stored_bytes / scale_costs.READ_BYTES_S)
    assert few.computing_s < many.computing_s / 10


def test_published_sizes() -> None:
    assert scale_costs.MISTRAL_7B.stored_bytes / 2e9 == pytest.approx(7.24, rel=0.01)
    assert scale_costs.LLAMA_70B.stored_bytes / 2e9 == pytest.approx(70.6, rel=0.01)
    assert scale_costs.MOE_400B.stored_bytes / 2e9 == pytest.approx(401, rel=0.01)


@pytest.mark.parametrize("tokens", [4096, 32768])
def test_the_page_shows_what_the_script_prints(tokens: int) -> None:
    page = (Path(__file__).parents[1] / "docs" / "scale.md").read_text(encoding="utf-8")
    assert tabulate(scale_costs.rows(3, tokens, 4096), scale_costs.HEAD, "github", disable_numparse=True) in page
