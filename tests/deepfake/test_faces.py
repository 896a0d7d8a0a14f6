"""Faces: the detector finds a real face at any resolution, and crops are square, centred and defined at borders."""

from __future__ import annotations

import builtins

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

pytest.importorskip("dlib", reason="face detection needs dlib-bin")

from deepfake.common.cli import UserError
from deepfake.media.faces import FaceDetector, box_iou, square_crop


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def test_finds_the_astronaut_and_only_her(detector):
    faces = detector.detect(astronaut())
    assert len(faces) == 1
    x0, y0, x1, y1 = faces[0].box
    assert x0 < 224 < x1 and y0 < 115 < y1, "the box must hold the nose"
    assert faces[0].score > 0
    assert detector.largest(astronaut()) == faces[0]


def test_box_of_a_large_photo_is_in_its_own_pixels(detector):
    """The same photo four times as large gives four times the box, within the detector's step."""
    small = FaceDetector(working_side=512)
    large = cv2.resize(astronaut(), (2048, 2048), interpolation=cv2.INTER_CUBIC)
    expected = 4 * np.array(small.largest(astronaut()).box)
    assert np.abs(np.array(small.largest(large).box) - expected).max() < 60
    assert box_iou(tuple(expected), detector.largest(large).box) > 0.6


def test_largest_of_two_faces(detector):
    image = astronaut()
    smaller = cv2.resize(image, (300, 300), interpolation=cv2.INTER_AREA)
    both = np.zeros((512, 812, 3), np.uint8)
    both[:, :512], both[:300, 512:] = image, smaller
    faces = detector.detect(np.ascontiguousarray(cv2.resize(both, None, fx=1.8, fy=1.8)))
    assert len(faces) == 2
    assert faces[0].area > faces[1].area
    assert faces[0].box[0] < 512 * 1.8


def test_no_face(detector):
    assert detector.largest(np.full((200, 300, 3), 127, np.uint8)) is None
    assert detector.largest(np.zeros((5, 7, 3), np.uint8)) is None


def test_name_holds_version_and_working_size(detector):
    import dlib

    assert dlib.__version__ in detector.name and "side960" in detector.name


@pytest.mark.parametrize("bad", [np.zeros((8, 8)), np.zeros((8, 8, 3), np.float32), [[1]]])
def test_only_uint8_images(detector, bad):
    with pytest.raises(TypeError, match="uint8"):
        detector.detect(bad)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_only_rgb_images(detector, shape):
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        detector.detect(np.zeros(shape, np.uint8))


def test_missing_dlib_is_one_clear_error(monkeypatch):
    real_import = builtins.__import__

    def no_dlib(name, *args, **kwargs):
        if name == "dlib":
            raise ImportError("No module named 'dlib'")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_dlib)
    with pytest.raises(UserError, match=r'pip install -e "\.\[example\]"'):
        FaceDetector()


def test_crop_inside_the_image_keeps_its_pixels():
    image = np.arange(20 * 30 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)
    crop = square_crop(image, (10, 5, 20, 15), scale=1.0)
    assert np.array_equal(crop, image[5:15, 10:20])


def test_crop_over_the_border_repeats_the_edge():
    image = np.arange(20 * 30 * 3, dtype=np.uint16).astype(np.uint8).reshape(20, 30, 3)
    crop = square_crop(image, (-5, -5, 5, 5), scale=1.0)
    assert np.array_equal(crop[5:, 5:], image[:5, :5])
    assert (crop[:5, :5] == image[0, 0]).all()


@settings(max_examples=60, deadline=None)
@given(
    x=st.floats(-50, 150), y=st.floats(-50, 150), w=st.floats(0.5, 200), h=st.floats(0.5, 200),
    scale=st.floats(0.5, 2.5), size=st.one_of(st.none(), st.integers(1, 96)),
)  # fmt: skip
def test_crop_is_always_square(x, y, w, h, scale, size):
    crop = square_crop(np.zeros((90, 110, 3), np.uint8), (x, y, x + w, y + h), scale=scale, size=size)
    side = size or max(1, round(scale * max(w, h)))
    assert crop.dtype == np.uint8
    assert abs(crop.shape[0] - side) <= 1 and crop.shape[0] == crop.shape[1]


@pytest.mark.parametrize(
    "box, options",
    [((5, 5, 5, 9), {}), ((0, 0, np.nan, 4), {}), ((0, 0, 4, 4), {"scale": 0}), ((0, 0, 4, 4), {"size": 0})],
)
def test_bad_crops_name_the_value(box, options):
    with pytest.raises(ValueError, match="got"):
        square_crop(np.zeros((9, 9, 3), np.uint8), box, **options)


def test_box_iou():
    assert box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1.0
    assert box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert box_iou((0, 0, 1, 1), (1, 1, 2, 2)) == 0.0
