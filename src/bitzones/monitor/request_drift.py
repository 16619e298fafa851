"""Whether the requests of a window look like what the run was measured on.

Numbers are compared by the two-sample test of Kolmogorov and Smirnov (as in `scipy.stats.ks_2samp`, exact where both samples are small),
shares of tasks by Pearson's chi-square test of homogeneity, tasks that are too rare for it taken together. Within a window the tests are
corrected by Holm's method. Over time the error is spent: window k may use alpha / (k (k + 1)) of it, which adds up to alpha however many
windows there are, and whatever the windows have in common, such as the one sensitivity set that all are compared with.

With enough requests any difference is told, so a property has drifted only where its distance is also at least `LEAST_DISTANCE`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Literal

from bitzones.monitor.records import DriftFeature, DriftWindow
from bitzones.monitor.request_log import Request
from bitzones.schema.canary_record import TrafficRecord, TrafficSequence
from bitzones.stats.significance import holm

__all__ = ["ALPHA", "FEWEST", "LEAST_DISTANCE", "SHARES", "window"]

ALPHA = 0.01
"""Chance that there is ever an alarm about requests that are drawn as the sensitivity set was, over all windows together."""

FEWEST = 50
"""Requests of a window: with fewer the next check waits for more, so that the error is not spent on windows that can show nothing."""

LEAST_DISTANCE = 0.1
"""Smallest distance that is called drift: a tenth of the requests lies elsewhere. Less changes no plan that was seen (docs/monitor.md)."""

RARE = 5.0
"""Least expected count of a cell of Pearson's test (Cochran 1954, Biometrics 10:417)."""

SHARES = "tasks"

_NUMBERS: tuple[tuple[str, Callable[[Request], float | None], Callable[[TrafficSequence], float]], ...] = (
    ("characters", lambda request: request.characters, lambda known: known.characters),
    ("tokens", lambda request: request.tokens, lambda known: known.tokens),
    ("likelihood", lambda request: request.nll_nats, lambda known: known.nll_nats),
    ("entropy", lambda request: request.entropy_nats, lambda known: known.entropy_nats),
)
"""Property -> its value of a request, None where the log lacks it, and of a sequence. Likelihood is a mean NLL per token."""


def window(
    number: int,
    requests: Sequence[Request],
    malformed: int,
    known: TrafficRecord,
    now: str,
    source: Literal["log", "shadow"] = "log",
) -> DriftWindow:
    """The result of the window with this number, from 1."""
    alpha = ALPHA / (number * (number + 1))
    drafts = [*_numbers(requests, known), *_shares(requests, known)]
    adjusted = holm([draft.p for draft in drafts])
    features = tuple(
        draft.model_copy(update={"p_adjusted": p, "drifted": p < alpha and draft.distance >= LEAST_DISTANCE})
        for draft, p in zip(drafts, adjusted, strict=True)
    )
    return DriftWindow(number=number, source=source, at=now, requests=len(requests), malformed=malformed, alpha=alpha, features=features)


def _numbers(requests: Sequence[Request], known: TrafficRecord) -> Iterable[DriftFeature]:
    for name, of_request, of_sequence in _NUMBERS:
        values = [value for request in requests if (value := of_request(request)) is not None]
        expected = [of_sequence(sequence) for sequence in known.sequences]
        if len(values) >= FEWEST:
            distance, p = _kolmogorov_smirnov(values, expected)
            yield _draft(name, len(values), distance, p, median(values), median(expected))


def _shares(requests: Sequence[Request], known: TrafficRecord) -> Iterable[DriftFeature]:
    seen = Counter(request.task for request in requests if request.task is not None)
    expected = Counter(sequence.domain for sequence in known.sequences)
    if seen.total() >= FEWEST:
        names = seen.keys() | expected.keys()
        distance = sum(abs(seen[name] / seen.total() - expected[name] / expected.total()) for name in names) / 2
        yield _draft(SHARES, seen.total(), distance, _homogeneity(seen, expected))


def _draft(name: str, count: int, distance: float, p: float, typical: float | None = None, expected: float | None = None) -> DriftFeature:
    distance, p = min(1.0, distance), min(1.0, p)
    return DriftFeature(name=name, requests=count, distance=distance, p=p, p_adjusted=p, typical=typical, expected=expected, drifted=False)


def _kolmogorov_smirnov(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Distance and two-sided p-value; ties make the p-value too large, never too small."""
    from scipy.stats import ks_2samp  # noqa: PLC0415  # slow to import

    found = ks_2samp(first, second)
    return float(found.statistic), float(found.pvalue)


def _homogeneity(first: Counter[str], second: Counter[str]) -> float:
    """P-value of Pearson's test that two samples have the same shares; names that are rare in both are one cell."""
    from scipy.stats import chi2_contingency  # noqa: PLC0415

    total, smaller = first.total() + second.total(), min(first.total(), second.total())
    often = [name for name in sorted(first | second) if (first[name] + second[name]) * smaller / total >= RARE]
    rows = [[sample[name] for name in often] for sample in (first, second)]
    rest = [sample.total() - sum(row) for sample, row in zip((first, second), rows, strict=True)]
    table = [[*row, left] if sum(rest) else row for row, left in zip(rows, rest, strict=True)]
    return float(chi2_contingency(table).pvalue) if len(table[0]) > 1 else 1.0
