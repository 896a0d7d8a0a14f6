"""Degradations and the curves over them: deterministic, worse with strength, the same images and figures."""

import json

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio

import evaluate
from deepfake.data import open_split
from deepfake.evaluating.degradations import DEGRADATIONS, blur, degrade, h264, jpeg, noise, shrink
from deepfake.evaluating.robustness import Degraded
from tests.deepfake.tiny_runs import build, save_images, save_run

FACE = np.ascontiguousarray(astronaut()[:201, 100:303])  # odd sides: H.264 takes even ones


FEW = {"jpeg": (90, 10), "h264": (30,), "noise": (16,)}


def through(kind, strength):
    """The picture as a clip of three frames, or alone."""
    return h264([FACE] * 3, strength)[1] if kind == "h264" else degrade(FACE, kind, strength, "face")


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_from_mild_to_severe_and_always_the_same(kind):
    strengths = DEGRADATIONS[kind].strengths
    assert len(strengths) == 5
    pictures = [through(kind, strength) for strength in strengths]
    fidelity = [peak_signal_noise_ratio(FACE, picture) for picture in pictures]
    assert all(picture.shape == FACE.shape and picture.dtype == np.uint8 for picture in pictures)
    assert fidelity == sorted(fidelity, reverse=True) and fidelity[0] > fidelity[-1] + 5
    assert np.array_equal(through(kind, strengths[2]), pictures[2])


def test_jpeg_is_jpeg_of_that_quality(tmp_path):
    assert peak_signal_noise_ratio(FACE, jpeg(FACE, 100)) > 35
    Image.fromarray(FACE).save(tmp_path / "face.jpg", quality=30)  # 4:2:0 too: another encoder, the same loss
    other = peak_signal_noise_ratio(FACE, np.asarray(Image.open(tmp_path / "face.jpg")))
    assert peak_signal_noise_ratio(FACE, jpeg(FACE, 30)) == pytest.approx(other, abs=0.5)


def test_noise_has_its_deviation_and_differs_by_name():
    grey = np.full((200, 200, 3), 128, np.uint8)
    difference = noise(grey, 8, "a").astype(float) - 128
    assert difference.std() == pytest.approx(8, rel=0.02)
    assert difference.mean() == pytest.approx(0, abs=0.1)
    assert not np.array_equal(noise(grey, 8, "a"), noise(grey, 8, "b"))
    noise(grey, 8, "odd\udcff")  # a file's name need not be text


def test_blur_goes_by_the_side():
    impulse = np.zeros((201, 201, 3), np.uint8)
    impulse[100, 100] = 255
    spread = blur(impulse.astype(np.float32), 1)[100, :, 0]
    place = np.arange(201) - 100
    assert np.sqrt((spread * place**2).sum() / spread.sum()) == pytest.approx(2.01, rel=0.03)


def test_shrinking_a_flat_picture_changes_nothing():
    flat = np.full((50, 40, 3), (10, 200, 90), np.uint8)
    assert np.array_equal(shrink(flat, 0.15), flat)
    assert shrink(flat[:1, :1], 0.15).shape == (1, 1, 3)


def test_a_clip_keeps_its_order():
    frames = [np.full((32, 32, 3), 20 * i, np.uint8) for i in range(12)]
    assert [round(float(frame.mean()) / 20) for frame in h264(frames, 18)] == list(range(12))


def test_a_codec_wants_frames_of_one_size():
    with pytest.raises(ValueError, match="one size"):
        h264([FACE, FACE[:100]], 23)
    with pytest.raises(ValueError, match="at least one"):
        h264([], 23)
    with pytest.raises(ValueError, match="'h264'"):
        degrade(FACE, "h264", 23, "face")


def test_the_frames_of_a_video_are_one_clip(tmp_path):
    images = open_split(save_images(tmp_path / "faces", splits=("test",)), "test", 64)
    seen = Degraded(images, "h264", 44)
    assert (seen.names, seen.labels.tolist(), len(seen)) == (images.names, images.labels.tolist(), len(images))
    for video in dict.fromkeys(images.videos):
        members = [i for i, name in enumerate(images.videos) if name == video]
        expected = h264([images.crop(i) for i in members], 44)
        for i, frame in zip(members, expected):
            assert np.array_equal(seen.crop(i), frame)
    assert np.array_equal(seen.crop(3), Degraded(images, "h264", 44).crop(3))  # in any order


def test_frames_of_several_sizes_are_several_clips(tmp_path):
    folder = save_images(tmp_path / "faces", splits=("test",), people=1, frames=3)
    small = folder / "test_real_0_2.png"
    Image.open(small).resize((48, 48)).save(small)
    images = open_split(folder, "test", 64)
    seen = Degraded(images, "h264", 30)
    assert [seen.crop(i).shape for i in range(3)] == [(80, 80, 3), (80, 80, 3), (48, 48, 3)]


def test_the_command_writes_curves_twice_alike(tmp_path, monkeypatch):
    run, folder = save_run(tmp_path / "run", build("panet")), save_images(tmp_path / "faces")
    few = {kind: DEGRADATIONS[kind]._replace(strengths=strengths) for kind, strengths in FEW.items()}
    monkeypatch.setattr("deepfake.evaluating.robustness.DEGRADATIONS", few)
    written = []
    for name in ("one", "two"):
        out = tmp_path / name
        evaluate.main([str(run), "--data", str(folder), "--out", str(out), "--robustness", "--workers", "0"])
        written.append((out / "robustness.json").read_text())
        with Image.open(out / "robustness.png") as image:
            image.verify()
    assert written[0] == written[1]
    found = json.loads(written[0])
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert found["clean"] == {level: metrics[level] for level in ("frame", "video")}
    assert {name: found[name] for name in ("run", "fingerprint", "split")} == {
        name: metrics[name] for name in ("run", "fingerprint", "split")
    }
    for kind, item in few.items():
        assert [row["strength"] for row in found[kind]] == list(item.strengths)
        assert all(row["frame"]["n_fake"] == 6 and len(row["video"]["ci95"]["auc"]) == 2 for row in found[kind])
