"""Activation and attention statistics of every layer of the reference."""

from bitzones.measure import layers


def test_layers(cell, session):
    cell("layers", session.reference_id).measure(
        lambda: session.model(session.reference_id),
        lambda model: session.on(
            session.calibration,
            lambda batches: layers.cell(session.reference_id, model, session.layers, batches, session.calibration),
        ),
    )
