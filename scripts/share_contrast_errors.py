"""How often layers are called dependent on a task where none is: the permutation test of `stats.share_contrasts` beside normal theory.

    python scripts/share_contrast_errors.py [--trials 400]

Both tasks have one law, so any layer that is told apart after Holm's correction is a false alarm. Sequences differ in all layers together
(``whole``) and in each layer besides (``layer``), both lognormal: in the embedded model's sweep at 2 bits these standard deviations of the
logarithm are 1.1 and 0.3 to 1.2. Prints a table in Markdown; some minutes on one core.
"""

from __future__ import annotations

import argparse
from statistics import NormalDist

import numpy as np

from bitzones.stats.intervals import ALPHA, wilson_interval
from bitzones.stats.share_contrasts import share_contrasts
from bitzones.stats.significance import holm

CASES = ((20, 20, 12, 1.0, 1.0), (34, 34, 12, 1.1, 0.8), (34, 34, 12, 1.5, 1.5), (20, 60, 12, 1.0, 1.0), (100, 100, 30, 1.1, 0.8))
"""Sequences of each task, layers, and both standard deviations."""


def normal_p(amounts: np.ndarray, first: np.ndarray) -> list[float]:
    """Two-sided p-values of log shares by the delta method, as if the difference by its standard error were normal."""
    logs, variances = [], []
    for sample in (amounts[:, first], amounts[:, ~first]):
        n, part, whole = sample.shape[1], sample.sum(axis=1), sample.sum()
        influence = sample / part[:, None] - sample.sum(axis=0) / whole
        logs.append(np.log(part / whole))
        variances.append((influence**2).sum(axis=1) * n / (n - 1))
    z = np.abs(logs[0] - logs[1]) / np.sqrt(variances[0] + variances[1])
    return [2 * (1 - NormalDist().cdf(float(value))) for value in z]


def alarms(case: tuple[int, int, int, float, float], trials: int) -> tuple[int, int]:
    """Trials with a false alarm: by permutation, by normal theory."""
    one, other, layers, whole, layer = case
    rng = np.random.default_rng(0)
    typical, first, n = rng.lognormal(0, 1, layers), np.arange(one + other) < one, one + other
    found = [0, 0]
    for trial in range(trials):
        scale = rng.integers(15, 60, n) * rng.lognormal(0, whole, n)
        amounts = typical[:, None] * scale * rng.lognormal(0, layer, (layers, n))
        permuted = [
            item.p_value for item in share_contrasts(amounts, first, layers, 2, trial) if item is not None and item.p_value is not None
        ]
        for number, p_values in enumerate((permuted, normal_p(amounts, first))):
            found[number] += min(holm(p_values)) < ALPHA
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print("| sequences | layers | sd, whole | sd, layer | permutation [95%] | normal theory [95%] |\n|---|---:|---:|---:|---:|---:|")
    for case in CASES:
        words = [
            f"{item.value:.1%} [{item.low:.1%}, {item.high:.1%}]" for item in (wilson_interval(k, trials) for k in alarms(case, trials))
        ]
        print(f"| {case[0]} and {case[1]} | {case[2]} | {case[3]:g} | {case[4]:g} | {' | '.join(words)} |", flush=True)


if __name__ == "__main__":
    main()
