"""The metrics, against values worked by hand and brute-force definitions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepfake.common.cli import UserError
from deepfake.evaluating.metrics import binary_metrics, equal_error_rate, evaluate_scores, shown, video_scores

LABELS = [0, 0, 0, 1, 1]
SCORES = [0.1, 0.4, 0.7, 0.6, 0.9]


@st.composite
def scored(draw):
    """Labels with both classes, and scores with many ties."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=30))]
    scores = draw(st.lists(st.integers(0, 8), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores) / 8


def test_worked_by_hand():
    m = binary_metrics(LABELS, SCORES)
    assert (m["n_real"], m["n_fake"]) == (3, 2)
    assert m["acc"] == pytest.approx(4 / 5)  # only the real with 0.7 is wrong
    assert m["balanced_acc"] == pytest.approx((2 / 3 + 1) / 2)
    assert m["auc"] == pytest.approx(5 / 6)  # five of the six real-fake pairs are in order
    assert m["ap"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # precision 1 at 0.9, 2/3 at 0.6
    # ROC: (0, 0) (0, 1/2) (1/3, 1/2) (1/3, 1) (1, 1); fpr = 1 - tpr is crossed on the upright piece at fpr 1/3.
    assert m["eer"] == pytest.approx(1 / 3)


def test_eer_is_interpolated_between_roc_points():
    # ROC with ties: (0, 0) -> (1/4, 1/2) -> (1, 1); fpr = 1 - tpr at fpr 0.4 on the last piece.
    labels = [0, 0, 0, 0, 1, 1]
    scores = [0.9, 0.2, 0.2, 0.2, 0.9, 0.2]
    assert equal_error_rate(labels, scores) == pytest.approx(0.4)


def test_half_is_called_fake():
    assert binary_metrics([0, 1], [0.25, 0.5])["acc"] == 1.0
    assert binary_metrics([0, 1], [0.5, 0.75])["acc"] == 0.5


def test_always_fake_has_the_share_of_fakes_as_accuracy():
    m = binary_metrics([0] * 140 + [1] * 560, [1.0] * 700)
    assert (m["acc"], m["balanced_acc"], m["auc"], m["eer"]) == pytest.approx((0.8, 0.5, 0.5, 0.5))


@given(scored())
def test_auc_is_the_share_of_pairs_in_order(case):
    labels, scores = case
    real, fake = scores[labels == 0], scores[labels == 1]
    pairs = [(f > r) + 0.5 * (f == r) for f in fake for r in real]
    assert binary_metrics(labels, scores)["auc"] == pytest.approx(np.mean(pairs))


@given(scored())
def test_ap_is_the_precision_summed_over_recall_steps(case):
    labels, scores = case
    total, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        now = labels[called].sum() / labels.sum()
        total += (now - recall) * labels[called].mean()
        recall = now
    assert binary_metrics(labels, scores)["ap"] == pytest.approx(total)


@given(scored())
def test_eer_matches_a_walk_along_the_roc(case):
    labels, scores = case
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        points.append((called[labels == 0].mean(), called[labels == 1].mean()))
    for (x0, y0), (x1, y1) in pairwise(points):
        if x1 + y1 >= 1:
            t = (1 - x0 - y0) / (x1 + y1 - x0 - y0)
            expected = x0 + t * (x1 - x0)
            break
    eer = equal_error_rate(labels, scores)
    assert eer == pytest.approx(expected)
    assert 0 <= eer <= 1


@given(scored())
def test_eer_depends_on_the_order_only(case):
    labels, scores = case
    eer = equal_error_rate(labels, scores)
    assert equal_error_rate(labels, 5 * scores**3 - 2) == pytest.approx(eer)
    assert equal_error_rate(labels, -scores) == pytest.approx(1 - eer)


@given(scored(), st.randoms(use_true_random=False))
def test_order_of_the_images_does_not_matter(case, random):
    labels, scores = case
    order = list(range(len(labels)))
    random.shuffle(order)
    assert binary_metrics(labels[order], scores[order]) == pytest.approx(binary_metrics(labels, scores))


def test_a_video_is_the_mean_of_its_frames_probabilities():
    videos = ["real/7", "swap/7", "real/7", "swap/7", "swap/8"]
    out = video_scores(videos, [0, 1, 0, 1, 1], [0.1, 0.9, 0.3, 0.2, 0.4])
    assert out.videos == ["real/7", "swap/7", "swap/8"]
    assert out.labels.tolist() == [0, 1, 1]
    assert out.scores == pytest.approx([0.2, 0.55, 0.4])


def test_frame_and_video_differ():
    videos = ["real/1", "real/2", "swap/1", "swap/1", "swap/1"]
    both = evaluate_scores(videos, [0, 0, 1, 1, 1], [0.1, 0.2, 0.4, 0.9, 0.8])
    assert (both["frame"]["n_fake"], both["video"]["n_fake"]) == (3, 1)
    assert both["frame"]["acc"] == pytest.approx(0.8)
    assert both["video"]["acc"] == 1.0  # (0.4 + 0.9 + 0.8) / 3 is above one half


@given(scored())
def test_stills_score_the_same_as_frames_and_as_videos(case):
    labels, scores = case
    both = evaluate_scores([f"m/{i}" for i in range(len(labels))], labels, scores)
    assert both["frame"] == both["video"]


@given(st.floats(0, 1), st.integers(1, 50))
def test_a_video_of_equal_frames_keeps_their_score_exactly(score, frames):
    assert video_scores(["m/1"] * frames, [1] * frames, [score] * frames).scores.tolist() == [score]


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1], [0.1, float("nan")], "score nan at position 1"),
        ([0, 1], [0.1, float("inf")], "score inf at position 1"),
        ([0, 1], [0.1, 1.5], "score 1.5 at position 1"),
        ([1, 1], [0.1, 0.2], "only fake images (2)"),
        ([0, 0, 0], [0.1, 0.2, 0.3], "only real images (3)"),
        ([0, 1], [0.1], "shape (2,) and scores of shape (1,)"),
        ([0, 2], [0.1, 0.2], "label 2 at position 1"),
        ([], [], "no images"),
    ],
)
def test_bad_input_is_named(labels, scores, words):
    with pytest.raises(UserError) as caught:
        binary_metrics(labels, scores)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_video_with_two_labels_is_named():
    with pytest.raises(UserError, match="'swap/3' has both real and fake"):
        video_scores(["swap/3", "swap/3"], [0, 1], [0.1, 0.2])


def test_video_names_of_another_length():
    with pytest.raises(UserError, match="1 video names for 2 labels"):
        video_scores(["swap/3"], [0, 1], [0.1, 0.2])


@pytest.mark.parametrize(
    ("score", "text"), [(0.497, "0.497"), (0.4999999, "0.4999999"), (0.5, "0.50"), (0.4949, "0.49"), (1.0, "1.00")]
)
def test_a_shown_score_is_on_its_own_side_of_the_threshold(score, text):
    assert shown(score) == text
