"""The browser page without its server: what it accepts, what it says, names of uploads; answers are predict.py's."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import sys
import threading

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

import app
import predict
from deepfake.common.cli import UserError
from deepfake.evaluating.picture_grids import heat_figure
from deepfake.media.faces import FaceDetector
from deepfake.media.video import write_clip
from deepfake.predicting import answers
from deepfake.serving import limits, uploads
from deepfake.serving.page import DEMONSTRATION, HERE, html_of
from deepfake.serving.replies import LONGEST_SIDE, NO_PROOF, Replies
from deepfake.training.checkpoint import load_run
from panet_layers.models import fold_batch_norm
from tests.deepfake.scripts import call
from tests.deepfake.tiny_runs import build, save_run
from tests.deepfake.videos_for_tests import overwrite, save_video


@pytest.fixture(scope="module")
def replies(run):
    model, config = load_run(run)
    return Replies(fold_batch_norm(model), config)  # as app.py does it


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photo, a clip, and files that are not what their names say."""
    folder = tmp_path_factory.mktemp("files")
    face = astronaut()[:300, 60:420]
    Image.fromarray(astronaut()).save(folder / "photo.png")
    Image.fromarray(face).save(folder / "moving.gif", save_all=True, append_images=[Image.fromarray(face[::-1])])
    write_clip(folder / "clip.mp4", [face] * 6 + [np.full_like(face, 90)] * 2, crf=18)
    (folder / "clip.jpg").write_bytes((folder / "clip.mp4").read_bytes())
    (folder / "photo.mp4").write_bytes((folder / "photo.png").read_bytes())
    (folder / "text.jpg").write_text("no picture")
    (folder / "text.mp4").write_text("no video")
    (folder / "text.csv").write_text("neither")
    (folder / "empty.png").touch()
    Image.new("RGB", (200, 200)).save(folder / "faceless.png")
    return folder


def pixels(url):
    kind, _, content = url.partition(",")
    assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
    return cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def predicted(run, files):
    """What predict.py prints of each file: by its name, the JSON line or the error line."""
    paths, out, errors = sorted(files.iterdir()), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        predict.main([str(run), *map(str, paths)])
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    failed = {path.name: line for path in paths for line in errors.getvalue().splitlines() if f"{path}:" in line}
    return failed | {line["path"].removeprefix(f"{files}/"): line for line in lines}


@pytest.fixture
def undrawn(monkeypatch):
    """Figures, which take most of the time, are not drawn."""
    monkeypatch.setattr("deepfake.serving.replies.png", lambda figure: b"")


def test_a_photo_is_answered_as_by_predict_and_drawn(predicted, replies, files):
    line = predicted["photo.png"]
    reply = replies.reply(files / "photo.png", "face")
    assert (reply["fake_probability"], reply["prediction"]) == (line["fake_probability"], line["prediction"])
    assert f"Called {line['prediction']}" in reply["words"]
    assert reply["curve"] is None
    assert np.ptp(pixels(reply["picture"])) > 100 and np.ptp(pixels(reply["heat"])) > 100


def test_a_video_has_its_mean_its_curve_and_heat_maps_of_four_frames(predicted, replies, files, monkeypatch):
    rows = []
    monkeypatch.setattr(
        answers, "heat_figure", lambda given, title: rows.extend(given) or heat_figure(given[:1], title)
    )
    reply = replies.reply(files / "clip.mp4", "face")
    assert reply["fake_probability"] == predicted["clip.mp4"]["fake_probability"]
    assert "mean of 6 frames, of 8 looked at" in reply["words"]
    assert np.ptp(pixels(reply["curve"])) > 100
    assert [text.split("\n")[0] for text, _ in rows] == ["frame 0", "frame 2", "frame 3", "frame 5"]


@pytest.mark.parametrize("name", ["moving.gif", "photo.mp4", "clip.jpg"])
def test_what_predict_reads_is_answered(name, predicted, replies, files, undrawn):
    assert replies.reply(files / name, "face")["fake_probability"] == predicted[name]["fake_probability"]


@pytest.mark.parametrize("name", ["text.jpg", "text.mp4", "text.csv", "empty.png", "faceless.png"])
def test_errors_are_those_of_predict(name, predicted, replies, files):
    with pytest.raises(UserError) as error:
        replies.reply(files / name, "face")
    assert f"error: {error.value}" == predicted[name]


@pytest.mark.parametrize("kind", ["recce", "xception"])
def test_runs_of_other_models_are_served(kind, files, tmp_path, undrawn):
    run = save_run(tmp_path / "run", build(kind))
    reply = Replies(*load_run(run / "best")).reply(files / "photo.png", "none")  # a folder of save_pretrained
    assert 0 <= reply["fake_probability"] <= 1


def test_a_large_picture_is_shown_small(replies, tmp_path, undrawn):
    Image.fromarray(astronaut()).resize((1800, 900)).save(tmp_path / "large.png")
    assert max(pixels(replies.reply(tmp_path / "large.png", "none")["picture"]).shape) == LONGEST_SIDE


