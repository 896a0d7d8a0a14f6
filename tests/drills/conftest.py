"""The drills train on the same noise images as the example's tests."""

from tests.deepfake.conftest import noise_images

__all__ = ["noise_images"]
