"""lightness.py: the middle of a crop alone decides the group; a group's figures are those of its images."""

import numpy as np
import pytest

from deepfake.dataset.images import Images
from deepfake.evaluating import lightness
from deepfake.evaluating.bootstrap import evaluate_with_intervals
from deepfake.evaluating.lightness import DARK, face_lightness, figures_by_lightness, lightness_of
from deepfake.evaluating.thresholds import at_thresholds


def grey(value, shape=(50, 50)):
    return np.full((*shape, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (255, 100), (119, 50.03), (64, 27.09)])
def test_lightness_is_cielabs(value, expected):
    assert face_lightness(grey(value)) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("shape", [(50, 50), (50, 80), (90, 50)])
def test_only_the_middle_counts(shape):
    crop = grey(255, shape)
    top, left = (shape[0] - 20) // 2, (shape[1] - 20) // 2
    crop[top : top + 20, left : left + 20] = 90
    assert face_lightness(crop) == face_lightness(grey(90))
    crop[top, left] = 255
    assert face_lightness(crop) > face_lightness(grey(90))


def test_an_image_of_one_pixel_has_a_lightness():
    assert face_lightness(grey(255, (1, 1))) == pytest.approx(100)


def known_faces(values, videos, **more):
    """Images of one grey each; `labels` from the videos' names."""
    labels = [int(not video.startswith("real/")) for video in videos]
    about = {"names": videos, "methods": ["?"] * len(videos), "description": "", "fingerprint": "", "image_size": 8}
    pixels = np.stack([grey(value) for value in values])
    return Images(labels=labels, videos=videos, pixels=pixels, **about, **more)


def test_only_faces_known_to_be_in_the_middle_have_a_lightness():
    images = known_faces([0, 255, 255], ["real/1", "real/2", "swap/1"], face_in_middle=[True, False, True])
    assert lightness_of(images) == pytest.approx([0, np.nan, 100], nan_ok=True)
    assert np.isnan(lightness_of(known_faces([0, 255], ["real/1", "swap/1"]))).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_lightness_is_in_the_order_of_the_images(workers, monkeypatch):
    monkeypatch.setattr(lightness, "READ_TOGETHER", 3)
    values = [10, 200, 90, 30, 250, 120, 60]
    images = known_faces(values, [f"real/{value}" for value in values], face_in_middle=np.array(True))
    assert lightness_of(images, workers).tolist() == [face_lightness(grey(value)) for value in values]


def figures(light, videos, scores, resamples=50):
    labels = np.array([int(not video.startswith("real/")) for video in videos])
    return figures_by_lightness(np.array(light), videos, labels, np.array(scores), 0.3, resamples, 0)


VIDEOS = ["real/1", "real/2", "swap/1", "swap/2", "swap/2"]
SCORES = [0.1, 0.6, 0.4, 0.9, 0.2]


def test_a_groups_figures_are_those_of_its_images_alone():
    found = figures([45.0, 80, 50, 60, 70, 44.9, np.nan], [*VIDEOS, "real/1", "real/3"], [*SCORES, 0.7, 0.5])
    assert (found["dark_below"], found["n_unknown"]) == (DARK, 1)
    darker, lighter = found["darker"], found["lighter"]
    assert [lighter[name] for name in ("n_real", "n_fake", "n_videos")] == [2, 3, 4]
    assert [darker[name] for name in ("n_real", "n_fake", "n_videos")] == [1, 0, 1]
    labels = np.array([0, 0, 1, 1, 1])
    level = evaluate_with_intervals(VIDEOS, labels, SCORES, 50, 0)["frame"]
    assert (lighter["auc"], lighter["ci95"]["auc"]) == (level["auc"], level["ci95"]["auc"])
    assert lighter["at_threshold"] == at_thresholds(VIDEOS, labels, np.array(SCORES), 0.3, 50, 0)


@pytest.mark.filterwarnings("error")
def test_a_group_without_images_a_class_or_a_second_video_has_nulls():
    found = figures([80.0] * 5, VIDEOS, SCORES)
    assert found["darker"]["n_videos"] == 0 and found["darker"]["auc"] is None
    assert found["darker"]["at_threshold"]["0.5"]["fpr"] is None
    assert found["lighter"]["ci95"]["auc"] is not None

    found = figures([20.0, 80, 80, 20, 80], VIDEOS, SCORES)
    assert found["darker"]["auc"] == 1.0  # one video of each class: a figure, but no interval
    assert found["darker"]["ci95"] == {"auc": None}
    assert found["darker"]["at_threshold"]["from_val"]["ci95"]["fpr"] is None
    assert "ci95" not in figures([20.0] * 5, VIDEOS, SCORES, resamples=0)["darker"]


def test_without_a_known_lightness_there_are_no_groups():
    assert figures([np.nan] * 5, VIDEOS, SCORES) is None
