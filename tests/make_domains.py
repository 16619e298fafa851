"""Cells by domain for tests, valid by construction: windows drawn from a law with planted losses, no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from bitzones.schema.domain_cell import CHANGE_UNIT, DomainCell
from bitzones.schema.text_settings import Domain

WINDOWS, SCORED = 24, 31
LOST = {"w8": 0.0005, "w4": 0.1, "w2": 1.0, "plan": 0.15, "contiguous": 0.6}
"""Nats per token that a variant loses on a domain of factor 1."""

FACTORS = {"tasks": 0.5, "law": 2.0}


def domain(name: str, variant: str, windows: int = WINDOWS, lost: float | None = None) -> DomainCell:
    """A variant on a domain: the reference is the same whatever the variant, and KL is about what the likelihood loses."""
    rng = np.random.default_rng(len(name))
    reference = rng.gamma(2.0, 1.0 * FACTORS.get(name, 1.0), (windows, SCORED))
    drawn = np.random.default_rng(len(name) + len(variant) + ord(variant[-1]))
    harm = (LOST[variant] if lost is None else lost) * FACTORS.get(name, 1.0)
    kl = harm * drawn.exponential(size=(windows, SCORED)) * drawn.lognormal(0, 0.3, (windows, 1))
    nll = np.maximum(0.0, reference + kl + 0.1 * harm * drawn.standard_normal((windows, SCORED)))
    change = np.exp(-nll) - np.exp(-reference)
    return DomainCell(
        variant=variant,
        domain=name,
        sequences_sha256=name[0] * 64,
        window=64,
        stride=64,
        context=32,
        joined=True,
        scored_tokens=(SCORED,) * windows,
        nll_nats=_sums(nll),
        reference_nll_nats=_sums(reference),
        nll_squares=tuple(zip(_sums(nll**2), _sums(reference**2), _sums(nll * reference), strict=True)),
        kl_nats=_sums(kl),
        same_top=tuple(map(int, (kl < 0.5).sum(axis=1))),
        change=_sums(change),
        change_squares=_sums(change**2),
        kl_tokens=tuple(" ".join(f"{value:.3g}" for value in row) for row in kl),
        change_tokens=tuple(" ".join(str(round(value / CHANGE_UNIT)) for value in row) for row in change),
    )


def domains(names: Iterable[str] = ("tasks", "law"), variants: Iterable[str] = ("w8", "w4", "w2", "plan")) -> list[DomainCell]:
    return [domain(name, variant) for variant in variants for name in names]


def settings(found: Iterable[DomainCell]) -> tuple[Domain, ...]:
    """What a profile says of these domains: the tasks, or a text that no set has."""
    names = dict.fromkeys(cell.domain for cell in found)
    return tuple(Domain(name=name, source="tasks" if name == "tasks" else f"embedded:{name}", tokens=1536, window=64) for name in names)


def _sums(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values.sum(axis=1)))
