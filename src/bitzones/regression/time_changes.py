"""Whether a cell became slower, from the raw rounds of both runs, and whether their times are comparable at all.

Times of two machines are not compared. The rounds of one run are not independent (a machine is fast or slow for seconds at a time), so the
bootstrap draws blocks of neighboring rounds. Variance between runs is not visible in rounds; `drift` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitzones.analysis.contention import contended_by
from bitzones.regression.comparison import Metric
from bitzones.regression.decision_rule import Draft, normal_p, settled
from bitzones.schema.performance_cells import LatencyCell
from bitzones.schema.profile_sections import Gate
from bitzones.schema.run_record import Environment
from bitzones.stats.bootstrap import percentile_interval
from bitzones.stats.intervals import ALPHA, MIN_SEQUENCES, Estimate, Interval

__all__ = ["Drifted", "latency", "machine", "other_machine", "slowdown"]

RESAMPLES = 1000
"""Behind the interval of a ratio: its standard error is then known to about 2%, and a thousand cells take a second."""

FARTHEST = 1e12
"""Times of one cell: from a nanosecond to a quarter of an hour. What lies farther apart is a fault of a file."""

NOT_MACHINE = frozenset({"python", "versions", "platform"})
"""What of an environment may change from release to release without its times being those of another machine. Anything else may not."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drifted:
    """Standard deviation of the logarithm of one cell's median between runs of the same thing, and the degrees of freedom it rests on."""

    sd: float
    freedom: int


def machine(environment: Environment | None) -> dict[str, str]:
    """What must agree before two times are compared: processor, device, threads, driver and whatever else a run knows of its machine."""
    if environment is None:
        return {}
    return {name: str(value) for name, value in environment.model_dump(mode="json").items() if name not in NOT_MACHINE}


def other_machine(old: Environment | None, new: Environment | None) -> str | None:
    """Why two runs are not of one machine; None where they are."""
    before, now = machine(old), machine(new)
    if not before or not now:
        return "a run does not say which machine it was made on"
    changed = [f"{name} {before.get(name, 'unknown')} and {now.get(name, 'unknown')}" for name in now if before.get(name) != now[name]]
    return ", ".join(changed).replace("_", " ") or None


def latency(old: LatencyCell, new: LatencyCell, gate: Gate, elsewhere: str | None, seed: int, drift: Drifted | None = None) -> Draft:
    """The one metric of a latency cell: new median over old median.

    Args:
        old: the baseline.
        new: what is judged.
        gate: has the tolerance.
        elsewhere: why the machines differ; None where they do not.
        seed: of the resamples.
        drift: what this median does from run to run, of `bitzones.regression.drift`; None where that is not known: then only what differs
            within the two runs is in the interval.
    """
    before, now = float(np.median(old.rounds_s)), float(np.median(new.rounds_s))
    rounds = min(len(old.rounds_s), len(new.rounds_s))
    metric = Metric(
        name="median", unit="s", status="incomparable", old=before, new=now, as_ratio=True, n=rounds, units="rounds", tolerance=gate.time
    )
    if elsewhere is not None:
        return settled(metric.model_copy(update={"reason": f"other machine: {elsewhere}"}))
    for which, cell in (("old", old), ("new", new)):
        if found := contended_by(cell):
            return settled(metric.model_copy(update={"reason": f"contended in the {which} run: {', '.join(found)}"}))
    if before <= 0 or not 1 / FARTHEST <= now / before <= FARTHEST:
        return settled(metric.model_copy(update={"reason": "medians of no time at all, or farther apart than a release can bring them"}))
    if rounds < MIN_SEQUENCES:
        change = Estimate(value=now / before, low=None, high=None)
        reason = f"{rounds} rounds are too few to resample; {MIN_SEQUENCES} would do"
        return Draft(metric.model_copy(update={"change": change, "reason": reason}), family="time")
    return _judged(metric, slowdown(old.rounds_s, new.rounds_s, seed), now / before, drift)


def _judged(metric: Metric, logs: Floats, ratio: float, drift: Drifted | None) -> Draft:
    """By the resamples of the rounds, or by what runs of the same thing differ by where that is more: the rounds' share is in it."""
    value, margin, of_rounds = math.log(ratio), math.log1p(metric.tolerance), float(logs.std())
    of_runs = math.sqrt(2) * min(drift.sd, math.log(FARTHEST)) if drift is not None else 0.0
    if drift is None or of_runs <= of_rounds:
        interval = percentile_interval(ratio, np.exp(logs))
        p_worse, p_better = (normal_p(sign * value - margin, of_rounds) for sign in (1, -1))
        spread, floor, doubt = of_rounds, 0.0, ""
    else:
        from scipy.special import stdtr, stdtrit  # noqa: PLC0415 (half a second, and most comparisons have no history)

        wide = float(stdtrit(drift.freedom, 1 - ALPHA / 2)) * of_runs
        interval = Interval(value=ratio, low=ratio * math.exp(-wide), high=ratio * math.exp(wide))
        p_worse, p_better = (float(stdtr(drift.freedom, (margin - sign * value) / of_runs)) for sign in (1, -1))
        spread, floor = of_runs, math.sqrt(of_runs**2 - of_rounds**2)
        doubt = f"medians drift by {drift.sd:.1%} from run to run here, and more rounds would not tell"
    return Draft(
        metric.model_copy(update={"change": Estimate(value=interval.value, low=interval.low, high=interval.high)}),
        family="time",
        p_worse=p_worse,
        p_better=p_better,
        within=math.log(interval.high) <= margin,
        spread=spread,
        margin=margin,
        floor=floor,
        doubt=doubt,
    )


def slowdown(old: Sequence[float], new: Sequence[float], seed: int) -> Floats:
    """Logarithm of the ratio of medians in every resample: shape (`RESAMPLES`,).

    Circular block bootstrap with blocks of n^(1/3) rounds (Politis & Romano 1992; the rate of Hall, Horowitz & Jing 1995).
    """
    rng = np.random.default_rng(seed)
    return np.log(_medians(new, rng)) - np.log(_medians(old, rng))


def _medians(rounds: Sequence[float], rng: np.random.Generator) -> Floats:
    values = np.maximum(np.asarray(rounds, dtype=np.float64), np.finfo(np.float64).tiny)
    n, block = len(values), max(1, round(len(values) ** (1 / 3)))
    starts = rng.integers(0, n, size=(RESAMPLES, math.ceil(n / block)))
    drawn = (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)[:, :n] % n
    return np.median(values[drawn], axis=1)
