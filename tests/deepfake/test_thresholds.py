"""thresholds.py: no threshold fits val better, and rates with intervals are those of the metrics at 0.5."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.evaluating import bootstrap
from deepfake.evaluating.bootstrap import evaluate_with_intervals
from deepfake.evaluating.thresholds import at_thresholds, error_rates, fit_threshold

pytestmark = pytest.mark.filterwarnings("error")


@st.composite
def scored(draw):
    """Labels of both classes, and scores with ties."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=20))]
    return np.array(labels), np.array(draw(st.lists(st.integers(0, 8), min_size=len(labels), max_size=len(labels)))) / 8


def clips(count=20, frames=4):
    """Names, labels and scores of `count` videos of each class, of `frames` images each."""
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], count * frames)
    names = [f"{'swap' if label else 'real'}/{i // frames}" for i, label in enumerate(labels)]
    return names, labels, np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0, 1)


@given(scored())
def test_no_other_threshold_is_better_and_of_equal_ones_it_is_the_highest(case):
    labels, scores = case
    found = fit_threshold(labels, scores)
    distinct = np.unique(scores)
    middles = (distinct[:-1] + distinct[1:]) / 2
    if not len(middles):
        assert found is None
        return
    called = scores >= middles[:, None]
    balanced = called[:, labels == 1].mean(axis=1) - called[:, labels == 0].mean(axis=1)
    assert found == middles[np.isclose(balanced, balanced.max(), rtol=0, atol=1e-9)].max()


def test_the_order_of_the_images_does_not_change_the_threshold():
    _, labels, scores = clips()
    order = np.random.default_rng(1).permutation(len(labels))
    assert fit_threshold(labels[order], scores[order]) == fit_threshold(labels, scores)


@pytest.mark.parametrize("low", [0.3, np.nextafter(0.3, 1), 1e-300, np.nextafter(1, 0)])
def test_neighbouring_floats_are_separated(low):
    scores = np.array([low, np.nextafter(low, 1)])
    found = fit_threshold(np.array([0, 1]), scores)
    assert (scores >= found).tolist() == [False, True]


def test_rates_at_a_half_are_those_of_the_metrics():
    names, labels, scores = clips()
    level = evaluate_with_intervals(names, labels, scores, 200, 3)["frame"]
    found = error_rates(names, labels, scores, 0.5, 200, 3)
    for name in ("acc", "balanced_acc"):
        assert found[name] == pytest.approx(level[name])
        assert found["ci95"][name] == pytest.approx(level["ci95"][name])
    assert found["fpr"] == np.mean(scores[labels == 0] >= 0.5)
    low, high = found["ci95"]["fpr"]
    assert 0 < low < found["fpr"] < high < 1


def test_a_score_at_the_threshold_is_called_fake():
    found = error_rates(["real/1", "real/2", "swap/1"], np.array([0, 0, 1]), np.array([0.2, 0.7, 0.7]), 0.7, 0, 0)
    assert found == {"acc": pytest.approx(2 / 3), "balanced_acc": 0.75, "fpr": 0.5}


def test_intervals_are_the_same_in_chunks_of_any_size(monkeypatch):
    whole = error_rates(*clips(), 0.5, 50, 3)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * 40)
    assert error_rates(*clips(), 0.5, 50, 3) == whole
    assert error_rates(*clips(), 0.5, 50, 4) != whole


def test_what_a_missing_class_or_a_single_video_leaves_open_is_none():
    names, labels, scores = ["real/1", "real/1", "real/2"], np.zeros(3, dtype=int), np.array([0.2, 0.7, 0.4])
    found = error_rates(names, labels, scores, 0.5, 100, 0)
    assert (found["acc"], found["balanced_acc"], found["fpr"]) == (None, None, pytest.approx(1 / 3))
    assert found["ci95"] == {"acc": None, "balanced_acc": None, "fpr": [0.0, 0.5]}

    fakes = error_rates(["swap/1", "swap/2"], np.ones(2, dtype=int), np.array([0.2, 0.7]), 0.5, 100, 0)
    nothing = dict.fromkeys(("acc", "balanced_acc", "fpr"))
    assert fakes == nothing | {"ci95": nothing}

    single = error_rates(["real/1", "swap/1", "swap/2"], np.array([0, 1, 1]), np.array([0.2, 0.7, 0.4]), 0.5, 100, 0)
    assert (single["fpr"], single["balanced_acc"], single["ci95"]) == (0.0, 0.75, nothing)


def test_without_a_threshold_from_val_there_is_the_half_alone():
    names, labels, scores = clips()
    found = at_thresholds(names, labels, scores, None, 0, 0)
    assert found == {"0.5": error_rates(names, labels, scores, 0.5, 0, 0), "from_val": None}
