"""Fixtures of the tests that train: a folder of noise images and a finished run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deepfake.short_trainings import train_small, write_images


@pytest.fixture(scope="session")
def noise_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished_run(noise_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(noise_images, tmp_path_factory.mktemp("runs") / "run")
