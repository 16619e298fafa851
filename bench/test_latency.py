"""Prefill and decode times of every variant, raw rounds kept."""

from bitzones.measure import latency


def test_latency(cell, session, variant, phase):
    shape = session.profile.latency
    cell("latency", variant, detail=phase).time(
        lambda: latency.prepare(phase, session.model(variant), shape, session.profile.seed),
        rounds=shape.rounds,
        warmup_rounds=shape.warmup_rounds,
        finish=lambda timed, rounds: latency.cell(variant, phase, shape, timed, rounds),
    )
