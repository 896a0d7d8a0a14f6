"""One face a video: which one is followed, and the boxes of frames in which it is not found."""

from __future__ import annotations

import pytest

from deepfake.media.faces import Face
from deepfake.media.tracks import boxes, follow


def face(x: float, side: float = 100, y: float = 0) -> Face:
    return Face((x, y, x + side, y + side), 1.0)


def test_track_stays_with_its_face():
    """A larger face passes: the largest face of each frame would switch to it, the track does not."""
    mine, passer = [face(10), face(15), face(30)], face(300, side=120)
    assert follow([[mine[0]], [passer, mine[1]], [mine[2], passer]]) == mine


def test_track_starts_with_the_largest_and_bridges_gaps():
    big, small = face(0, 120), face(400, 90)
    assert follow([[], [small, big], [], [face(60, 120)], [small]]) == [None, big, None, face(60, 120), None]


def test_a_false_alarm_in_the_first_frame_does_not_decide_the_track():
    alarm, mine = face(600, 200), [face(10, 120), face(15, 120), face(12, 120), face(9, 120)]
    assert follow([[alarm], *([one] for one in mine)]) == [None, *mine]


def test_two_faces_that_pass_are_not_exchanged():
    left, right = [face(0), face(40), face(80)], [face(300, 90), face(260, 90), face(220, 90)]
    assert follow([[a, b] for a, b in zip(left, right)]) == left


def test_track_without_overlap_goes_to_the_nearest_within_a_side():
    assert follow([[face(0, y=0)], [face(80, y=60, side=20)]])[1] == face(80, y=60, side=20)
    assert follow([[face(0)], [face(101)]]) == [face(0), None]


def test_boxes_by_policy():
    track = [None, face(1), None, face(3), None]
    one, three = face(1).box, face(3).box
    assert boxes(track, "hold") == [one, one, one, three, three]
    assert boxes(track, "drop") == [None, one, None, three, None]
    assert boxes([None, None], "hold") == [None, None]
    with pytest.raises(ValueError, match="got 'guess'"):
        boxes(track, "guess")
