"""Stored bytes and process memory of every variant."""

from bitzones.measure import memory


def test_memory(cell, session, variant):
    cell("memory", variant).measure(
        lambda: session.model(variant),
        lambda _model: memory.measure(variant, session.variants),
    )
