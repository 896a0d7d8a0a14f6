"""compare_detectors.py: the true box is where the face is in every case, and the table has a row for each."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("dlib", reason="face detection needs dlib-bin")

import compare_detectors
from deepfake.common.cli import UserError
from deepfake.evaluating.face_cases import CASES, HEIGHT, WIDTH, Portrait, picture


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_true_box_of_the_comparison_is_where_the_face_is(case):
    """A portrait whose face is one white square: the box is the square's, whatever was done."""
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[50:170, 50:170] = 255
    image, (x0, y0, x1, y1) = picture(Portrait(pixels, (50, 50, 170, 170)), case, (1, 2))
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert (x1 - x0) / case.face == pytest.approx(1, abs=0.11) and x1 - x0 == pytest.approx(y1 - y0)
    if case.covered is None:
        mask = image[..., 0] > 100 * case.gain
        assert mask.sum() == pytest.approx((x1 - x0) ** 2, rel=0.1)
        assert np.argwhere(mask).mean(axis=0) == pytest.approx(((y0 + y1) / 2, (x0 + x1) / 2), abs=2)
    else:
        assert image[:, :, 0].max() == 255 and (image == 128).any()


def test_the_comparison_prints_one_row_for_each_case(tmp_path, capsys):
    Image.fromarray(astronaut()[20:244, 112:336]).save(tmp_path / "a.png")
    row = {"file": "a.png", "person": "a", "box": [60, 45, 160, 145]}
    (tmp_path / "faces.jsonl").write_text(json.dumps(row) + "\n")
    compare_detectors.main([str(tmp_path), "--count", "1", "--detectors", "dlib"])
    rows = dict(line.strip("| ").rsplit(" | ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    assert {case.name for case in CASES} < set(rows)
    assert (rows["as it is"], rows["turned by 90 degrees"], rows["face of 20 px"]) == ("100 %", "0 %", "0 %")


def test_the_comparison_names_a_folder_without_portraits(tmp_path):
    with pytest.raises(UserError, match=r"faces\.jsonl") as caught:
        compare_detectors.main([str(tmp_path)])
    assert caught.value.exit_code == 2
