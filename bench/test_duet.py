"""Latency of every variant against another environment, by turns; only with ``--bitzones-duet=OLD``."""


def test_duet(cell, session, bitzones_duet, dueling, timing):
    name = session.profile.latency.timings()[timing].name
    cell("duet", dueling, detail=f"latency {name}").measure(lambda: bitzones_duet, lambda played: played.latency(dueling, name))
