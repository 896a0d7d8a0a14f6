"""predict.py: the pipeline of training and evaluation, one JSON line per input; a failed input does not stop it."""

import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import explain
import predict
from deepfake.dataset.images import to_unit_range
from deepfake.dataset.resizing import square
from deepfake.media.faces import FaceDetector, square_crop
from deepfake.media.video import decode_frames, write_clip
from deepfake.predicting.annotation import FAKE_COLOUR, REAL_COLOUR, annotated
from deepfake.predicting.views import ViewFinder
from tests.deepfake.scripts import call_json, evaluated
from tests.deepfake.tiny_runs import build, save_images, save_run


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Ten frames of a face drifting to the right, then three without one."""
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    face = astronaut()[:300, 60:420]
    frames = [np.roll(face, 4 * i, axis=1) for i in range(10)] + [np.full_like(face, 90)] * 3
    write_clip(path, frames, crf=18)
    return path


def score(crop):
    """What the tiny network says of a crop."""
    pixels = torch.tensor(square(crop, 64)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return build("panet").eval()(to_unit_range(pixels)).logits.double().sigmoid().item()


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_the_face_is_found_and_cropped_as_for_training(run, tmp_path, capsys):
    photo = save(tmp_path / "photo.png", astronaut())
    code, (line,), errors = call_json(predict.main, capsys, run, photo)
    assert (code, errors) == (0, [])
    face = FaceDetector().largest(astronaut())
    assert line["box"] == pytest.approx(face.box, abs=0.05)
    assert line["fake_probability"] == pytest.approx(score(square_crop(astronaut(), face.box)), abs=1e-6)
    assert line["prediction"] == ("fake" if line["fake_probability"] >= 0.5 else "real")
    assert (line["path"], line["run"], line["model"]) == (str(photo), str(run), "PANet tiny")


def test_other_people_are_counted(run, tmp_path, capsys):
    three = np.zeros((1024, 1024, 3), np.uint8)
    for number, place in enumerate(((0, 0), (0, 512), (512, 0))):
        side = 512 - 100 * number
        face = Image.fromarray(astronaut()).resize((side, side))
        three[place[0] : place[0] + side, place[1] : place[1] + side] = np.asarray(face)
    photo, alone = save(tmp_path / "three.png", three), save(tmp_path / "alone.png", astronaut())
    write_clip(tmp_path / "clip.mp4", [three, three, np.pad(astronaut(), ((0, 512), (0, 512), (0, 0)))], crf=18)
    code, lines, errors = call_json(predict.main, capsys, run, photo, alone, tmp_path / "clip.mp4")
    counts = [len(FaceDetector().detect(image)) for image in decode_frames(tmp_path / "clip.mp4")]
    assert (code, errors) == (0, []) and [line["faces"] for line in lines] == [3, 1, max(counts)]
    assert lines[0]["box"][2] < 512 and lines[0]["box"][3] < 512  # the largest is judged
    assert [frame["faces"] for frame in lines[2]["frames"]] == counts and min(counts) < max(counts)
    _, (line,), _ = call_json(predict.main, capsys, run, photo, "--crop", "none")
    assert line["faces"] is None


def test_no_crop_takes_the_picture_as_it_is(run, tmp_path, capsys):
    drawing = save(tmp_path / "drawing.png", astronaut()[:120, 160:280])
    code, (line,), _ = call_json(predict.main, capsys, run, drawing, "--crop", "none")
    assert (code, line["box"]) == (0, None)
    assert line["fake_probability"] == pytest.approx(score(astronaut()[:120, 160:280]), abs=1e-6)


def test_prediction_and_evaluation_agree(run, tmp_path, capsys):
    folder = save_images(tmp_path / "faces", splits=("test",))
    out = tmp_path / "out"
    evaluated(run, folder, out)
    capsys.readouterr()
    code, lines, _ = call_json(predict.main, capsys, run, folder, "--crop", "none")
    listed = {row.split(",")[0]: float(row.split(",")[4]) for row in (out / "scores.csv").read_text().splitlines()[1:]}
    found = {line["path"].removeprefix(f"{folder}/"): line["fake_probability"] for line in lines}
    assert code == 0
    assert found == pytest.approx(listed, abs=1e-6)


def test_a_video_is_the_mean_of_its_frames_with_a_face(run, clip, capsys):
    code, (line,), _ = call_json(predict.main, capsys, run, clip, "--batch-size", 3)
    frames = line["frames"]
    assert code == 0
    assert "box" not in line
    assert [frame["frame"] for frame in frames] == list(range(10))  # not the three without a face
    assert line["fake_probability"] == pytest.approx(np.mean([frame["fake_probability"] for frame in frames]))
    drift = frames[9]["box"][0] - frames[0]["box"][0]
    assert drift == pytest.approx(36, abs=12)


def test_a_video_s_frames_are_not_held_in_full(clip, monkeypatch):
    finder = ViewFinder("face", frames=13, image_size=64)
    seen, detect = [], finder.detector.detect
    monkeypatch.setattr(finder.detector, "detect", lambda image: seen.append(weakref.ref(image)) or detect(image))
    views = finder.views(clip)
    assert len(seen) == len(views) == 13 and not any(image() is not None for image in seen)
    assert {view.pixels.shape for view in views if view.pixels is not None} == {(64, 64, 3)}


def test_frames_are_spread_over_the_video(run, clip, capsys):
    _, (line,), _ = call_json(predict.main, capsys, run, clip, "--frames", 3, "--crop", "none")
    assert [frame["frame"] for frame in line["frames"]] == [2, 6, 10]  # floor((i + 0.5) 13 / 3)
    assert all(frame["box"] is None for frame in line["frames"])


def test_a_folder_is_all_its_pictures_and_videos_sorted(run, clip, tmp_path, capsys):
    for name in (
        "b.png",
        "a/z.JPG",
        "c/d/e.webp",
        ".hidden.png",
        ".hidden/f.png",
        "b.annotated.png",
        "b.annotated.curve.png",
    ):
        save(tmp_path / name, astronaut()[:100, :100])
    (tmp_path / "c" / "up").symlink_to("..")
    (tmp_path / "a" / "clip.annotated.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "clip.mp4").write_bytes(clip.read_bytes())
    code, lines, errors = call_json(predict.main, capsys, run, tmp_path, "--crop", "none", "--frames", 1)
    left_out = "2 hidden (.hidden, ...), 3 drawn by these commands (b.annotated.curve.png, ...)"
    assert (code, errors) == (0, [f"{tmp_path}: left out {left_out}, 1 neither image nor video (notes.txt)"])
    names = [line["path"].removeprefix(f"{tmp_path}/") for line in lines]
    assert names == ["a/clip.mp4", "a/z.JPG", "b.png", "c/d/e.webp"]


def test_inputs_that_fail_are_named_and_the_others_scored(run, tmp_path, capsys):
    good = save(tmp_path / "good.png", astronaut())
    faceless = save(tmp_path / "faceless.png", np.full((200, 200, 3), 120, np.uint8))
    broken, video, empty = tmp_path / "broken.jpg", tmp_path / "broken.mp4", tmp_path / "empty"
    broken.write_bytes(b"\xff\xd8 this is no picture")
    video.write_bytes(b"this is no video")
    empty.mkdir()
    missing, endless = tmp_path / "missing.png", tmp_path / ("x" * 300)
    code, lines, errors = call_json(
        predict.main, capsys, run, broken, faceless, good, video, empty, missing, endless, good
    )
    assert code == 1
    assert [line["path"] for line in lines] == [str(good)] * 2
    assert len(errors) == 6
    for error, path in zip(errors, (broken, faceless, video, empty, missing, endless), strict=True):
        assert error.startswith(f"error: {path}: ")
    assert "--crop none" in errors[1]


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["{tmp}/nowhere", "{tmp}"], "nowhere does not exist", 2),
        (["{tmp}", "{tmp}"], "config.json", 2),
        (["{run}"], "PATH", 2),
        (["", "{tmp}"], "RUN: is empty", 2),
        (["{run}", ""], "PATH: is empty", 2),
        (["{run}", "{tmp}", "--annotate", ""], "--annotate: is empty", 2),
        (["{run}", "{tmp}", "--clip"], "--annotate", 2),
        (["{run}", "{tmp}", "--frames", "0"], "'0'", 2),
        (["{run}", "{tmp}", "--crop", "eyes"], "'eyes'", 2),
        (["{run}", "{tmp}", "--annotate", "{run}/config.json"], "config.json", 2),
    ],
)
def test_bad_arguments_give_one_line(arguments, words, code, run, tmp_path, capsys):
    found, lines, errors = call_json(predict.main, capsys, *(text.format(run=run, tmp=tmp_path) for text in arguments))
    assert (found, lines, len(errors)) == (code, [], 1)
    assert words in errors[0]


def test_a_pickle_in_place_of_the_weights_is_refused(tmp_path, capsys):
    run = save_run(tmp_path / "bad", build("panet"))
    torch.save({"weights": torch.zeros(2)}, run / "best" / "model.safetensors")
    code, lines, errors = call_json(predict.main, capsys, run, tmp_path)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert "model.safetensors" in errors[0]


def test_pictures_are_drawn_apart_from_their_sources(run, clip, tmp_path, capsys):
    pixels = astronaut()
    photos = [save(tmp_path / name, pixels) for name in ("a/photo.png", "b/photo.png")]
    out = tmp_path / "a"
    code, lines, _ = call_json(predict.main, capsys, run, *photos, clip, "--annotate", out, "--clip")
    assert code == 0
    drawn = [line["annotated"] for line in lines]
    assert drawn == [str(out / name) for name in ("photo.annotated.png", "photo-2.annotated.png", "clip.annotated.png")]
    assert all("curve" not in line and "clip" not in line for line in lines[:2])
    with Image.open(lines[2]["curve"]) as curve:
        curve.verify()
    assert (lines[2]["curve"], lines[2]["clip"]) == (f"{out}/clip.annotated.curve.png", f"{out}/clip.annotated.mp4")
    assert [len(list(decode_frames(path))) for path in (lines[2]["clip"], clip)] == [13, 13]
    for photo in photos:
        assert np.array_equal(np.asarray(Image.open(photo)), pixels)
    picture = np.asarray(Image.open(drawn[0]))
    x0, y0, x1, y1 = (round(side) for side in lines[0]["box"])
    colour = FAKE_COLOUR if lines[0]["prediction"] == "fake" else REAL_COLOUR
    for y, x in (((y0 + y1) // 2, x0 + 2), (y0 + 2, (x0 + x1) // 2)):
        assert tuple(picture[y, x]) == colour


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_names_as_long_as_the_file_system_allows_get_pictures(run, tmp_path, capsys, letter):
    stem = letter * (251 // len(letter.encode()))
    for folder in ("a", "b"):
        save(tmp_path / folder / f"{stem}.png", np.zeros((80, 80, 3), np.uint8))
    paths = [tmp_path / folder for folder in ("a", "b")]
    for main, option in ((predict.main, "--annotate"), (explain.main, "--out")):
        code, lines, errors = call_json(main, capsys, run, *paths, "--crop", "none", option, tmp_path / "seen")
        assert code == 0 and not errors and len(lines) == 2
    assert len(list((tmp_path / "seen").iterdir())) == 4


@pytest.mark.parametrize("size", [(7, 5), (64, 64), (40, 1000), (1080, 1920), (3000, 60)])
@pytest.mark.parametrize("probability", [0.04, 0.96])
def test_captions_are_legible_at_any_size(size, probability):
    image = np.full((*size, 3), 128, np.uint8)
    height, width = size
    picture = annotated(image, (-3.0, -3.0, width + 5.0, height * 0.5), probability)
    colour = FAKE_COLOUR if probability > 0.5 else REAL_COLOUR
    strip_top = next(y for y in range(len(picture)) if (picture[y:, 0] == colour).all())
    strip = picture[strip_top:]
    text = (strip > 200).all(axis=2)
    assert strip.shape[0] >= 24 and strip.shape[1] >= 320
    assert np.ptp(np.flatnonzero(text.any(axis=1))) >= 10  # the height of the letters
    columns = np.flatnonzero(text.any(axis=0))
    assert columns[0] > 0 and columns[-1] < strip.shape[1] - 1  # all of the text is inside


def test_damaged_weights_are_no_prediction(tmp_path, capsys):
    model = build("panet")
    with torch.no_grad():
        model.classifier.bias.fill_(float("nan"))
    run = save_run(tmp_path / "nan", model)
    photo = save(tmp_path / "photo.png", astronaut())
    code, lines, errors = call_json(predict.main, capsys, run, photo, "--crop", "none")
    assert (code, lines, len(errors)) == (1, [], 1)
    assert "photo.png: the model's score is not finite" in errors[0]
