"""What quantizing does to the model's distribution: each layer alone, and each variant as a whole."""

from bitzones.sensitivity import fisher


def test_divergence(cell, session, quantized):
    cell("divergence", quantized).measure(lambda: session.ready(quantized), lambda _made: session.divergence(quantized))


def test_sensitivity_exact(cell, session):
    record = cell("sensitivity", session.reference_id, detail="exact")
    record.measure(
        lambda: session.sensitivity_set,
        lambda _calibration: session.sweep(record.progress),
    )


def test_sensitivity_fisher(cell, session):
    record = cell("fisher", session.reference_id)
    samples, seed = session.profile.sensitivity.fisher_samples, session.profile.seed
    record.measure(
        lambda: session.sensitivity_set,
        lambda calibration: session.on(
            calibration,
            lambda batches: fisher.fisher_cell(session.variants, session.units, calibration, batches(), samples, seed, record.progress),
        ),
    )
