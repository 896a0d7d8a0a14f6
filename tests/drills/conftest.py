"""The drills train on the same images as the example's tests; experiments, on a folder with a set of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deepfake.conftest import noise_images, one_shot
from tests.deepfake.prepare_for_tests import save_tree
from tests.trial.drawn_pictures import draw_pictures

__all__ = ["data", "noise_images", "one_shot"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, noise_images: Path) -> Path:
    """A folder with `ffpp` for reproduce.py, `pictures` for does_it_help.py and `noise` for ablate.py."""
    folder = tmp_path_factory.mktemp("data")
    save_tree(folder / "ffpp")
    draw_pictures(folder / "pictures")
    (folder / "noise").symlink_to(noise_images)
    return folder
