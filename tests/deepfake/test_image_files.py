"""Image files of every kind as upright RGB pixels, or one line that says what is wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepfake.common.cli import UserError
from deepfake.dataset.resizing import square
from deepfake.media.image_files import read_rgb


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_format_is_read_whatever_the_name_says(tmp_path: Path, kind: str) -> None:
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "photo.dat", format=kind)
    assert abs(read_rgb(tmp_path / "photo.dat")[8, 8, 0].astype(int) - 200) < 8


def test_an_image_is_turned_upright_cut_and_antialiased(tmp_path: Path) -> None:
    tall = Image.new("RGB", (20, 60), (255, 0, 0))
    tall.paste((0, 0, 255), (0, 20, 20, 40))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    tall.save(tmp_path / "turned.png", exif=exif)
    pixels = read_rgb(tmp_path / "turned.png")
    assert pixels.shape == (20, 60, 3)
    assert (square(pixels, 20) == (0, 0, 255)).all()
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(square(stripes, 8).astype(int) - 127).max() < 12


def test_a_truncated_exif_part_is_one_error_line(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0")
    with pytest.raises(UserError, match=r"x\.png: not a readable image"):
        read_rgb(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("x.tiff" if mode == "CMYK" else "x.png")
    Image.new(mode, (9, 7)).save(file)
    assert read_rgb(file).shape == (7, 9, 3)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_and_not_cut_to_white(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"x.{suffix}"
    Image.fromarray(np.array([[0, 128, 255]], np.uint16) * 257).save(file)
    assert read_rgb(file)[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bit_pixels_are_refused(tmp_path: Path, dtype: Any) -> None:
    Image.fromarray(np.ones((3, 3), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: pixels of 32 bits"):
        read_rgb(tmp_path / "x.tif")


@given(height=st.integers(1, 40), width=st.integers(1, 40), size=st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_any_photo_becomes_a_square(height: int, width: int, size: int) -> None:
    pixels = np.full((height, width, 3), 77, np.uint8)
    result = square(pixels, size)
    assert result.shape == (size, size, 3) and result.dtype == np.uint8
    assert (result == 77).all()


def test_a_portrait_folder_of_real_photos() -> None:
    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    photos = sorted((shared / "data" / "london").glob("*.jpg"))
    if not photos:
        pytest.skip("no portraits beside the checkout (PANET_SHARED)")
    pixels = square(read_rgb(photos[0]), 64)
    assert pixels.shape == (64, 64, 3) and pixels.std() > 10
