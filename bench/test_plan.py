"""The plan that is searched by measuring, and whole plans side by side on held-out sequences."""

from bitzones.measure import search, verify


def test_search(cell, session):
    record = cell("search", session.reference_id)
    record.measure(session.sweep, lambda _sweep: session.search(record.progress))


def test_plans(cell, session):
    record = cell("plans", session.reference_id)

    def prepare():
        bench = search.workbench(session.variants, session.sweep(), session.held_out_batches, len(session.held_out.sequences))
        stock = session.without_calibration()
        rivals = verify.rivals(bench, session.sweep(), session.search(), session.profile.plans, session.profile.seed, stock)
        return bench, rivals, session.whole()

    record.measure(prepare, lambda made: verify.plans_cell(made[0], made[1], session.held_out, session.search(), made[2], record.progress))
