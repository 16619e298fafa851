"""What quantizing does to the model's distribution: each layer alone, and each variant as a whole."""

from bitzones.measure import divergence, sensitivity


def test_divergence(cell, session, quantized):
    cell("divergence", quantized).measure(
        lambda: (session.model(session.reference_id), session.model(quantized)),
        lambda pair: divergence.divergence_cell(quantized, pair[0], pair[1], session.calibration, session.calibration_batches()),
    )


def test_sensitivity_exact(cell, session):
    record = cell("sensitivity", session.reference_id, detail="exact")
    record.measure(
        lambda: session.parts,
        lambda parts: sensitivity.exact_cell(
            session.variants, parts, session.granularity, session.calibration, session.calibration_batches(), record.progress
        ),
    )
