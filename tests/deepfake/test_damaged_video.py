"""Videos with damage: judged from the frames that decode, the loss is named; lists of other files are refused."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from skimage.data import astronaut

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

import av

import predict
from deepfake.common.cli import UserError
from deepfake.media.video import frames_at, sample_frames
from tests.deepfake.scripts import call_json
from tests.deepfake.videos_for_tests import cut, overwrite, save_video

FRAMES = 48
LOST = r"frames are lost \(.+\); \d+ decode"


@pytest.fixture(scope="module")
def faces():
    """A face that drifts to the right, two seconds."""
    face = astronaut()[:300, 60:420]
    return [np.roll(face, 2 * number, axis=1) for number in range(FRAMES)]


def sampled(video):
    """The frames that decode, and the lines about them."""
    lines = []
    return sample_frames(video, FRAMES, report=lines.append), lines


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg1video")],
)
def test_damage_in_the_middle_costs_only_some_frames(tmp_path, faces, name, codec):
    """All others decode, and are the same as without the damage as far as nothing damaged is needed for them."""
    whole = save_video(tmp_path / name, faces, codec, header_first=True, g="12")
    intact, lines = sampled(whole)
    assert len(intact) == FRAMES and not lines
    found, lines = sampled(overwrite(whole, 0.5, 0.02))
    assert FRAMES / 2 < len(found) < FRAMES
    assert [index for index, _ in found] == list(range(len(found)))
    (line,) = lines
    assert line.startswith(f"{whole}: frames are lost (") and line.endswith(f"; {len(found)} decode")
    for number in range(FRAMES // 8):
        assert np.array_equal(found[number][1], intact[number][1])


@pytest.mark.parametrize(
    "name, codec, said",
    [
        ("a.mp4", "libx264", r"none after 1\.\d s of 1\.9 s"),
        ("a.mkv", "libx264", r"none after 1\.\d s of 1\.9 s"),
        ("a.avi", "mpeg4", r"\d+ of 48 missing"),
        ("a.mpg", "mpeg1video", "damaged"),
    ],
)
def test_a_cut_file_is_judged_up_to_the_cut(tmp_path, faces, name, codec, said):
    options = {"cluster_time_limit": "200"} if name == "a.mkv" else {}
    whole = save_video(tmp_path / name, faces, codec, header_first=True, g="12", **options)
    found, (line,) = sampled(cut(whole, 0.6))
    assert FRAMES / 4 < len(found) < 0.8 * FRAMES
    assert np.all(np.diff([index for index, _ in found]) == 1)
    assert line.endswith(f"; {len(found)} decode")
    assert re.search(said, line), line


def test_missing_packets_are_named(tmp_path, faces):
    """A file without some of its packets is whole for its container: only the times have a gap."""
    whole, holed = save_video(tmp_path / "whole.mkv", faces, g="8", bf="0"), tmp_path / "holed.mkv"
    with av.open(str(whole)) as source, av.open(str(holed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and not 16 <= number < 24:
                packet.stream = stream
                target.mux(packet)
    found, (line,) = sampled(holed)
    assert len(found) == FRAMES - 8 and "none for 0.3 s" in line


def test_a_variable_rate_is_no_loss(tmp_path, faces):
    video = tmp_path / "screen.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.pix_fmt, (stream.height, stream.width) = "yuv420p", faces[0].shape[:2]
        time = 0
        for number, image in enumerate(faces):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, time = time, time + (1, 3, 7, 20)[number % 4]
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert sampled(video)[1] == []


def test_predict_names_the_loss_and_exits_with_0_unless_an_input_has_no_result(run, tmp_path, faces, capsys):
    good = save_video(tmp_path / "good.mp4", faces, header_first=True, g="12")
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(good.read_bytes())
    overwrite(bad, 0.5, 0.05)
    lost = tmp_path / "lost.mp4"
    lost.write_bytes(good.read_bytes()[:600])
    code, lines, errors = call_json(predict.main, capsys, run, good, bad, "--crop", "none", "--frames", 9)
    assert code == 0 and [line["path"] for line in lines] == [str(good), str(bad)]
    assert len(errors) == 1 and errors[0].startswith(f"{bad}: frames are lost (")
    assert len(lines[0]["frames"]) == len(lines[1]["frames"]) == 9
    code, lines, errors = call_json(predict.main, capsys, run, lost, good, "--frames", 2)
    assert code == 1 and [line["path"] for line in lines] == [str(good)]
    assert len(errors) == 1 and errors[0].startswith(f"error: {lost}: ")


def test_frames_by_number_say_what_was_lost(tmp_path, faces):
    video = cut(save_video(tmp_path / "a.mp4", faces, header_first=True, g="12"), 0.6)
    with pytest.raises(UserError, match=rf"a\.mp4: holds \d+ frames \(wanted number 47, counted from 0\); {LOST}"):
        frames_at(video, (3, 47))
    lines = []
    assert [index for index, _ in frames_at(video, (3, 7), report=lines.append)] == [3, 7]
    assert len(lines) == 1


# What names other files


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile neighbour.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nneighbour.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet><Representation id="1">'
        "<BaseURL>neighbour.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
        ";FFMETADATA1\ntitle=x\n",
    ],
    ids=["ffconcat", "hls", "sdp", "dash", "ffmetadata"],
)
def test_a_text_that_names_another_file_is_refused(tmp_path, faces, text):
    save_video(tmp_path / "neighbour.mp4", faces[:3])
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(UserError, match=r"list\.mp4: not a readable video"):
        sample_frames(tmp_path / "list.mp4", 2)


def test_a_header_that_refers_to_another_file_reads_nothing_of_it(tmp_path, faces):
    """QuickTime's data references (`alis`, `url `) may name files; the pictures are then missing."""
    save_video(tmp_path / "neighbour.mp4", faces[:3])
    content = (tmp_path / "neighbour.mp4").read_bytes()
    begin = content.index(b"mdat") - 4
    (size,) = struct.unpack(">I", content[begin : begin + 4])
    inside = content.index(b"url \0\0\0\1")
    named = content[: inside + 7] + b"\0" + content[inside + 8 :]
    (tmp_path / "refers.mp4").write_bytes(named[: begin + 8] + bytes(size - 8) + named[begin + size :])
    with pytest.raises(UserError, match=r"refers\.mp4: "):
        sample_frames(tmp_path / "refers.mp4", 2)


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "pipe:0", "data:,a", "file:a.mp4"])
def test_a_name_is_never_a_protocol(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such video"):
        sample_frames(name, 2)
