"""The plan that is searched by measuring, and whole plans side by side on held-out sequences."""

import pytest

pytestmark = pytest.mark.bitzones_plans


def test_search(cell, session):
    record = cell("search", session.reference_id)
    record.measure(session.sweep, lambda _sweep: session.search(record.progress))


def test_tuning(cell, session, tuned):
    record = cell("tuning", tuned)
    record.measure(session.search, lambda _found: session.tune(record.progress))


def test_slices(cell, session, by):
    record = cell("slices", session.reference_id, detail=by)
    record.measure(session.search, lambda _found: session.slices(record.progress))


def test_plans(cell, session):
    record = cell("plans", session.reference_id)
    record.measure(lambda: (session.search(), session.held_out), lambda _made: session.compare(record.progress))
