"""Bytes of a variant: as it is stored, by the tensors, and as the running process and the device show it.

The seam for NVML is `bitzones.records.Figure`: a number or the reason why there is none.
"""

from __future__ import annotations

from bitzones.measure import device as devices
from bitzones.measure import quantizers
from bitzones.measure.variants import Variants
from bitzones.records import MemoryCell

__all__ = ["measure"]


def measure(variant: str, variants: Variants) -> MemoryCell:
    """Bytes of one variant, and of the process that holds it beside the reference."""
    stored, packed = variants.stored_bytes(variant), variants.packed(variant)
    quantized = sum(map(quantizers.stored_bytes, packed.values()))
    by_format = {variants.formats[variants.reference_id]: stored - quantized}
    if packed:
        by_format[variants.formats[variant]] = quantized
    return MemoryCell(
        variant=variant,
        stored_bytes=stored,
        stored_bytes_by_format=by_format,
        process_rss=devices.rss_bytes(),
        process_peak_rss=devices.peak_rss_bytes(),
        device_allocated=devices.allocated_bytes(variants.device),
        device_used=devices.device_used_bytes(variants.device),
    )
