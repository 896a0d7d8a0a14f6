"""Image files as arrays: read any photo upright as RGB, encode PNG or JPEG. No torch: workers start fast."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from cli import UserError

JPEG_QUALITY = 95
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # what PIL raises on damaged files


def read_rgb(path: str | Path) -> np.ndarray:
    """An image file as uint8 (H, W, 3) RGB, upright by its EXIF tag. UserError, naming it, if it can't be read."""
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such image") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a readable image ({type(error).__name__})") from error


def encode_rgb(image: np.ndarray, suffix: str) -> bytes:
    """A uint8 RGB image (H, W, 3) as a file's bytes: PNG (".png") or JPEG of quality 95 (".jpg")."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    done, encoded = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError(f"cannot encode an image of shape {image.shape} as {suffix}")
    return encoded.tobytes()
