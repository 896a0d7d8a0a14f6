"""Follows one face through the frames of a video, and says where it is in frames in which it was not found."""

from __future__ import annotations

from collections.abc import Sequence

from .faces import Face, box_iou

Box = tuple[float, float, float, float]
POLICIES = ("hold", "drop")  # for a frame without a face: use the track's last box, or leave the frame out


def follow(detections: Sequence[Sequence[Face]]) -> list[Face | None]:
    """One face a frame, or None: the track whose faces have the largest area in all, which a passer-by has not.

    A track goes on with the face nearest to its last one: the highest IoU with its box, or where none overlaps it, the
    closest centre, at most a box's side away (frames of a video are sampled seconds apart). Any other face begins a
    track of its own, so that a false alarm of the detector in the first frame does not decide the video.
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


def _nearest(faces: Sequence[Face], place: Box) -> Face | None:
    """The face that continues a track from `place`."""
    near = [face for face in faces if _distance(face.box, place) <= place[2] - place[0]]
    return max(near, key=lambda face: (box_iou(face.box, place), -_distance(face.box, place)), default=None)


def boxes(track: Sequence[Face | None], missing: str) -> list[Box | None]:
    """The box of each frame. Where the face is missing: None ("drop"), or the last box, or at the start the first."""
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
