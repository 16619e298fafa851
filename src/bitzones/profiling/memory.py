"""Bytes of a variant: as stored, read off its tensors, and as the process and the device report them while it decodes.

Figures of the device are peaks over one decoding; a figure that is not available holds the reason (`bitzones.schema.record.Figure`).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from bitzones.backends.weights import stored_bytes
from bitzones.devices import device as devices
from bitzones.devices.gpu_monitor import Watch
from bitzones.devices.nvml import Gpu
from bitzones.profiling import latency
from bitzones.schema.latency_grid import Timing
from bitzones.schema.performance_cells import MemoryCell
from bitzones.sensitivity.variants import Variants

__all__ = ["held_bytes", "measure"]


def measure(variant: str, variants: Variants, shape: Timing, gpu: Gpu, seed: int = 0) -> MemoryCell:
    """Bytes of one variant, and of the process that holds it beside the reference.

    Args:
        variant: its ID.
        variants: builds its model.
        shape: shape of the decoding during which the device is monitored.
        gpu: the GPU whose driver is queried.
        seed: seed of the prompt.

    Raises:
        NotMeasuredError: the variant cannot be measured on this machine.
    """
    model = variants.model(variant)
    stored, packed = variants.stored_bytes(variant), variants.packed(variant)
    quantized = sum(map(stored_bytes, packed.values()))
    by_format = {variants.formats[variants.reference_id]: stored - quantized}
    if packed:
        by_format[variants.formats[variant]] = quantized
    devices.free(variants.device)
    devices.reset_peaks(variants.device)
    with Watch(gpu) as watch:
        decoding = latency.decode(model, shape.batch, shape.prompt_tokens, shape.new_tokens, seed)
        decoding.run(*decoding.setup())
    seen = watch.reading()
    return MemoryCell(
        variant=variant,
        stored_bytes=stored,
        stored_bytes_by_format=by_format,
        process_rss=devices.rss_bytes(),
        process_peak_rss=devices.peak_rss_bytes(),
        device_allocated=devices.allocated_bytes(variants.device),
        device_reserved=devices.reserved_bytes(variants.device),
        device_used=seen.device_used_peak,
        process_used=seen.process_used_peak,
        weight_bytes=held_bytes(model),
        cache_bytes=decoding.held_cache_bytes(),
        batch=shape.batch,
        positions=shape.prompt_tokens + shape.new_tokens,
        gpu=seen,
    )


def held_bytes(model: PreTrainedModel) -> int:
    """Bytes of all weights and buffers as packed in memory; tied ones count once."""
    tensors: dict[int, torch.Tensor] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(map(stored_bytes, tensors.values()))
