"""Selects forgery methods: ``of_methods(images, "Swap,Blend")`` has the reals and the fakes of these two methods."""

from __future__ import annotations

from dataclasses import replace

from ..common.cli import UserError
from .images import Images


def of_methods(images: Images, methods: str | None) -> Images:
    """Returns the reals and the fakes of these methods (names separated by commas); all images for None.

    Raises UserError for a method that the images do not have.
    """
    if methods is None:
        return images
    wanted, present = set(method_names(methods)), set(images.methods) - {"real"}
    if missing := wanted - present:
        raise UserError(
            f"--methods: no {sorted(missing)[0]!r} in {images.description} (wanted {', '.join(sorted(present))})", 2
        )
    kept = [index for index, method in enumerate(images.methods) if method in wanted | {"real"}]
    return replace(
        images,
        labels=images.labels[kept],
        videos=[images.videos[index] for index in kept],
        methods=[images.methods[index] for index in kept],
        names=[images.names[index] for index in kept],
        face_in_middle=images.face_in_middle[kept],
        landmarks=[images.landmarks[index] for index in kept if images.landmarks],
        files=[images.files[index] for index in kept if images.files],
        description=f"{images.description}; {len(kept)} of them real or {', '.join(sorted(wanted))}",
        rows=kept,
    )


def method_names(text: str) -> list[str]:
    """Returns the names in a text where commas separate them."""
    return [name.strip() for name in text.split(",") if name.strip()]
