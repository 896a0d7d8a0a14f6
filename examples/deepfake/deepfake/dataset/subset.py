"""Some methods of a data set only: `of_methods(images, "Swap,Blend")` are its reals and the fakes of those methods."""

from __future__ import annotations

import numpy as np

from ..common.cli import UserError
from .images import Images


class Subset(Images):
    """Some of the images of a set, read through it."""

    def __init__(self, images: Images, kept: list[int], description: str) -> None:
        vars(self).update(vars(images))
        self._whole, self._kept = images, kept
        self.labels = images.labels[kept]
        for name in ("videos", "methods", "names", "files"):
            values = getattr(images, name)
            setattr(self, name, [values[index] for index in kept] if values else [])
        self.description = description

    def crop(self, index: int) -> np.ndarray:
        """The image as the whole set has it."""
        return self._whole.crop(self._kept[index])


def of_methods(images: Images, methods: str | None) -> Images:
    """The reals and the fakes of these methods, names with commas between; all of them for None.

    Raises UserError for a method that the set does not have.
    """
    if methods is None:
        return images
    wanted, there = set(listed(methods)), set(images.methods) - {"real"}
    if missing := wanted - there:
        raise UserError(
            f"--methods: no {sorted(missing)[0]!r} in {images.description} (wanted {', '.join(sorted(there))})", 2
        )
    kept = [index for index, method in enumerate(images.methods) if method in wanted | {"real"}]
    return Subset(images, kept, f"{images.description}; {len(kept)} of them real or {', '.join(sorted(wanted))}")


def listed(methods: str) -> list[str]:
    """The names in a text with commas between them."""
    return [name.strip() for name in methods.split(",") if name.strip()]
