"""Prefill and decode times of every variant over the grid of shapes, raw rounds kept."""


def test_latency(cell, session, variant, timing):
    cell("latency", variant, detail=timing).time(
        lambda: session.timed(variant, timing),
        rounds=session.profile.latency.rounds,
        finish=lambda ready, rounds: session.latency_cell(variant, ready, rounds),
    )
