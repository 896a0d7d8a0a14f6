"""Fixtures: a folder of noise images, a finished run on it, a run with random weights, the demo with few images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deepfake.demo import shot_images
from tests.deepfake.short_trainings import train_small, write_images
from tests.deepfake.tiny_runs import build, save_run


@pytest.fixture(scope="session")
def noise_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def finished_run(noise_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_small(noise_images, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PANet with random weights, as a run's folder."""
    return save_run(tmp_path_factory.mktemp("runs") / "panet", build("panet"))


@pytest.fixture
def one_shot(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demo with one shot of each photo."""
    monkeypatch.setattr(shot_images, "SHOTS", {"train": 1, "val": 1, "test": 1})
    monkeypatch.setattr(shot_images, "EXTRA", 1)
    forget_demo()
    yield
    forget_demo()


def forget_demo() -> None:
    """Let the demo's images be drawn again."""
    shot_images.demo_images.cache_clear()
    shot_images.fingerprint.cache_clear()
