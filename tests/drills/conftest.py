"""The drills train on the same images as the example's tests."""

from tests.deepfake.conftest import noise_images, one_shot

__all__ = ["noise_images", "one_shot"]
