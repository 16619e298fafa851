"""Stored bytes of every variant, and what process and device need to decode."""

from dataclasses import replace

from bitzones.profiling import memory


def test_memory(cell, session, variant):
    hardware, shape = session.hardware, session.hardware.largest_decoding
    cell("memory", variant).measure(
        lambda: session.model(variant),
        lambda _model: hardware.at_half(
            shape.batch, lambda batch: memory.measure(variant, session.variants, replace(shape, batch=batch), hardware.gpu)
        ),
    )
