"""Reads image files as upright RGB arrays and encodes PNG or JPEG. Without torch, so that workers start fast."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ..common.cli import UserError

JPEG_QUALITY = 95
Image.init()  # registers all formats
FORMATS = {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM"} & Image.OPEN.keys()
"""What is read, whatever the file's name says: formats that decode in this process and say their size first. Others
start programs (EPS) or decode when they are opened (ICO)."""
# What Pillow raises on damaged files, the last one where the EXIF part ends too soon:
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, struct.error)


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file as uint8 RGB (H, W, 3), upright by its EXIF tag. UserError that names the file if unreadable."""
    with opened(path) as image:
        if image.mode in ("I", "F"):
            raise UserError(f"{path}: pixels of 32 bits, whose white is unknown (wanted 8 or 16 bits per channel)")
        upright = ImageOps.exif_transpose(image)
        return np.array(_to_8_bits(upright).convert("RGB"))


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """An image file, its header read. UserError that names the file if it, or what is read of it, is unreadable."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=sorted(FORMATS)) as image:
            warnings.simplefilter("ignore")  # about large images and unusual metadata
            yield image
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8 bits; Pillow's own conversion would turn everything above 255 white."""
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def encode_rgb(image: np.ndarray, suffix: str) -> bytes:
    """A uint8 RGB image (H, W, 3) as a file's bytes: PNG (".png") or JPEG of quality 95 (".jpg")."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as {suffix}")
    return encoded.tobytes()
