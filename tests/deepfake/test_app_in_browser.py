"""The page of app.py as a user sees it, in a real browser; and the command as a process that Ctrl-C ends."""

import re
import signal
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut

import predict
from deepfake.evaluating.metrics import shown
from deepfake.media.faces import FaceDetector
from deepfake.media.video import write_clip
from deepfake.serving.replies import NO_PROOF
from tests.deepfake.app_in_browser import browser_path, interrupt, page_at, start, upload
from tests.deepfake.portraits_for_tests import astronaut_as
from tests.deepfake.scripts import call_json

pytestmark = pytest.mark.slow
pytest.importorskip("starlette", reason="the page's server needs starlette and uvicorn, of the extra app")


@pytest.fixture
def served(finished_run):
    """app.py with a trained run: the process and the page's address."""
    process, address = start(finished_run)
    yield process, address
    if process.poll() is None:
        process.kill()
        process.communicate()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A portrait, a forged one, a clip with both, and a text file named as a picture; in the current folder."""
    monkeypatch.chdir(tmp_path)
    portrait = astronaut_as(0)
    forged = portrait.copy()
    x0, y0, x1, y1 = (round(side) for side in FaceDetector().largest(portrait).box)
    forged[y0:y1, x0:x1] = astronaut_as(2)[y0:y1, x0:x1]  # a face of other colours
    Image.fromarray(portrait).save("portrait.png")
    Image.fromarray(forged).save("forged.png")
    write_clip(Path("clip.mp4"), [portrait] * 6 + [forged] * 6, crf=18)
    Path("text.jpg").write_text("no picture")
    return tmp_path


def test_the_page_answers_as_predict_does_and_asks_no_other_machine(served, files, finished_run, capsys):
    pytest.importorskip("playwright", reason="drives the browser; of the extra dev")
    if browser_path() is None:
        pytest.skip("no Chromium or Chrome on this machine")
    process, address = served
    names = ("portrait.png", "forged.png", "clip.mp4")
    _, lines, (error,) = call_json(predict.main, capsys, finished_run, *names, "text.jpg")
    with page_at(address) as (page, asked):
        assert "Trained on:" in page.inner_text("footer") and "real and" in page.inner_text("footer")
        for name, line in zip(names, lines, strict=True):
            upload(page, files / name)
            assert page.inner_text("#name") == name
            assert page.inner_text("#score") == shown(line["fake_probability"])
            assert f"Called {line['prediction']}" in page.inner_text("#words")
            assert page.inner_text("#no-proof") == NO_PROOF
            images = page.evaluate(
                "[...document.images].filter(i => i.offsetParent && i.naturalWidth > 99).map(i => i.id)"
            )
            assert images == ["picture", *(["curve"] if name == "clip.mp4" else []), "heat"]
            assert not page.is_visible("#error")

        upload(page, files / "text.jpg")
        assert f"error: {page.inner_text('#error')}" == error
        assert not page.is_visible("#answer")

        page.check("#crop")
        upload(page, files / "portrait.png")
        _, (line,), _ = call_json(predict.main, capsys, finished_run, "portrait.png", "--crop", "none")
        assert page.inner_text("#score") == shown(line["fake_probability"])

        (files / "large.png").write_bytes(bytes(51 * 2**20))
        upload(page, files / "large.png")
        assert "large.png: larger than 50 MB" in page.inner_text("#error")

        page.evaluate("fetch('https://pypi.org/').catch(() => 0)")  # the page's policy refuses it
        assert {re.match(r"[a-z]+://[^/]+", url)[0] for url in asked if not url.startswith("data:")} == {address}

        assert interrupt(process)[0] == 130
        upload(page, files / "portrait.png")
        assert "is app.py still running?" in page.inner_text("#error")


def test_ctrl_c_ends_it(served):
    process, address = served
    with urllib.request.urlopen(address) as page:
        assert "Real or fake?" in page.read().decode()
    assert interrupt(process) == (130, "interrupted\n")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_answers_leaves_no_upload(finished_run, tmp_path, monkeypatch, end):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process, address = start(finished_run)
    clip = tmp_path / "clip.mp4"
    write_clip(clip, [astronaut()] * 60, crf=30)
    headers = {"Content-Type": "application/octet-stream"}
    question = urllib.request.Request(f"{address}/answer?name=clip.mp4", clip.read_bytes(), headers)
    with pytest.raises(OSError):
        urllib.request.urlopen(question, timeout=0.5)  # leaves before the answer
    assert list(tmp_path.glob("panet-upload-*/clip.mp4"))  # the answer is in progress
    assert interrupt(process, end) == (130, "interrupted\n")
    assert not list(tmp_path.glob("panet-upload-*"))
