"""Reads image files as upright RGB arrays and encodes PNG or JPEG. Without torch, so that workers start fast."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..common.cli import UserError
from ..common.files import check_regular

JPEG_QUALITY = 95
IMAGE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif",
    ".jp2", ".ppm",
})  # fmt: skip
Image.init()  # registers all formats
with suppress(ImportError):  # the extra heic
    from pi_heif import register_heif_opener

    register_heif_opener()
FORMATS = {"JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM"} & Image.OPEN.keys()
"""What is read, whatever the file's name says: formats that decode in this process and say their size first. Others
start programs (EPS) or decode when they are opened (ICO)."""
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
HEAD = 16  # bytes that tell a format


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
    check_regular(path, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about large images and unusual metadata
            with Image.open(path, formats=sorted(FORMATS)) as image:
                yield image
    except UserError:
        raise
    except Exception as error:  # decoders raise anything on damaged files
        raise UserError(f"{path}: not a readable image ({_reason(error, path)})") from error


def is_image(path: str | Path) -> bool:
    """Whether a file has the header of one of FORMATS."""
    try:
        with opened(path):
            return True
    except UserError:
        return False


def formats_by_start(head: bytes) -> list[str]:
    """The formats that are known, read here or not, by the first bytes of a file."""
    head = head[:HEAD].ljust(HEAD, b"\0")
    heic = ["HEIF"] if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS else []
    return heic + [name for name, (_, accept) in Image.OPEN.items() if accept and accept(head) is True]


def _reason(error: Exception, path: str | Path) -> str:
    """Why an image can't be read, in words where the decoder has some."""
    if isinstance(error, UnidentifiedImageError):
        return _format_not_read(path)
    words = isinstance(error, (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError))
    return getattr(error, "strerror", None) or (str(error) if words else "") or type(error).__name__


def _format_not_read(path: str | Path) -> str:
    """What is known of a file that begins as none of FORMATS does."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    if not head:
        return "it is empty"
    others = [name for name in formats_by_start(head) if name not in FORMATS]
    if "HEIF" in others:
        return 'HEIC needs pi-heif: pip install -e ".[heic]"'
    return f"the format {others[0]} is not read" if others else "damaged, or of no format that is read"


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
