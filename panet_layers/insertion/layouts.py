"""Where a tensor holds the channels and pixels of a feature map (NCHW, NHWC or tokens), read off the tensor's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

PREFIXES = (0, 1, 2, 3, 4, 5, 8, 9)  # numbers of class and register tokens in published networks


class Image(NamedTuple):
    """The batch size and image size of a dry run."""

    batch: int
    height: int
    width: int


class ChannelsFirst(tuple[int, ...]):
    """The shape of an output that can only be (B, C, H, W), such as a Conv2d's."""


@dataclass(frozen=True)
class Layout:
    """Where the channels, rows and columns of a feature map are.

    kind: "NCHW" is (B, C, H, W), "NHWC" (B, H, W, C), "tokens" (B, prefix + H * W, C).
    channels, height, width: C, H, W as the dry run saw them.
    prefix: tokens before the map that belong to no pixel (class and register tokens).
    order: for tokens that are not in row-major order, the index of each pixel's token.
    """

    kind: str
    channels: int
    height: int
    width: int
    prefix: int = 0
    order: tuple[int, ...] | None = None

    def __str__(self) -> str:
        behind = f" behind {self.prefix}" if self.prefix else ""
        return f"{self.kind}{behind} {self.channels}x{self.height}x{self.width}"

    def grid(self, tokens: int) -> tuple[int, int]:
        """Return the rows and columns of a map of so many tokens: those of the dry run, or in the same proportions.

        Raises ValueError where no map of these proportions has so many tokens.
        """
        if tokens == self.height * self.width:
            return self.height, self.width
        height = max(1, round(math.sqrt(tokens * self.height / self.width)))
        width = tokens // height
        difference = abs(height - width * self.height / self.width)  # the limit is that of `_tokens`
        if self.order is not None or tokens % height or difference >= 0.5:
            raise ValueError(
                f"{tokens} tokens do not form a map of {self.height}:{self.width}, the example_input's proportions; "
                "insert the layer with an example_input in the proportions of your images"
            )
        return height, width


def read_layout(
    shape: tuple[int, ...], image: Image, channels: int | None = None, reduction: float | None = None
) -> list[Layout]:
    """Return the layouts that fit a tensor's shape best: none, one, or two where it may be NCHW or NHWC.

    A map must have the image's proportions, except in a shape that is `ChannelsFirst`.

    channels, reduction: of the map, where they are known (timm's `num_chs` and `reduction`).
    """
    if len(shape) not in (3, 4) or shape[0] != image.batch or 0 in shape:
        return []
    found = _maps(shape, image) if len(shape) == 4 else _tokens(shape, image, reduction)
    found = [layout for layout in found if channels in (None, layout.channels)]
    least = min((_mismatch(layout, image) for layout in found), default=0.0)
    return [layout for layout in found if _mismatch(layout, image) == least]


def at_reduction(layout: Layout, image: Image, reduction: float | None) -> bool:
    """Return whether the map is about `reduction` times smaller than the image."""
    if reduction is None:
        return True
    expected = image.height / reduction
    return abs(layout.height - expected) <= max(1.0, 0.2 * expected)


def with_order(layout: Layout, order: Tensor) -> Layout:
    """Return the layout of tokens that are not in row-major order; `order` (H, W) holds each pixel's index."""
    return replace(layout, height=order.shape[0], width=order.shape[1], order=tuple(order.flatten().tolist()))


def _maps(shape: tuple[int, ...], image: Image) -> list[Layout]:
    _, a, b, c = shape
    if isinstance(shape, ChannelsFirst) and not a == b == c:  # C = H = W stays ambiguous, from any module
        return [Layout("NCHW", a, b, c)]
    read = Layout("NCHW", a, b, c), Layout("NHWC", c, a, b)
    return [layout for layout in read if _mismatch(layout, image) <= 2]  # unpadded convolutions drop a row or two


def _tokens(shape: tuple[int, ...], image: Image, reduction: float | None) -> list[Layout]:
    """Return the map nearest to the reduction; where that is unknown, the one behind the fewest tokens."""
    _, tokens, channels = shape
    found = []
    for prefix in (prefix for prefix in PREFIXES if prefix < tokens):
        pixels = tokens - prefix
        height = max(1, round(math.sqrt(pixels * image.height / image.width)))
        layout = Layout("tokens", channels, height, pixels // height, prefix)
        if pixels % height == 0 and _mismatch(layout, image) < 0.5:
            found.append(layout)
    return sorted(found, key=lambda layout: _distance(layout, image, reduction))[:1]


def _distance(layout: Layout, image: Image, reduction: float | None) -> float:
    """Return by how many rows and columns the map's size differs from the image's at a reduction."""
    if reduction is None:
        return 0.0
    return abs(layout.height - image.height / reduction) + abs(layout.width - image.width / reduction)


def _mismatch(layout: Layout, image: Image) -> float:
    """Return by how many rows the map is too high or too low for the image's proportions."""
    return abs(layout.height - layout.width * image.height / image.width)
