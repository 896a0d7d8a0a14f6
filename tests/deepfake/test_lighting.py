"""Varied light of training's shots: seeded, the same on both canvases, dark and light for every face."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deepfake.demo.lighting import vary_light

SIDE = 64


def face(level: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.clip(level + rng.normal(0, 0.02, (SIDE, SIDE, 3)), 0, 1).astype(np.float32)


@given(level=st.floats(0, 1), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_any_canvas_stays_in_range_and_the_same_seed_gives_the_same(level, seed):
    one, other = (vary_light([face(level)], np.random.default_rng(seed))[0] for _ in range(2))
    assert one.dtype == np.float32 and one.shape == (SIDE, SIDE, 3)
    assert one.min() >= 0 and one.max() <= 1 and np.array_equal(one, other)


def test_equal_canvases_stay_equal_and_a_forgery_stays_where_it_is():
    real = face(0.6)
    fake = real.copy()
    fake[24:40, 24:40] *= 0.9
    for seed in range(20):
        lit_real, lit_fake = vary_light([real, fake], np.random.default_rng(seed))
        changed = np.abs(lit_real - lit_fake).max(axis=2) > 0
        assert changed[24:40, 24:40].mean() > 0.9
        changed[24:40, 24:40] = False
        assert not changed.any()


def test_light_and_dark_faces_get_nearly_the_same_range_of_levels():
    def levels(level: float) -> np.ndarray:
        middle = slice(SIDE // 4, -SIDE // 4)
        canvases = (vary_light([face(level)], np.random.default_rng(seed))[0] for seed in range(200))
        return np.percentile([canvas[middle, middle].mean() for canvas in canvases], [10, 90])

    dark, light = levels(0.25), levels(0.65)
    assert np.abs(dark - light).max() < 0.1 and dark[1] - dark[0] > 0.2
