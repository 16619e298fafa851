"""Activation and attention statistics of every layer of the reference."""

from bitzones.sensitivity import activation_stats


def test_layers(cell, session):
    cell("layers", session.reference_id).measure(
        lambda: session.variants.reference,
        lambda model: session.on(
            session.sensitivity_set,
            lambda batches: activation_stats.cell(session.reference_id, model, session.layers, batches, session.sensitivity_set),
        ),
    )
