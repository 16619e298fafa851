"""Totals from measured samples and controls: known answers, no bias, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from bitzones.stats.bootstrap import resample_weights
from bitzones.stats.control_variates import chosen_controls, estimated

SAMPLES, TRIALS = 100, 400


def lognormal(rng: np.random.Generator, shared: float) -> tuple[np.ndarray, np.ndarray]:
    """A skewed figure, as KLs are, and a control that shares some of its spread."""
    common = rng.standard_normal(SAMPLES)
    figure = np.exp(0.7 * (np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(SAMPLES)))
    return figure, np.exp(0.7 * common)


def columns(*controls: np.ndarray) -> np.ndarray:
    return np.stack([np.ones(SAMPLES), *controls], axis=1)


def test_what_is_measured_everywhere_is_not_touched():
    figure = np.array([0.5, 0.0, 3.0])
    found = estimated(figure, np.ones((3, 1)))
    assert found.values is figure
    assert found.errors.tolist() == [0.0, 0.0, 0.0]
    assert found.as_if_measured is figure


def test_a_constant_alone_gives_the_mean_of_what_was_measured():
    found = estimated(np.array([1.0, 3.0]), np.ones((4, 1)))
    assert found.values.sum() == pytest.approx(4 * 2.0)
    assert found.errors.sum() == pytest.approx(0.0)
    # residuals -1 and 1, each for two samples, widened by sqrt(2 / 1), and half of all samples are known
    assert found.errors[:2] == pytest.approx([-2.0, 2.0])
    assert found.values == pytest.approx([2 - 2 * 2**0.5, 2 + 2 * 2**0.5, 2.0, 2.0])


def test_the_ratio_estimator_is_the_control_without_a_constant():
    tokens = np.array([10.0, 30.0, 20.0, 40.0])
    found = estimated(np.array([1.0, 3.5]), tokens[:, None])
    slope = (1.0 * 10 + 3.5 * 30) / (10**2 + 30**2)
    assert found.values.sum() == pytest.approx(slope * 100)


def test_totals_of_controls_come_out_exactly():
    rng = np.random.default_rng(0)
    control = rng.random(SAMPLES)
    assert estimated(control[:20], columns(control)).values.sum() == pytest.approx(control.sum())


def test_values_as_if_measured_have_the_spread_of_a_full_measurement():
    rng = np.random.default_rng(1)
    spreads = []
    for _ in range(TRIALS):
        figure = rng.standard_normal(SAMPLES)
        found = estimated(figure[:25], np.ones((SAMPLES, 1)))
        assert found.as_if_measured.sum() == pytest.approx(found.values.sum())
        spreads.append([found.values.var(), found.as_if_measured.var()])
    partial, whole = np.mean(spreads, axis=0)
    assert whole == pytest.approx(1.0, abs=0.05)
    assert partial == pytest.approx(SAMPLES / 25, rel=0.1)


def test_a_control_is_chosen_where_it_tells_something():
    rng = np.random.default_rng(2)
    picked = dict.fromkeys((0.0, 0.9), 0)
    for shared in picked:
        for _ in range(200):
            figure, control = lognormal(rng, shared)
            picked[shared] += chosen_controls(figure[:25], [columns(), columns(control)])
    assert picked[0.9] > 190
    assert picked[0.0] < 40


def test_too_few_samples_leave_the_smallest_set():
    control = np.arange(SAMPLES, dtype=np.float64)
    assert chosen_controls(control[:9], [columns(), columns(control)]) == 0
    assert chosen_controls(control[:10], [columns(), columns(control)]) == 1


@pytest.mark.parametrize(("measured", "shared", "least"), [(20, 0.0, 0.88), (20, 0.7, 0.88), (40, 0.7, 0.9), (60, 0.3, 0.91)])
def test_the_interval_covers_the_mean_and_the_estimate_has_no_bias(measured: int, shared: float, least: float):
    """Percentile intervals of 20 skewed samples cover about 90%: the control must not make that worse."""
    rng, weights = np.random.default_rng(3), resample_weights(SAMPLES, 500, 0)
    truth = float(np.exp(0.7**2 / 2))
    covered, errors = 0, []
    for _ in range(TRIALS):
        figure, control = lognormal(rng, shared)
        candidates = [columns(), columns(control)]
        values = estimated(figure[:measured], candidates[chosen_controls(figure[:measured], candidates)]).values
        low, high = np.quantile(weights @ values / SAMPLES, [0.025, 0.975])
        covered += low <= truth <= high
        errors.append(values.mean() - truth)
    assert covered / TRIALS >= least
    assert abs(np.mean(errors)) < 3 * np.std(errors) / TRIALS**0.5


def test_errors_have_the_spread_of_the_difference_to_a_full_measurement():
    rng = np.random.default_rng(4)
    seen, said = [], []
    for _ in range(TRIALS):
        figure, control = lognormal(rng, 0.7)
        found = estimated(figure[:30], columns(control))
        seen.append(found.values.sum() - figure.sum())
        said.append((found.errors**2).sum())
    assert np.mean(said) ** 0.5 == pytest.approx(float(np.std(seen)), rel=0.15)
