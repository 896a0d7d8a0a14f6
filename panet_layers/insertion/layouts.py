"""How a feature map lies in a tensor - NCHW, NHWC or tokens - and how to read that off the tensor's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

PREFIXES = (0, 1, 2, 3, 4, 5, 8, 9)  # class and register tokens of the networks there are


class Image(NamedTuple):
    """The images of a dry run."""

    batch: int
    height: int
    width: int


class ChannelsFirst(tuple[int, ...]):
    """The shape of what a module gave that gives (B, C, H, W) and nothing else, as a Conv2d."""


@dataclass(frozen=True)
class Layout:
    """Where the channels, rows and columns of a feature map are.

    kind: "NCHW" is (B, C, H, W), "NHWC" (B, H, W, C), "tokens" (B, prefix + H * W, C).
    channels, height, width: C, H, W as the dry run saw them.
    prefix: tokens ahead of the map that belong to no pixel (class, registers).
    order: for tokens that are not row by row, which one is at each pixel.
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
        """Rows and columns of a map of so many tokens: the dry run's, or others in its proportion.

        Raises ValueError where there are none.
        """
        if tokens == self.height * self.width:
            return self.height, self.width
        height = max(1, round(math.sqrt(tokens * self.height / self.width)))
        width = tokens // height
        apart = abs(height - width * self.height / self.width)  # as when a map was read
        if self.order is not None or tokens % height or apart >= 0.5:
            raise ValueError(
                f"{tokens} tokens are no map in the proportion {self.height}:{self.width}, that of the example_input "
                "with which the layer was inserted"
            )
        return height, width


def read_layout(
    shape: tuple[int, ...], image: Image, channels: int | None = None, reduction: float | None = None
) -> list[Layout]:
    """The layouts that a tensor's shape fits best: none, one, or two where it could be NCHW as well as NHWC.

    Read off the image's proportions, except for `ChannelsFirst`.

    channels, reduction: of the map, where they are known (timm's `num_chs` and `reduction`).
    """
    if len(shape) not in (3, 4) or shape[0] != image.batch or 0 in shape:
        return []
    found = _maps(shape, image) if len(shape) == 4 else _tokens(shape, image, reduction)
    found = [layout for layout in found if channels in (None, layout.channels)]
    least = min((_mismatch(layout, image) for layout in found), default=0.0)
    return [layout for layout in found if _mismatch(layout, image) == least]


def at_reduction(layout: Layout, image: Image, reduction: float | None) -> bool:
    """Whether the map is about `reduction` times smaller than the image."""
    if reduction is None:
        return True
    expected = image.height / reduction
    return abs(layout.height - expected) <= max(1.0, 0.2 * expected)


def in_order(layout: Layout, order: Tensor) -> Layout:
    """The layout of tokens that lie in another order than row by row; `order` (H, W): which one is at each pixel."""
    return replace(layout, height=order.shape[0], width=order.shape[1], order=tuple(order.flatten().tolist()))


def _maps(shape: tuple[int, ...], image: Image) -> list[Layout]:
    _, a, b, c = shape
    if isinstance(shape, ChannelsFirst) and not a == b == c:  # which is refused whatever gave it
        return [Layout("NCHW", a, b, c)]
    read = Layout("NCHW", a, b, c), Layout("NHWC", c, a, b)
    return [layout for layout in read if _mismatch(layout, image) <= 2]  # unpadded convolutions cost a row or two


def _tokens(shape: tuple[int, ...], image: Image, reduction: float | None) -> list[Layout]:
    """The map nearest to the reduction; where that is unknown, the one behind the fewest tokens."""
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
    """By how many rows and columns the map differs from the image's at a reduction."""
    if reduction is None:
        return 0.0
    return abs(layout.height - image.height / reduction) + abs(layout.width - image.width / reduction)


def _mismatch(layout: Layout, image: Image) -> float:
    """By how many rows the map is too high or too low for the image's proportions."""
    return abs(layout.height - layout.width * image.height / image.width)
