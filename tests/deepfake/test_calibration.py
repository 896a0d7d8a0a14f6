"""calibration.py: ECE and NLL worked by hand, the temperature that scikit-learn finds, and what it must not change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from deepfake.evaluating.calibration import (
    LEAST,
    MOST,
    calibrate,
    ece,
    fit_temperature,
    nll,
    reliability,
    reliability_figure,
    summary,
)
from deepfake.evaluating.plots import save_figure
from deepfake.evaluating.scoring import to_probabilities


def overconfident(count, temperature, seed):
    """Labels drawn from the probabilities of calibrated logits, and those logits made too large."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, count)
    labels = (generator.uniform(size=count) < to_probabilities(logits)).astype(int)
    return labels, temperature * logits


def test_ece_worked_by_hand():
    labels = np.array([0, 1, 1, 0, 1])
    probabilities = np.array([0.1, 0.15, 0.9, 0.5, 1.0])
    # Bins of a quarter: {0.1, 0.15}: mean 0.125, half fake; {0.5}: none fake; {0.9, 1.0}: mean 0.95, all fake.
    assert ece(labels, probabilities, bins=4) == pytest.approx((2 * 0.375 + 1 * 0.5 + 2 * 0.05) / 5)
    rows = reliability(labels, probabilities, bins=4)
    assert [(row["low"], row["high"], row["count"]) for row in rows] == [(0, 0.25, 2), (0.5, 0.75, 1), (0.75, 1, 2)]
    assert rows[0]["mean_probability"] == pytest.approx(0.125)
    assert [row["fake_share"] for row in rows] == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(("probability", "expected"), [(1.0, 0.5), (0.5, 0.0), (0.0, 0.5)])
def test_a_constant_answer_to_half_fakes(probability, expected):
    assert ece(np.array([0, 1] * 10), np.full(20, probability)) == expected


def test_ece_of_calibrated_probabilities_is_small_and_of_others_large():
    labels, logits = overconfident(100_000, 1.0, seed=0)
    assert ece(labels, to_probabilities(logits)) < 0.01
    assert ece(labels, to_probabilities(4 * logits)) > 0.05


@given(st.lists(st.tuples(st.integers(0, 1), st.floats(-30, 30)), min_size=1, max_size=40))
def test_nll_is_scikit_learns(cases):
    labels, logits = np.array([c[0] for c in cases]), np.array([c[1] for c in cases])
    expected = log_loss(labels, to_probabilities(logits), labels=[0, 1])
    assert nll(labels, logits) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_nll_is_finite_where_probabilities_round_to_one():
    assert nll(np.array([0]), np.array([800.0])) == 800.0


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_temperature_is_found_again(temperature):
    labels, logits = overconfident(20_000, temperature, seed=1)
    found = fit_temperature(labels, logits)
    assert found == pytest.approx(temperature, rel=0.05)
    regression = LogisticRegression(C=1e12, fit_intercept=False, tol=1e-10).fit(logits[:, None], labels)
    assert found == pytest.approx(1 / regression.coef_[0, 0], rel=1e-4)


def test_a_temperature_at_its_bounds():
    assert fit_temperature(np.array([0, 1]), np.array([-1.0, 1.0])) == LEAST  # all right: the surer the better
    assert fit_temperature(np.array([1, 0]), np.array([-1.0, 1.0])) == MOST  # all wrong: the less sure the better


def test_a_temperature_at_its_bound_says_nothing_of_val():
    labels, logits = overconfident(2000, 0.001, seed=4)  # faint logits, mistakes among them
    result = calibrate((labels, logits), (labels, logits), [str(i) for i in range(2000)])
    assert result["temperature"] == LEAST and (labels != (logits > 0)).any()
    assert "temperature 0.010 fitted on val (a bound: the best is outside)" in summary(result)


def test_before_and_after(tmp_path):
    val, test = overconfident(5000, 3.0, seed=2), overconfident(5000, 3.0, seed=3)
    videos = [f"m{label}/{i // 2}" for i, label in enumerate(test[0])]
    result = calibrate(val, test, videos)
    assert result["after"]["frame"]["ece"] < 0.03 < 0.1 < result["before"]["frame"]["ece"]
    assert result["after"]["frame"]["nll"] < result["before"]["frame"]["nll"]
    assert result["val_nll"]["after"] < result["val_nll"]["before"]
    assert not result["temperature_at_bound"]
    assert result["before"]["frame"]["nll"] == nll(*test)
    assert result["after"]["frame"]["ece"] == ece(test[0], to_probabilities(test[1] / result["temperature"]))
    assert sum(row["count"] for row in result["after"]["reliability"]) == 5000
    save_figure(reliability_figure(result, "a title"), tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 1000
