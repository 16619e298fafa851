"""How far two lists of most likely tokens lie apart, when each names only its own top tokens and all others are one tail.

The measure is the Jensen-Shannon divergence (Lin 1991, IEEE Trans. Inf. Theory 37:145) of the two distributions over cells: each token that
both lists name, those that only the first names, those that only the second names, and the rest. In nats; 0 if they agree, ln 2 at most
whatever a server leaves out, about a quarter of the KL where both are close. As for every f-divergence, merging tokens into a cell can
only lower it (data processing inequality).

What a list does not say is taken as it would be if the two agreed: a token that is missing in a list has at most the probability of the
last one in it, so the tokens that only the other list names have, together, between nothing and that many times it. Of these the value
nearest to the other list's is taken. So a short list does not raise the measure, and lists without a common token are still apart.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeAlias

__all__ = ["LARGEST", "Listed", "deviation", "expected_entropy"]

Listed: TypeAlias = Mapping[Hashable, float]
"""The tokens that a list names -> their log-probabilities."""

LARGEST = math.log(2)
"""Of two distributions without a common token."""


def deviation(first: Listed, second: Listed) -> float:
    """Jensen-Shannon divergence in nats, at least 0 and at most `LARGEST`.

    >>> from math import log
    >>> deviation({"a": log(0.6), "b": log(0.4)}, {"a": log(0.6)})
    0.0
    >>> round(deviation({"a": log(0.9)}, {"b": log(0.9)}), 2)
    0.37
    """
    p, q = _probabilities(first), _probabilities(second)
    common = p.keys() & q.keys()
    only_p, only_q = math.fsum(p[key] for key in p.keys() - common), math.fsum(q[key] for key in q.keys() - common)
    in_q = _unlisted(only_p, len(p) - len(common), q)
    in_p = _unlisted(only_q, len(q) - len(common), p)
    cells = [(p[key], q[key]) for key in common]
    cells += [(only_p, in_q), (in_p, only_q), (_left(p, in_p), _left(q, in_q))]
    return min(LARGEST, max(0.0, math.fsum(_term(one, other) for one, other in cells)))


def expected_entropy(listed: Listed) -> float:
    """Entropy of a list in nats, its tail as one more token: at most the whole distribution's."""
    p = _probabilities(listed)
    return math.fsum(-mass * math.log(mass) for mass in (*p.values(), _left(p, 0.0)) if mass > 0)


def _probabilities(listed: Listed) -> dict[Hashable, float]:
    """Probabilities, scaled down where rounding made them more than 1 together."""
    found = {key: math.exp(min(0.0, value)) for key, value in listed.items()}
    total = math.fsum(found.values())
    return found if total <= 1 else {key: value / total for key, value in found.items()}


def _left(listed: Mapping[Hashable, float], named: float) -> float:
    return max(0.0, 1 - math.fsum(listed.values()) - named)


def _unlisted(wanted: float, count: int, listed: Mapping[Hashable, float]) -> float:
    """The probability that a list leaves to ``count`` tokens that it does not name, as near to ``wanted`` as it can be."""
    return min(wanted, count * min(listed.values(), default=1.0), _left(listed, 0.0))


def _term(one: float, other: float) -> float:
    middle = (one + other) / 2
    return sum(mass * math.log(mass / middle) / 2 for mass in (one, other) if mass > 0)