@pytest.mark.parametrize(
    ("limit", "most", "name", "words"),
    [
        ("MAX_PIXELS", 512 * 512 - 1, "photo.png", "512 x 512 pixels"),
        ("MAX_FRAME_PIXELS", 360 * 300 - 1, "clip.mp4", "360 x 300 pixels"),
        ("MAX_FRAMES", 7, "clip.mp4", "8 frames"),
    ],
)
def test_what_is_too_large_is_not_decoded(limit, most, name, words, replies, files, monkeypatch):
    limits.check_extent(files / name)
    monkeypatch.setattr(limits, limit, most + 1)
    limits.check_extent(files / name)
    monkeypatch.setattr(limits, limit, most)
    monkeypatch.setattr("deepfake.serving.replies.answer", None)  # cannot be called
    with pytest.raises(UserError, match=f"{name}: {words}"):
        replies.reply(files / name, "face")


def test_what_a_video_lost_and_other_faces_are_said_in_words(replies, tmp_path, undrawn):
    face = astronaut()[:300, 60:420]
    frames = [np.roll(face, 2 * number, axis=1) for number in range(24)]
    video = overwrite(save_video(tmp_path / "clip.mp4", frames, header_first=True, g="6"), 0.5, 0.05)
    assert "Of the video frames are lost (" in replies.reply(video, "none")["words"]
    pair = np.concatenate([astronaut(), astronaut()[:, ::-1]], axis=1)
    Image.fromarray(pair).save(tmp_path / "pair.png")
    count = len(FaceDetector().detect(pair))
    words = replies.reply(tmp_path / "pair.png", "face")["words"]
    assert count > 1 and f"{count} faces were found in it; the largest is judged." in words


def test_a_playlist_named_as_a_video_fetches_nothing(replies, tmp_path):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(20)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/part"

        def accept():
            with contextlib.suppress(OSError):
                asked.append(other.accept())

        thread = threading.Thread(target=accept)
        thread.start()
        for text in (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}.ts\n#EXT-X-ENDLIST\n",
            f"ffconcat version 1.0\nfile {url}.mp4\n",
        ):
            (tmp_path / "list.mp4").write_text(text)
            with pytest.raises(UserError, match=r"list\.mp4: not a readable video"):
                replies.reply(tmp_path / "list.mp4", "face")
        other.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert asked == []


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("photo.jpg", "photo.jpg"),
        ("größe 1.PNG", "größe 1.PNG"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\photo.jpg", "photo.jpg"),
        ("two\nlines\x00.jpg", "twolines.jpg"),
        ("gpj.\u202eexe.png", "gpj.exe.png"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("a/", "unnamed"),
        (".hidden.png", "hidden.png"),
        ("é" * 300 + ".jpeg", "é" * 56 + ".jpeg"),
        ("a." + "b" * 300, "a." + "b" * 6),
    ],
)
def test_an_upload_stays_in_its_folder_whatever_its_name(given, name):
    with uploads.temporary_file(given) as path:
        assert path.name == name
        path.write_bytes(b"content")
        assert [file.name for file in path.parent.iterdir()] == [name]
    assert not path.parent.exists()


@pytest.mark.parametrize("announced", [0, 11])
def test_an_upload_that_is_too_large_is_not_stored(announced, tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_BYTES", 10)
    taken = []

    async def chunks():
        for number in range(9):
            taken.append(number)
            yield b"1234"

    with pytest.raises(limits.TooLarge, match=r"clip\.mp4: larger than 50 MB"):
        asyncio.run(uploads.receive(chunks(), tmp_path / "clip.mp4", announced))
    assert len(taken) == (0 if announced else 3)


def test_the_page_says_what_the_run_was_trained_on(tmp_path):
    config = {"model": build("recce").config, "arguments": {"data": "faces"}, "data": {"description": "faces: 3 <b>"}}
    page = html_of(tmp_path / "a&b", config)
    assert "RECCE tiny" in page and "a&amp;b" in page and "faces: 3 &lt;b&gt;" in page and NO_PROOF in page
    assert DEMONSTRATION not in page
    assert DEMONSTRATION in html_of(tmp_path, config | {"arguments": {"data": "demo"}})
    assert "not known" in html_of(tmp_path, {"model": config["model"]})


def test_the_page_names_no_other_address():
    for file in ("page.html", "page.css", "page.js"):
        assert "//" not in (HERE / file).read_text(encoding="utf-8").replace("// ", "")


def test_a_wrong_run_is_reported_as_by_predict(tmp_path, capsys):
    code, printed, errors = call(app.main, capsys, tmp_path / "nowhere")
    assert (code, printed) == (2, "")
    assert call(predict.main, capsys, tmp_path / "nowhere", tmp_path) == (2, "", errors)


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_wrong_port_is_one_line(port, run, capsys):
    code, printed, errors = call(app.main, capsys, run, f"--port={port}")
    assert (code, printed, len(errors)) == (2, "", 1) and port in errors[0]


def test_a_missing_web_server_is_one_line(run, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("starlette.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    monkeypatch.delitem(sys.modules, "deepfake.serving.server", raising=False)
    code, printed, errors = call(app.main, capsys, run)
    assert (code, printed, len(errors)) == (2, "", 1)
    assert 'pip install -e ".[app]"' in errors[0]
