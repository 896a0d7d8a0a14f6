"""Writes a photo and a short clip of one person of the demo's test split, real and forged, filmed as by forge.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..common.files import replacing
from ..forging.camera import OVERSAMPLING, RATE_FACTORS, film
from ..media.image_files import encode_rgb
from ..media.video import write_clip
from .people import SEED, photos_of, write_licence
from .shots import canvases, nearest_donors

SIZE = 320  # side of the pictures in pixels; the face's box is half as wide
FRAMES = 25


def write_samples(folder: Path) -> list[Path]:
    """Write real_photo.jpg, real_clip.mp4, fake_photo.jpg and fake_clip.mp4 and return their paths.

    The fake is a swap. The photos' licence is written beside them. The person is the first of the test split by file
    name. UserError if a file can't be written.
    """
    photos = photos_of("test", fold=0)
    target = photos[0]
    rng = np.random.default_rng([SEED, 2])
    pair = canvases(target, nearest_donors(target, photos)[0], "swap", OVERSAMPLING * SIZE, rng)
    write_licence(folder)
    written = []
    for name, canvas in zip(("real", "fake"), pair, strict=True):
        motion, picture = (np.random.default_rng([SEED, 2, purpose]) for purpose in (0, 1))
        frames = list(film(canvas, SIZE, FRAMES, motion, picture))
        photo, clip = folder / f"{name}_photo.jpg", folder / f"{name}_clip.mp4"
        with replacing(photo) as file:
            file.write(encode_rgb(frames[0], photo.suffix))
        write_clip(clip, frames, RATE_FACTORS["c23"])
        written += [photo, clip]
    return written
