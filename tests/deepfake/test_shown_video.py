"""Videos as a player shows them: the right stream, upright and not mirrored, square pixels, one size, not HDR."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av", reason="decoding videos needs PyAV")

import av

from deepfake.common.cli import UserError
from deepfake.media.display import ShownFrame, fitted
from deepfake.media.video import decode_frames, frames_at, sample_frames
from tests.deepfake.videos_for_tests import (
    COVER,
    put_cover_first,
    save_changing_sizes,
    save_streams,
    save_video,
    set_matrix,
)


def quarters(width: int = 64, height: int = 48) -> np.ndarray:
    """A picture whose four quarters have four levels of grey."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = 40, 100
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = 160, 220
    return image


def levels(image: np.ndarray) -> list[int]:
    """The levels in the middle of the four quarters, row by row, to the nearest ten."""
    height, width = image.shape[:2]
    return [
        round(int(image[y, x, 0]) / 10) * 10
        for y in (height // 4, 3 * height // 4)
        for x in (width // 4, 3 * width // 4)
    ]


def grey(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


# The display matrix


@pytest.mark.parametrize("a, b, c, d", [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                                        (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)])  # fmt: skip
def test_all_eight_orientations_are_shown_as_the_matrix_says(tmp_path, a, b, c, d):
    """A pixel at (x, y) goes to (a x + c y, b x + d y): here the middles of the quarters."""
    video = set_matrix(save_video(tmp_path / "a.mp4", [quarters()] * 3, qp="10"), (a, b, c, d))
    (_, image), *_ = sample_frames(video, 1)
    assert image.shape == ((64, 48, 3) if b else (48, 64, 3))
    expected = {}
    for (x, y), level in {(-1, -1): 40, (1, -1): 100, (-1, 1): 160, (1, 1): 220}.items():
        expected[b * x + d * y, a * x + c * y] = level
    assert levels(image) == [expected[place] for place in ((-1, -1), (-1, 1), (1, -1), (1, 1))]
    assert all(np.array_equal(image.shape, shown.shape) for shown in decode_frames(video))


@pytest.mark.parametrize("degrees", [30, 200, 359])
def test_another_angle_turns_the_picture_inside_its_frame(tmp_path, degrees):
    """As FFmpeg's player: clockwise, about the middle, black corners."""
    image, turn = np.full((96, 128, 3), 30, np.uint8), math.radians(degrees)
    image[44:52, 90:98] = 250  # 30 pixels to the right of the middle
    matrix = (math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn))
    video = set_matrix(save_video(tmp_path / "a.mp4", [image] * 2, qp="10"), matrix)
    (_, shown), *_ = sample_frames(video, 1)
    assert shown.shape == image.shape
    rows, columns = np.nonzero(shown[:, :, 0] > 140)
    assert columns.mean() == pytest.approx(63.5 + 30 * math.cos(turn), abs=1)
    assert rows.mean() == pytest.approx(47.5 + 30 * math.sin(turn), abs=1)
    assert degrees == 359 or shown[0, 0, 0] < 10


def test_another_angle_is_that_of_ffmpeg_s_filter(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
    turn = math.radians(25)
    matrix = (math.cos(turn), math.sin(turn), -math.sin(turn), math.cos(turn))
    video = save_video(tmp_path / "a.mp4", [image] * 2, qp="0")
    (_, flat), *_ = sample_frames(video, 1)
    graph = av.filter.Graph()
    source = graph.add_buffer(width=128, height=96, format="rgb24", time_base=Fraction(1, 25))
    rotate, sink = graph.add("rotate", "25*PI/180"), graph.add("buffersink")
    source.link_to(rotate)
    rotate.link_to(sink)
    graph.configure()
    source.push(av.VideoFrame.from_ndarray(flat, format="rgb24"))
    expected = sink.pull().to_ndarray(format="rgb24")
    (_, shown), *_ = sample_frames(set_matrix(video, matrix), 1)
    difference = np.abs(shown.astype(int) - expected)
    assert np.quantile(difference, 0.95) <= 4  # they blend the picture's own edge in other ways


def test_a_matrix_without_a_turn_changes_nothing(tmp_path):
    video = set_matrix(save_video(tmp_path / "a.mp4", [quarters()] * 2, qp="10"), (0, 0, 0, 0))
    assert levels(sample_frames(video, 1)[0][1]) == [40, 100, 160, 220]


# Which stream


def test_the_video_is_taken_and_not_its_cover(tmp_path):
    tracks = [("libx264", [grey(60)] * 5, None), ("mjpeg", [grey(250, 320, 240)], COVER)]
    video = put_cover_first(save_streams(tmp_path / "a.mp4", tracks, sound=True))
    with av.open(str(video)) as container:
        assert container.streams.video[0].codec_context.name == "mjpeg"
    found = sample_frames(video, 8)
    assert [index for index, _ in found] == list(range(5))
    assert all(image.shape == (48, 64, 3) and abs(int(image.mean()) - 60) < 4 for _, image in found)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_still_beside_a_video_or_sound_is_a_cover_where_the_format_does_not_say_so(name, tmp_path):
    still = ("libx264", [grey(250, 320, 240)], None)
    video = save_streams(tmp_path / name, [still, ("libx264", [grey(60)] * 5, None)], sound=True)
    assert [image.shape for _, image in sample_frames(video, 8)] == [(48, 64, 3)] * 5
    song = save_streams(tmp_path / f"song-{name}", [still], sound=True)
    with pytest.raises(UserError, match=r"holds no video, only sound and a cover"):
        sample_frames(song, 2)


def test_a_song_with_a_cover_is_no_video(tmp_path):
    song = save_streams(tmp_path / "song.m4a", [("mjpeg", [grey(250)], COVER)], sound=True)
    with pytest.raises(UserError, match=r"song\.m4a: holds no video, only sound and a cover"):
        sample_frames(song, 2)
    with pytest.raises(UserError, match=r"sound\.m4a: holds no video, only sound"):
        sample_frames(save_streams(tmp_path / "sound.m4a", [], sound=True), 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
@pytest.mark.parametrize("largest", [0, 1])
def test_of_several_tracks_the_largest_is_taken(tmp_path, name, largest):
    tracks = [("mpeg4", [grey(60, 32, 32)] * 4, None), ("mpeg4", [grey(60, 32, 32)] * 4, None)]
    tracks[largest] = ("mpeg4", [grey(180, 128, 96)] * 4, None)
    found = sample_frames(save_streams(tmp_path / name, tracks), 4)
    assert {image.shape for _, image in found} == {(96, 128, 3)}
    assert abs(int(found[0][1].mean()) - 180) < 4


def test_of_equal_tracks_the_default_is_taken(tmp_path):
    tracks = [("libx264", [grey(60)] * 4, 0), ("libx264", [grey(180)] * 4, 1)]
    (_, image), *_ = sample_frames(save_streams(tmp_path / "a.mkv", tracks), 1)
    assert abs(int(image.mean()) - 180) < 4


# Frames of several sizes


def test_frames_of_several_sizes_are_brought_to_the_largest(tmp_path):
    parts = [[quarters(64, 48)] * 3, [quarters(160, 120)] * 4, [quarters(80, 60)] * 2]
    video = save_changing_sizes(tmp_path / "call.webm", parts)
    for found in (sample_frames(video, 20), frames_at(video, range(9)), list(enumerate(decode_frames(video)))):
        assert [index for index, _ in found] == list(range(9))
        assert {image.shape for _, image in found} == {(120, 160, 3)}
        assert all(levels(image) == [40, 100, 160, 220] for _, image in found)


def test_a_picture_that_is_turned_in_the_middle_is_not_stretched(tmp_path):
    video = save_changing_sizes(tmp_path / "call.webm", [[grey(200, 96, 64)] * 2, [grey(200, 64, 96)] * 2])
    shown = [image for _, image in sample_frames(video, 4)]
    assert {image.shape for image in shown} == {(96, 96, 3)}
    for image, (height, width) in zip(shown, [(64, 96)] * 2 + [(96, 64)] * 2):
        assert (image[:, :, 0] > 100).sum() == height * width
    assert np.array_equal(fitted(shown[0], None), shown[0])


# Pixels


@pytest.mark.parametrize("aspect, width", [(Fraction(4, 3), 128), (Fraction(1, 2), 48), (Fraction(1, 1000), 96)])
def test_pixels_that_are_not_square_are_made_square(tmp_path, aspect, width):
    """An aspect of 1:1000 is a mistake of the header."""
    video = save_video(tmp_path / "a.mkv", [quarters(96, 64)] * 2, aspect=aspect)
    (_, image), *_ = sample_frames(video, 1)
    assert image.shape == (64, width, 3) and levels(image) == [40, 100, 160, 220]


def test_pixels_that_are_not_square_are_stretched_before_the_turn(tmp_path):
    video = set_matrix(save_video(tmp_path / "a.mp4", [quarters(96, 64)] * 2, aspect=Fraction(2)), (0, 1, -1, 0))
    (_, image), *_ = sample_frames(video, 1)
    assert image.shape == (192, 64, 3) and levels(image) == [160, 40, 220, 100]


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_is_named_as_not_supported(tmp_path, transfer, name):
    video = save_video(tmp_path / "a.mp4", [quarters()] * 2, transfer=transfer)
    with pytest.raises(UserError, match=rf"a\.mp4: HDR video \({name}\) is not supported"):
        sample_frames(video, 1)


@pytest.mark.parametrize("kind", ["yaf32le", "gbrap32le", "x2bgr10be"])
def test_pixels_that_cannot_be_converted_are_named(kind):
    """FFmpeg ends the whole process for the first of these."""
    with pytest.raises(UserError, match=f"pixels of the format {kind} are not supported"):
        ShownFrame(av.VideoFrame(16, 16, kind), None).rgb()


def test_ten_bits_are_read(tmp_path: Path):
    frame = av.VideoFrame.from_ndarray(grey(128), format="rgb24").reformat(format="yuv420p10le")
    assert abs(int(ShownFrame(frame, None).rgb().mean()) - 128) < 3
