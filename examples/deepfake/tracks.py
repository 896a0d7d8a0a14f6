"""Follows one face through the frames of a video, and says where it is in frames in which it was not found."""

from __future__ import annotations

from collections.abc import Sequence

from faces import Face, box_iou

Box = tuple[float, float, float, float]
POLICIES = ("hold", "drop")  # for a frame without a face: use the track's last box, or leave the frame out


def follow(detections: Sequence[Sequence[Face]]) -> list[Face | None]:
    """One face a frame, or None: it starts as the first frame's largest and goes on as the nearest to the last one.

    Nearest is the highest IoU with the track's last box; where no box overlaps it, the closest centre, at most a box's
    side away (frames of a video are sampled seconds apart). Anything farther is another face.
    """
    track: list[Face | None] = []
    last: Face | None = None
    for faces in detections:
        if last is None:
            current = max(faces, key=lambda face: face.area, default=None)
        else:
            near = [face for face in faces if _distance(face.box, last.box) <= last.box[2] - last.box[0]]
            place = last.box
            current = max(near, key=lambda face: (box_iou(face.box, place), -_distance(face.box, place)), default=None)
        track.append(current)
        last = current or last
    return track


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
