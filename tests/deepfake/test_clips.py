"""Curves and annotated clips of scored videos: every frame, at the video's own rate, with box and caption."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from deepfake.common.cli import UserError
from deepfake.evaluating.plots import save_figure
from deepfake.media.video import decode_frames, frame_rate, write_clip
from deepfake.predicting.annotation import FAKE_COLOUR, NO_COLOUR, REAL_COLOUR
from deepfake.predicting.drawings import box_at, curve_figure, write_annotated
from deepfake.predicting.views import View, listed

FRAMES = [
    View(2, None, (100.0, 80.0, 180.0, 160.0), 0.9),
    View(6, None, (140.0, 80.0, 220.0, 160.0), 0.2),
    View(10, None, None, None),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Twelve grey frames with odd sizes once annotated, at 30000/1001 frames a second."""
    path = tmp_path_factory.mktemp("videos") / "grey.mp4"
    write_clip(path, [np.full((240, 322, 3), 10 * i + 60, np.uint8) for i in range(12)], 18, Fraction(30000, 1001))
    return path


def test_the_clip_has_every_frame_with_box_and_caption(source, tmp_path):
    target = tmp_path / "clip.mp4"
    write_annotated(source, target, FRAMES)
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert frame_rate(target) == frame_rate(source) == Fraction(30000, 1001)
    frames = list(decode_frames(target))
    assert len(frames) == 12
    colours = [FAKE_COLOUR] * 4 + [REAL_COLOUR] * 4 + [NO_COLOUR] * 4  # of the nearest frame looked at; first of equals
    colours[4], colours[8] = FAKE_COLOUR, REAL_COLOUR
    for number, (frame, colour) in enumerate(zip(frames, colours)):
        assert np.abs(frame[-6:, 2:8].reshape(-1, 3).mean(axis=0) - colour).max() < 12, number
        middle = frame[120, :, :].astype(int)
        assert np.abs(middle[300] - (10 * number + 60)).max() < 12, number  # the picture itself, beside the box
        edge = middle[98:106] if number <= 2 else middle[138:146]
        has_box = np.abs(edge - (10 * number + 60)).max() > 60
        assert has_box == (number <= 2 or 6 <= number <= 8), number
    assert list(tmp_path.iterdir()) == [target]


def test_a_box_moves_in_a_straight_line():
    assert box_at(FRAMES, 0) == FRAMES[0].box
    assert box_at(FRAMES, 3) == (110.0, 80.0, 190.0, 160.0)
    assert box_at(FRAMES, 12) == FRAMES[1].box


def test_the_list_has_the_frames_with_a_face():
    assert listed(FRAMES) == [
        {"frame": 2, "fake_probability": 0.9, "box": [100.0, 80.0, 180.0, 160.0], "faces": None},
        {"frame": 6, "fake_probability": 0.2, "box": [140.0, 80.0, 220.0, 160.0], "faces": None},
    ]


def test_the_curve(tmp_path):
    figure = curve_figure(FRAMES, 0.55, "grey$.mp4")
    lines = {line.get_label(): line.get_xydata() for line in figure.axes[0].lines}
    assert lines["frames"].tolist() == [[2, 0.9], [6, 0.2]]
    assert lines["no face found"][:, 0].tolist() == [10]
    assert lines["the video: 0.55"][:, 1].tolist() == [0.55, 0.55]
    save_figure(figure, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        image.verify()


def test_a_video_that_breaks_off_leaves_no_half_clip(source, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(UserError, match=r"broken\.mp4"):
        write_annotated(broken, tmp_path / "clip.mp4", FRAMES)
    assert list(tmp_path.iterdir()) == [broken]
