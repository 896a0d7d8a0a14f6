"""How many frames of a video are taken: one number for all, or a named profile that tells splits and classes apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..sources.source import Source

PROFILES = {
    "bench32": "32 frames of every video",
    "recce": "train: 50 of a real video, 12 or 13 of a fake one (36,000 of each class of FF++); val, test: 32",
}
EVALUATION_FRAMES = 32  # of both classes alike, so that a set's make-up by videos is its make-up by frames


def frame_counts(sources: Sequence[Source], rule: str | int) -> list[int]:
    """Frames to take of each source. `sources` must be all of the data set's, so that no file's absence moves a count.

    RECCE trains on 36,000 real and 36,000 fake images, 12.5 of each fake video: 12 and 13 by turns within a method.
    """
    if isinstance(rule, int):
        return [rule] * len(sources)
    place: Counter[str] = Counter()
    counts = []
    for source in sources:
        if rule == "bench32" or source.split != "train":
            counts.append(EVALUATION_FRAMES)
        elif not source.label:
            counts.append(50)
        else:
            counts.append(12 + place[source.method] % 2)
            place[source.method] += 1
    return counts
