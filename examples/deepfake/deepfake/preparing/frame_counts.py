"""How many frames of each source are taken: one number for all, or a profile that depends on split and class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..sources.source import Source

DEFAULT_PROFILE = "bench32"
PROFILES = {  # docs/choices.md: frames and crops
    DEFAULT_PROFILE: "32 frames of every video",
    "recce": "train: 50 of a real video, 12 or 13 of a fake one (36,000 of each class of FF++); val, test: 32",
}
EVALUATION_FRAMES = 32  # the same for both classes: the share of reals among frames is that among videos


def frame_counts(sources: Sequence[Source], rule: str | int | None) -> Sequence[int | None]:
    """Frames to take of each source, by a number, a profile's name, or None: no count, the source lists its frames.

    `sources` must be the whole data set, so that a missing file does not change another's count. RECCE trains on 36,000
    real and 36,000 fake images, that is 12.5 of each fake video: 12 and 13 alternate within a method.
    """
    if not isinstance(rule, str):
        return [rule] * len(sources)
    seen: Counter[str] = Counter()
    counts = []
    for source in sources:
        if rule == DEFAULT_PROFILE or source.split != "train":
            counts.append(EVALUATION_FRAMES)
        elif not source.label:
            counts.append(50)
        else:
            counts.append(12 + seen[source.method] % 2)
            seen[source.method] += 1
    return counts
