"""One pass over a video: the frames that decode, in order, and in words what is damaged or missing.

A damaged packet costs the frames that need it; decoding continues after it. Frames in which the decoder filled holes
(FFmpeg marks them) are left out: they would be judged by what was made up.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av

from ..common.cli import UserError
from .containers import check_range, opened_video
from .display import ShownFrame

SAY_DURATION = frozenset({"mov", "matroska", "asf", "flv"})  # formats whose header has the duration of the whole
ENDS_EARLY = 0.5  # seconds that may be missing at the end
CONSTANT = 0.9  # share of equal intervals from which on a video has a constant rate
GAP = 3  # usual intervals; such a video has a longer one only where frames are missing


class Pass:
    """Iterates over the frames that decode, once. UserError where the file can't be read or no frame decodes."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.frames = 0  # that decode
        self._packets = self._damaged_packets = self._damaged_frames = 0
        self._times: list[float] = []  # of the video's packets, in seconds
        self._end = self._duration = 0.0  # the last time in any stream, and the header's
        self._listed = 0  # frames that the header of an AVI lists
        self._stopped = False  # by an error of the container

    def __iter__(self) -> Iterator[ShownFrame]:
        with opened_video(self.path) as (container, stream):
            self._note_header(container, stream)
            for packet in self._read(container):
                if packet.stream_index == stream.index:
                    yield from self._shown(stream, packet)
            yield from self._shown(stream, None)
        if not self.frames:
            lost = self._lost()
            raise UserError(f"{self.path}: holds no frame that decodes{f' ({lost})' if lost else ''}")

    def _note_header(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._listed = stream.frames if container.format.name == "avi" else 0
        if SAY_DURATION & set(container.format.name.split(",")):
            self._duration = (container.duration or 0) / av.time_base

    def _read(self, container: av.container.InputContainer) -> Iterator[av.Packet]:
        """The packets of all streams, with content, as far as they can be read; their times are noted."""
        packets = container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError:
                self._stopped = True
                return
            if packet.size:
                self._end = max(self._end, _time(packet) + float((packet.duration or 0) * (packet.time_base or 0)))
                yield packet

    def _shown(self, stream: av.VideoStream, packet: av.Packet | None) -> Iterator[ShownFrame]:
        """The undamaged frames that the decoder returns for a packet; None: those that it still holds."""
        if packet is not None:
            self._packets += 1
            self._times.append(_time(packet))
        try:
            frames = stream.codec_context.decode(packet)
            self._damaged_packets += packet is not None and packet.is_corrupt
        except av.FFmpegError:
            frames = []
            self._damaged_packets += 1
        for frame in frames:
            check_range(stream, self.path)
            if frame.is_corrupt:
                self._damaged_frames += 1
            else:
                self.frames += 1
                yield ShownFrame(frame, stream.sample_aspect_ratio)

    def loss(self) -> str | None:
        """After the pass: what was lost, in words; None where nothing shows."""
        lost = self._lost()
        return f"frames are lost ({lost}); {self.frames} decode" if lost else None

    def _lost(self) -> str:
        lost = []
        damaged = max(self._damaged_packets, self._damaged_frames)
        if damaged:
            lost.append(f"{damaged} damaged")
        if self._listed > self._packets:
            lost.append(f"{self._listed - self._packets} of {self._listed} missing")
        gap = _gaps(self._times)
        if gap:
            lost.append(f"none for {gap:.1f} s")
        if self._end < self._duration - ENDS_EARLY:
            lost.append(f"none after {self._end:.1f} s of {self._duration:.1f} s")
        elif self._stopped:
            lost.append(f"not readable after {self._end:.1f} s")
        return ", ".join(lost)


def _time(packet: av.Packet) -> float:
    """When a packet is shown, in seconds; 0 where the container does not say."""
    ticks = packet.dts if packet.pts is None else packet.pts
    return 0.0 if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


def _gaps(times: list[float]) -> float:
    """How many seconds a video of a constant rate has no frames between others; 0 for other videos."""
    steps = [later - earlier for earlier, later in pairwise(sorted(times)) if later > earlier]
    if len(steps) < 2:
        return 0.0
    usual = statistics.median(steps)
    constant = sum(abs(step - usual) < usual / 4 for step in steps) >= CONSTANT * len(steps)
    return sum(step - usual for step in steps if step > GAP * usual) if constant else 0.0
