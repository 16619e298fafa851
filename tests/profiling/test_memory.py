"""Figures of the process are there, those of a GPU that is not there are null with a reason. Stored bytes: test_variants.py."""

from __future__ import annotations

import pytest
import tiny_models
import torch

from bitzones.devices import device, nvml
from bitzones.models import loading
from bitzones.profiling import memory
from bitzones.schema.latency_grid import Timing
from bitzones.sensitivity.variants import Variants

CPU = torch.device("cpu")
SHAPE = Timing("decode", 2, 5, 3)
NO_GPU = nvml.open_gpu(None)


@pytest.fixture(scope="module")
def variants() -> Variants:
    loaded = loading.Loaded(tiny_models.llama(torch.bfloat16), tiny_models.tokenizer(), "memory", "0" * 64)
    return Variants(loaded, {"bf16": "bf16", "w8": "qint8"}, CPU, torch.float32)


def test_a_cpu_gives_rss_and_says_why_it_gives_no_more(variants: Variants) -> None:
    cell = memory.measure("bf16", variants, SHAPE, NO_GPU)
    assert cell.process_rss.value is not None
    assert cell.process_peak_rss.value is not None
    assert cell.stored_bytes < cell.process_rss.value <= cell.process_peak_rss.value * 1.01
    for figure in (cell.device_allocated, cell.device_reserved, cell.device_used, cell.process_used):
        assert (figure.value, figure.unit, figure.status) == (None, "bytes", "not measured (no CUDA device)")


def test_rss_grows_with_what_is_held() -> None:
    before = device.rss_bytes().value
    held = torch.ones(512 << 20, dtype=torch.uint8)  # far more than a process that ran other tests may have kept of what it freed
    after = device.rss_bytes().value
    assert before is not None
    assert after is not None
    assert after - before > 256 << 20
    assert held.numel() == 512 << 20
    peak = device.peak_rss_bytes().value
    assert peak is not None
    assert peak >= after


def test_bytes_by_format_add_up(variants: Variants) -> None:
    cell = memory.measure("w8", variants, SHAPE, NO_GPU)
    assert set(cell.stored_bytes_by_format) == {"bf16", "qint8"}
    assert sum(cell.stored_bytes_by_format.values()) == cell.stored_bytes
    assert cell.stored_bytes < memory.measure("bf16", variants, SHAPE, NO_GPU).stored_bytes


def test_weights_and_keys_and_values_are_told_apart(variants: Variants) -> None:
    cell = memory.measure("bf16", variants, SHAPE, NO_GPU)
    assert (
        cell.cache_bytes == 2 * tiny_models.LAYERS * 2 * 2 * 32 * 4 * 8
    )  # keys and values, layers, sequences, heads of 32 float32, tokens
    assert (cell.batch, cell.positions) == (2, 8)
    held = sum(p.nbytes for p in variants.reference.parameters()) + sum(b.nbytes for b in variants.reference.buffers())
    assert cell.weight_bytes == held
    packed = memory.measure("w8", variants, SHAPE, NO_GPU).weight_bytes
    assert packed is not None
    assert packed < held
