"""Videos: frames by one rule, each decoded once; clips that appear complete and have the same bytes every time."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

pytest.importorskip("av", reason="clips need PyAV")

from deepfake.common.cli import UserError
from deepfake.media import decoding, video
from deepfake.media.video import decode_frames, frame_indices, frames_at, sample_frames, write_clip


def test_index_rule():
    assert frame_indices(10, 4) == [1, 3, 6, 8]
    assert frame_indices(3, 8) == [0, 1, 2]
    assert all(
        frame_indices(n, k) == [int((i + 0.5) * n / k) for i in range(k)] for n in (7, 97, 300) for k in (1, 5, 7)
    )
    with pytest.raises(ValueError, match="got total=0"):
        frame_indices(0, 4)


def test_clip_round_trip_and_sampling(tmp_path):
    frames = [np.full((64, 96, 3), 20 * number, np.uint8) for number in range(10)]
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", frames, crf=23)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    picked = sample_frames(tmp_path / "a.mp4", 4)
    assert [index for index, _ in picked] == [1, 3, 6, 8]
    assert all(abs(int(image.mean()) - 20 * index) < 4 for index, image in picked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="even"):
        write_clip(tmp_path / "odd.mp4", [np.zeros((63, 96, 3), np.uint8)], crf=23)
    assert not list(tmp_path.glob("*odd*"))


@pytest.mark.parametrize("what", ["empty", "text", "cut", "absent"])
def test_bad_video_is_named(tmp_path, what):
    video = tmp_path / "clip.mp4"
    write_clip(tmp_path / "good.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5, crf=23)
    content = (tmp_path / "good.mp4").read_bytes()
    if what != "absent":
        video.write_bytes({"empty": b"", "text": b"not a video\n" * 99, "cut": content[: len(content) // 2]}[what])
    with pytest.raises(UserError, match=r"clip\.mp4"):
        list(decode_frames(video))
    with pytest.raises(UserError, match=r"clip\.mp4"):
        sample_frames(video, 4)


@pytest.mark.parametrize("name", ["absent/clip.mp4", "file/clip.mp4", f"{'x' * 245}clip.mp4"])
def test_clip_that_cannot_be_written_is_one_line_of_error(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*clip\.mp4"):
        write_clip(tmp_path / name, [np.zeros((64, 64, 3), np.uint8)], crf=23)


def grey(frames: int) -> list[np.ndarray]:
    return [np.full((64, 96, 3), 20 * number, np.uint8) for number in range(frames)]


def test_a_title_that_is_not_utf_8_does_not_stop_decoding(tmp_path):
    write_clip(tmp_path / "a.mp4", grey(3), crf=23)
    content = (tmp_path / "a.mp4").read_bytes()
    assert b"Lavf" in content  # the encoder's name
    (tmp_path / "a.mp4").write_bytes(content.replace(b"Lavf", b"L\xe4vf"))
    assert len(list(decode_frames(tmp_path / "a.mp4"))) == 3


def test_no_frame_is_decoded_twice(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", grey(11), crf=23)
    decoded = []

    class Counted(decoding.Pass):
        def _shown(self, stream, packet):
            decoded.extend(frames := list(super()._shown(stream, packet)))
            return iter(frames)

    monkeypatch.setattr(video, "Pass", Counted)
    assert [index for index, _ in sample_frames(tmp_path / "a.mp4", 4)] == frame_indices(11, 4)
    assert len(decoded) == 11


def test_a_wrong_packet_count_does_not_change_the_chosen_frames(tmp_path, monkeypatch):
    write_clip(tmp_path / "a.mp4", grey(11), crf=23)
    monkeypatch.setattr(video, "_count_packets", lambda path: 14)
    assert [index for index, _ in sample_frames(tmp_path / "a.mp4", 4)] == frame_indices(11, 4)


def test_frames_given_to_look_are_not_kept_in_memory(tmp_path):
    write_clip(tmp_path / "a.mp4", grey(11), crf=23)
    seen: list[weakref.ref] = []

    def look(image: np.ndarray) -> int:
        assert not any(earlier() is not None for earlier in seen)
        seen.append(weakref.ref(image))
        return round(image.mean() / 20)

    assert sample_frames(tmp_path / "a.mp4", 4, look) == [(index, index) for index in frame_indices(11, 4)]


def test_frames_by_number(tmp_path):
    write_clip(tmp_path / "a.mp4", grey(6), crf=23)
    assert len(list(decode_frames(tmp_path / "a.mp4"))) == 6
    assert [index for index, _ in frames_at(tmp_path / "a.mp4", (4, 1))] == [1, 4]
    with pytest.raises(UserError, match=r"a\.mp4: holds 6 frames \(wanted number 6"):
        frames_at(tmp_path / "a.mp4", (0, 6))
