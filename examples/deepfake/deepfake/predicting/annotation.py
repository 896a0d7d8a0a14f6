"""Draws a prediction into its picture: the box of the face, and a caption below, legible at any image size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..evaluating.metrics import shown, verdict
from ..media.tracks import Box

SMALLEST = 320  # pixels: a smaller picture is enlarged and a narrower one gets margins, so that the caption is legible
REAL_COLOUR, FAKE_COLOUR = (0, 114, 178), (213, 94, 0)  # blue and vermilion of Okabe and Ito's palette
NO_COLOUR = (102, 102, 102)


def annotated(image: np.ndarray, box: Box | None, probability: float | None) -> np.ndarray:
    """A copy of a uint8 RGB image (H, W, 3) with the face's box, and a strip below with prediction and probability.

    Without a probability the strip says that no face was found.
    """
    text, colour = _text_and_colour(probability)
    enlarge = max(1, -(-SMALLEST // max(image.shape[:2])))
    size = (image.shape[1] * enlarge, image.shape[0] * enlarge)
    picture = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    if box is not None:
        _draw_box(picture, [side * enlarge for side in box], colour)
    strip = _caption(text, max(size[0], SMALLEST), colour)
    result = Image.new("RGB", (strip.width, picture.height + strip.height), "white")
    result.paste(picture, ((strip.width - picture.width) // 2, 0))
    result.paste(strip, (0, picture.height))
    return np.asarray(result)


def _text_and_colour(probability: float | None) -> tuple[str, tuple[int, int, int]]:
    """What the strip says, and its colour."""
    if probability is None:
        return "no face found", NO_COLOUR
    name = verdict(probability)
    return f"{name.upper()}   fake probability {shown(probability)}", FAKE_COLOUR if name == "fake" else REAL_COLOUR


def _draw_box(picture: Image.Image, box: list[float], colour: tuple[int, int, int]) -> None:
    """Draw a coloured frame with a thin white edge, limited to the picture so that all four sides are visible."""
    width = max(2, round(max(picture.size) / 150))
    right, bottom = picture.width - 1, picture.height - 1
    x0, y0, x1, y1 = (min(max(side, 0), end) for side, end in zip(box, (right, bottom) * 2, strict=True))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((x0, y0, x1, y1), outline="white", width=width + 2)
    draw.rectangle((x0 + 1, y0 + 1, max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)), outline=colour, width=width)


def _caption(text: str, width: int, colour: tuple[int, int, int]) -> Image.Image:
    """White text on `colour`, `width` pixels wide; the text grows with the picture."""
    size = width / 20
    strip = Image.new("RGB", (width, round(1.8 * size)), colour)
    font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), text, fill="white", font=font, anchor="mm")
    return strip
