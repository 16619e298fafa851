"""Prefill and decode times of every variant over the grid of shapes, raw rounds kept."""


def test_latency(cell, session, variant, timing):
    def prepare():
        session.model(variant)  # a plan has to be found first
        return session.hardware.ready(variant, timing)

    cell("latency", variant, detail=timing).time(
        prepare,
        rounds=session.profile.latency.rounds,
        finish=lambda ready, rounds: session.hardware.latency_cell(variant, ready, rounds),
    )


def test_units(cell, session):
    cell("unit_latency", session.reference_id).measure(lambda: session.units, lambda _units: session.unit_times())
