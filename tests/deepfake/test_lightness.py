"""lightness.py: the middle of a crop alone decides whether a face is one of the darker or of the lighter ones."""

import numpy as np
import pytest

from deepfake.evaluating.lightness import face_lightness


def grey(value, shape=(50, 50)):
    return np.full((*shape, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(("value", "lightness"), [(0, 0), (255, 100), (119, 50.03), (64, 27.09)])
def test_lightness_is_cielabs(value, lightness):
    assert face_lightness(grey(value)) == pytest.approx(lightness, abs=0.25)


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
