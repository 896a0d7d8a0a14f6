"""bootstrap.py: a resample's metrics are those of the resampled scores; intervals hold what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.common.cli import UserError
from deepfake.evaluating import bootstrap
from deepfake.evaluating.bootstrap import draw, evaluate_with_intervals, resample, weighted_metrics
from deepfake.evaluating.metrics import binary_metrics, evaluate_scores

NAMES = ("acc", "balanced_acc", "auc", "ap", "eer")


@st.composite
def weighted(draw_from):
    """Labels of both classes, scores with ties, and whole weights with some of each class."""
    labels = [0, 1, *draw_from(st.lists(st.integers(0, 1), max_size=20))]
    size = len(labels)
    scores = draw_from(st.lists(st.integers(0, 8), min_size=size, max_size=size))
    weights = draw_from(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    weights[:2] = max(1, weights[0]), max(1, weights[1])
    return np.array(labels), np.array(scores) / 8, np.array(weights)


def clips(count=20, frames=4, seed=0):
    """Names, labels and scores of `count` videos of each class; a video's frames have nearly one score."""
    generator = np.random.default_rng(seed)
    labels = np.repeat([0, 1], count)
    centres = np.clip(generator.normal(0.4 + 0.2 * labels, 0.2), 0.05, 0.95)
    scores = np.repeat(centres, frames) + generator.uniform(-0.04, 0.04, 2 * count * frames)
    names = [f"{'swap' if label else 'real'}/{i}" for i, label in enumerate(labels) for _ in range(frames)]
    return names, np.repeat(labels, frames), scores


@given(weighted())
def test_a_weight_of_k_is_the_score_k_times_over(case):
    labels, scores, weights = case
    repeated = binary_metrics(np.repeat(labels, weights), np.repeat(scores, weights))
    found = weighted_metrics(labels, scores, np.array([weights, np.ones(len(labels))], dtype=float))
    plain = binary_metrics(labels, scores)
    for name in NAMES:
        assert found[name] == pytest.approx([repeated[name], plain[name]]), name


def test_each_class_is_drawn_from_itself():
    labels = np.array([0, 1, 1, 0, 1])
    counts = draw(labels, 500, np.random.default_rng(0))
    assert (counts[:, labels == 0].sum(axis=1) == 2).all()
    assert (counts[:, labels == 1].sum(axis=1) == 3).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(5), abs=0.15)


def test_a_frame_counts_as_often_as_its_video():
    names, labels, scores = clips(count=6, frames=3)
    found = resample(names, labels, scores, resamples=5, seed=7)
    video_labels = labels[::3]
    for number, counts in enumerate(draw(video_labels, 5, np.random.default_rng(7)).astype(int)):
        again = [(n, i, y, s) for i, (n, y, s) in enumerate(zip(names, labels, scores)) for _ in range(counts[i // 3])]
        expected = binary_metrics([y for _, _, y, _ in again], [s for *_, s in again])
        assert {name: found["frame"][name][number] for name in NAMES} == pytest.approx({n: expected[n] for n in NAMES})


def test_the_figures_are_those_without_intervals():
    names, labels, scores = clips()
    plain = evaluate_scores(names, labels, scores)
    found = evaluate_with_intervals(names, labels, scores)
    for level in ("frame", "video"):
        intervals = found[level].pop("ci95")
        assert found[level] == plain[level]
        assert set(intervals) == set(NAMES)
        for name, (low, high) in intervals.items():
            assert 0 <= low < high <= 1
            assert low <= plain[level][name] <= high
    assert evaluate_with_intervals(names, labels, scores, resamples=0) == plain


def test_the_same_seed_gives_the_same_intervals_in_chunks_of_any_size(monkeypatch):
    names, labels, scores = clips()
    whole = evaluate_with_intervals(names, labels, scores, resamples=50, seed=3)
    monkeypatch.setattr(bootstrap, "CHUNK", 7 * len(labels))
    assert evaluate_with_intervals(names, labels, scores, resamples=50, seed=3) == whole
    assert evaluate_with_intervals(names, labels, scores, resamples=50, seed=4) != whole


def test_videos_are_the_unit_not_frames():
    names, labels, scores = clips(count=15, frames=16)
    by_video = evaluate_with_intervals(names, labels, scores)["frame"]["ci95"]["auc"]
    by_frame = evaluate_with_intervals([f"{n}{i}" for i, n in enumerate(names)], labels, scores)["frame"]["ci95"]["auc"]
    assert np.diff(by_video) > 2.5 * np.diff(by_frame)  # 16 near copies of each frame are no 16 times the evidence


def test_without_a_mistake_there_is_no_spread():
    found = evaluate_with_intervals(["real/1", "real/2", "swap/1"], [0, 0, 1], [0.1, 0.2, 0.9])
    assert found["video"]["ci95"]["auc"] == [1.0, 1.0]
    assert found["video"]["ci95"]["eer"] == [0.0, 0.0]


def test_the_interval_covers_the_truth_as_often_as_it_says():
    # 150 samples from one population whose AUC is known; percentile intervals of 40 + 40 videos cover it nearly 95 %.
    truth = evaluate_scores(*clips(count=4000, frames=2, seed=99))
    covered = {"frame": 0, "video": 0}
    for seed in range(150):
        found = evaluate_with_intervals(*clips(40, 2, seed), resamples=200, seed=seed)
        for level in covered:
            low, high = found[level]["ci95"]["auc"]
            covered[level] += low <= truth[level]["auc"] <= high
    assert all(0.88 <= count / 150 <= 0.99 for count in covered.values()), covered


def test_one_class_only_is_an_error():
    with pytest.raises(UserError, match="only fake images"):
        evaluate_with_intervals(["swap/1", "swap/2"], [1, 1], [0.1, 0.2])
