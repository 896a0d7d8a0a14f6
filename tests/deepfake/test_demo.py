"""The demo's drawn faces: the same in every run, classes that differ by the forgery only, no person in two splits."""

import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from deepfake.demo import demo_faces, demo_forgery, demo_people, drawn_images
from tests.deepfake.scripts import environment


@pytest.fixture(scope="module")
def drawn() -> drawn_images.Drawn:
    return drawn_images.draw_split("test", count=40)


def test_same_pixels_with_any_number_of_workers(drawn: drawn_images.Drawn) -> None:
    for workers in (1, 3):
        drawn_images.draw_split.cache_clear()
        again = drawn_images.draw_split("test", count=40, workers=workers)
        assert np.array_equal(again.pixels, drawn.pixels)
        assert again.names == drawn.names


def test_same_pixels_in_another_process(drawn: drawn_images.Drawn) -> None:
    code = """import hashlib; from deepfake.demo import drawn_images as demo
print(hashlib.sha256(demo.draw_split("test", count=8).pixels).hexdigest(), demo.fingerprint())"""
    other = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert other.stdout.split() == [hashlib.sha256(drawn.pixels[:8]).hexdigest(), drawn_images.fingerprint()]


def test_a_split_is_balanced_and_a_shorter_draw_is_its_beginning(drawn: drawn_images.Drawn) -> None:
    assert drawn.pixels.shape == (40, drawn_images.SIZE, drawn_images.SIZE, 3)
    assert drawn.pixels.dtype == np.uint8
    assert drawn.labels == [0, 1] * 20
    assert set(drawn.methods) == {"real", "blend", "swap"}
    assert all((method == "real") == (label == 0) for method, label in zip(drawn.methods, drawn.labels, strict=True))
    assert len(set(drawn.names)) == 40
    assert np.array_equal(drawn_images.draw_split("test", count=5).pixels, drawn.pixels[:5])


def test_no_person_is_in_two_splits() -> None:
    people = {}
    for split in drawn_images.PEOPLE:
        videos = drawn_images.draw_split(split, count=8).videos
        people[split] = {video.split("/")[1] for video in videos}
        assert len(people[split]) == 8 // (2 * drawn_images.SHOTS)
    assert (
        not people["train"] & people["val"]
        and not people["train"] & people["test"]
        and not people["val"] & people["test"]
    )
    first = sorted(drawn_images._FIRST.items(), key=lambda item: item[1])
    for (split, start), (_, following) in itertools.pairwise(first):
        assert start + drawn_images.PEOPLE[split] <= following


@given(split=st.sampled_from(sorted(drawn_images.PEOPLE)), person=st.integers(0, 10_000), seed=st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_a_donor_is_another_person_of_the_same_split(split: str, person: int, seed: int) -> None:
    person %= drawn_images.PEOPLE[split]
    donor = drawn_images._donor_of(split, person, np.random.default_rng(seed))
    assert donor != person
    assert 0 <= donor < drawn_images.PEOPLE[split]


def test_real_and_fake_differ_inside_the_face_only(drawn: drawn_images.Drawn) -> None:
    real, fake = drawn.pixels[0::2].astype(int), drawn.pixels[1::2].astype(int)
    changed = np.abs(real - fake).max(axis=-1)
    border = np.concatenate([changed[:, :, :6].ravel(), changed[:, :, -6:].ravel()])
    assert (changed.reshape(len(changed), -1).max(axis=1) > 10).all()
    assert (border <= 4).mean() > 0.98  # what is left there is compression


def test_pasting_a_face_into_itself_unchanged_gives_the_real_image() -> None:
    rng = np.random.default_rng(5)
    person = demo_people.sample_identity(rng)
    portrait = demo_faces.draw_portrait(person, demo_people.sample_shot(rng), 128)
    camera = demo_forgery.sample_camera(rng)
    nothing = demo_forgery.Forgery(
        "blend",
        "face",
        shift=(0, 0),
        zoom=1,
        angle=0,
        gain=(1, 1, 1),
        match=0,
        sharpness=0,
        edge=0.02,
        ragged=(1.0,) * 24,
    )
    real = demo_forgery.film_drawing(portrait, camera, 64)
    same = demo_forgery.film_drawing(portrait, camera, 64, nothing)
    assert np.abs(real.astype(int) - same.astype(int)).max() <= 2


@given(seed=st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_every_person_in_every_shot_is_in_the_picture(seed: int) -> None:
    rng = np.random.default_rng(seed)
    portrait = demo_faces.draw_portrait(demo_people.sample_identity(rng), demo_people.sample_shot(rng), 128)
    assert portrait.pixels.shape == (128, 128, 3)
    assert portrait.pixels.dtype == np.float32
    assert np.isfinite(portrait.pixels).all()
    assert portrait.pixels.min() >= 0 and portrait.pixels.max() <= 1
    assert portrait.pixels.std() > 0.02
    assert (portrait.landmarks >= 0).all() and (portrait.landmarks < 128).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = portrait.landmarks
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < max(left_mouth[1], right_mouth[1])


def test_save_image_writes_the_dataset_s_own_pixels(tmp_path: Path, drawn: drawn_images.Drawn) -> None:
    for index in (0, 3):
        file = drawn_images.save_image(tmp_path / f"{index}.png", "test", index)
        assert np.array_equal(np.asarray(Image.open(file)), drawn.pixels[index])
    with pytest.raises(IndexError, match="-1 of the demo's test split"):
        drawn_images.save_image(tmp_path / "no.png", "test", -1)
    assert not (tmp_path / "no.png").exists()


def test_a_warning_says_once_that_it_is_no_result() -> None:
    draw = "drawn_images.draw_split('val', count=2)"
    code = f"from deepfake.demo import drawn_images; {draw}; {draw}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr.count("NO result") == 1
    assert done.stdout == ""  # left to a command's own output
    assert "no result" in drawn_images.DESCRIPTION
