"""Figures of the process are there, those of a GPU that is not there are null with a reason. Stored bytes: test_variants.py."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from bitzones.measure import device, memory, models
from bitzones.measure.variants import Variants

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def variants() -> Variants:
    loaded = models.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, {"bf16": "bf16", "w8": "qint8"}, CPU, torch.float32)


def test_a_cpu_gives_rss_and_says_why_it_gives_no_more(variants: Variants) -> None:
    cell = memory.measure("bf16", variants)
    assert cell.process_rss.value is not None
    assert cell.process_peak_rss.value is not None
    assert cell.stored_bytes < cell.process_rss.value <= cell.process_peak_rss.value * 1.01
    for figure in (cell.device_allocated, cell.device_used):
        assert (figure.value, figure.unit, figure.status) == (None, "bytes", "not measured (no CUDA device)")


def test_rss_grows_with_what_is_held() -> None:
    before = device.rss_bytes().value
    held = torch.ones(64 << 20, dtype=torch.uint8)
    after = device.rss_bytes().value
    assert before is not None
    assert after is not None
    assert after - before > 48 << 20
    assert held.numel() == 64 << 20
    peak = device.peak_rss_bytes().value
    assert peak is not None
    assert peak > 64 << 20


def test_bytes_by_format_add_up(variants: Variants) -> None:
    cell = memory.measure("w8", variants)
    assert set(cell.stored_bytes_by_format) == {"bf16", "qint8"}
    assert sum(cell.stored_bytes_by_format.values()) == cell.stored_bytes
    assert cell.stored_bytes < memory.measure("bf16", variants).stored_bytes
