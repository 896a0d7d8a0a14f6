"""Manifests from strangers: they name no file outside of their folder, and one line says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.manifest import list_images
from tests.deepfake.image_folders import picture, write


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/0.png"])
def test_a_manifest_does_not_lead_out_of_its_folder_by_a_link(tmp_path: Path, link: str) -> None:
    root, outside = tmp_path / "data", tmp_path / "outside"
    picture(outside / "a/b/0.png")
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(outside / link)
    picture(root / "1.png")
    rows = [{"path": path, "label": n, "split": "train"} for n, path in enumerate(("a/b/0.png", "1.png"))]
    with pytest.raises(UserError, match=r"a link that leads out of the folder with the manifest\.jsonl"):
        open_split(write(root, rows), "train", 8)
    (root / link).unlink()
    picture(root / "kept/b/0.png")
    (root / "a").mkdir(exist_ok=True)
    if not (root / "a/b").exists():
        (root / "a/b").symlink_to("../kept/b")
    else:
        (root / "a/b/0.png").symlink_to("../../kept/b/0.png")
    (tmp_path / "linked").symlink_to(root)
    assert len(open_split(tmp_path / "linked", "train", 8)) == 2, "a link that stays inside"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"path": "a.png", "label": 0, "label": 1, "split": "train"}', "the key 'label' is there twice"),
        ('{"path": "\\ud800.png", "label": 0, "split": "train"}', "one half of a letter"),
        (
            '{"path": "a.png", "label": 0, "split": "train", "video": "\\udbff"}',
            "one half of a letter",
        ),
        ('{"path": "a.png", "label": 0.0, "split": "train"}', "label 0.0 (wanted"),
        ('{"path": "a.png", "label": 1e400, "split": "train"}', "label inf (wanted"),
        ('{"path": "a.png", "label": "0", "split": "train"}', "label '0' (wanted"),
        ('{"path": "a.png", "label": 0, "split": "' + "x" * 10**6 + '"}', "split 'xxx"),
        ('{"path": "' + "../" * 10**5 + 'a.png", "label": 0, "split": "train"}', "leads out of the folder"),
        ('{"path": "a.png", "label": 0, "split": "train", "box": [NaN, 0, 1, 1]}', "box [nan, 0, 1, 1] (wanted"),
        ('{"path": "a.png", "label": 0, "split": "train", "person": ["Ann"]}', "person ['Ann'] (wanted a text)"),
        ('{"path": "a.png", "label": 0, "split": "train", "person": 7}', "person 7 (wanted a text)"),
        ('{"path": "a.png", "label": 0, "split": "train", "landmarks": [[1, NaN]]}', "landmarks [[1, nan]] (wanted"),
        ('{"path": "a.png", "label": 0, "split": "train", "landmarks": {"x": 1}}', "landmarks {'x': 1} (wanted"),
        ("[" * 10**6, "not JSON"),
    ],
    ids=lambda value: value[:40],
)
def test_a_hostile_line_is_named_in_one_short_line(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(UserError, match=r"manifest\.jsonl, line 2") as caught:
        list_images(write(tmp_path, [{"path": "0.png", "label": 0, "split": "train"}, line]))
    assert problem in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_name_that_no_file_can_have_is_no_traceback(tmp_path: Path) -> None:
    row = {"path": "x" * 300 + ".png", "label": 0, "split": "train"}
    with pytest.raises(UserError, match=r"xxx\.png: cannot be read \(File name too long\)"):
        open_split(write(tmp_path, [row, row | {"label": 1, "path": "b.png"}]), "train", 8)
