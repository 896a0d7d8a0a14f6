"""Follows one face through the frames of a video, and fills in its box where it was not found."""

from __future__ import annotations

from collections.abc import Sequence

from .faces import Face, box_iou

Box = tuple[float, float, float, float]
POLICIES = ("hold", "drop")  # a frame without a face: use the track's last box, or leave the frame out


def follow(detections: Sequence[Sequence[Face]]) -> list[Face | None]:
    """One face or None for each frame: of all tracks, the one with the largest sum of face areas.

    A track continues with the face that has the highest IoU with its last box or, if none overlaps, the closest centre
    at most a box's side away (sampled frames are seconds apart). Every other face begins a track of its own, so that a
    false alarm in the first frame does not decide the video.
    """
    tracks: list[dict[int, Face]] = []  # by frame
    for frame, faces in enumerate(detections):
        left = list(faces)
        for track in sorted(tracks, key=_area, reverse=True):
            face = _nearest(left, track[max(track)].box)
            if face:
                track[frame] = face
                left.remove(face)
        tracks += [{frame: face} for face in left]
    main = max(tracks, key=_area, default={})
    return [main.get(frame) for frame in range(len(detections))]


def _area(track: dict[int, Face]) -> float:
    return sum(face.area for face in track.values())


def _nearest(faces: Sequence[Face], last: Box) -> Face | None:
    """The face that continues a track whose last box is `last`."""
    near = [face for face in faces if _distance(face.box, last) <= last[2] - last[0]]
    return max(near, key=lambda face: (box_iou(face.box, last), -_distance(face.box, last)), default=None)


def boxes(track: Sequence[Face | None], missing: str) -> list[Box | None]:
    """The box of each frame. Without a face: None ("drop"), or the last box, before any face the first ("hold")."""
    if missing not in POLICIES:
        raise ValueError(f"missing must be one of {', '.join(POLICIES)}, got {missing!r}")
    held: Box | None = next((face.box for face in track if face), None) if missing == "hold" else None
    found: list[Box | None] = []
    for face in track:
        if face and missing == "hold":
            held = face.box
        found.append(face.box if face else held)
    return found


def _distance(a: Box, b: Box) -> float:
    """Distance of two boxes' centres."""
    return float(((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) ** 0.5 / 2)
