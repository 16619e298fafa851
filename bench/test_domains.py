"""Perplexity and divergence of every variant, and of the baselines that the profile names, on text of every kind."""

from bitzones.evaluation import by_domain


def test_domain(cell, session, compared, domain):
    cell("domain", compared, detail=domain).measure(
        lambda: (session.model(session.reference_id), session.model(compared)),
        lambda pair: session.on_domain(domain, lambda found, batches: by_domain.domain_cell(compared, pair[0], pair[1], found, batches())),
    )
