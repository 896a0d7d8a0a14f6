"""The embedded portraits and their shots: same bytes, no person in two splits, only the forgery tells classes apart."""

import hashlib
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from deepfake.common.cli import UserError
from deepfake.data import open_split
from deepfake.dataset.manifest import SPLITS
from deepfake.demo import people, shot_images, shots
from deepfake.demo.options import FOLDS, fold_of, is_demo
from deepfake.demo.sample_files import write_samples
from deepfake.demo.shot_images import demo_images, fingerprint
from deepfake.forging.coarse_recipes import COARSE_METHODS
from deepfake.media.faces import DARK, FaceDetector, box_iou
from deepfake.media.image_files import read_rgb
from deepfake.media.video import decode_frames
from tests.deepfake.scripts import environment


@pytest.fixture(scope="module")
def drawn():
    return demo_images("test", 0, 64)


def digest(images) -> str:
    return hashlib.sha256(images.pixels.tobytes()).hexdigest()


def forget() -> None:
    for function in (people.portraits, people.folds, demo_images, fingerprint):
        function.cache_clear()


@pytest.fixture
def one_removed(tmp_path, monkeypatch):
    """The demo without person 001."""
    for file in people.FOLDER.iterdir():
        if not file.name.startswith("001"):
            shutil.copy(file, tmp_path)
    lines = (people.FOLDER / "faces.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "faces.jsonl").write_text("".join(line for line in lines if '"person":"001"' not in line))
    monkeypatch.setattr(people, "FOLDER", tmp_path)
    forget()
    yield
    forget()


def test_the_folder_is_small_and_says_whose_photos_these_are():
    files = list(people.FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= 3_000_000
    licence = (people.FOLDER / "LICENCE.md").read_text()
    for words in ("CC BY 4.0", "10.6084/m9.figshare.5047666.v5", "consent", "removed", "How they were made"):
        assert words in licence
    assert {file.suffix for file in files} == {".webp", ".md", ".jsonl"}


def test_every_photo_has_its_face_in_the_stored_box():
    assert len(people.portraits()) == 204 and len({portrait.person for portrait in people.portraits()}) == 102
    detector = FaceDetector()
    for portrait in people.portraits()[::20]:
        assert portrait.landmarks is not None and portrait.landmarks.shape == (50, 2)
        assert box_iou(detector.largest(read_rgb(portrait.path)).box, portrait.box) > 0.6


@pytest.mark.parametrize("fold", range(FOLDS))
def test_no_person_is_in_two_splits(fold):
    of_split = {split: {portrait.person for portrait in people.photos_of(split, fold)} for split in SPLITS}
    assert all(not of_split[one] & of_split[other] for one, other in combinations(SPLITS, 2))
    assert sum(map(len, of_split.values())) == 102
    assert {len(of_split[split]) for split in ("val", "test")} <= {14, 15}


def test_every_person_is_tested_in_one_fold_and_the_folds_are_alike_in_lightness():
    tested = [person for fold in people.folds() for person in fold]
    assert len(tested) == len(set(tested)) == 102
    dark = {portrait.person for portrait in people.portraits() if portrait.tone[0] < DARK}
    assert {len(fold & dark) for fold in people.folds()} <= {2, 3}


def test_a_split_is_balanced_and_in_pairs(drawn):
    photos = people.photos_of("test", 0)
    assert len(drawn) == 2 * shot_images.SHOTS["test"] * len(photos)
    assert drawn.pixels.shape == (len(drawn), 64, 64, 3) and drawn.pixels.dtype == np.uint8
    assert drawn.labels.tolist() == [0, 1] * (len(drawn) // 2)
    assert set(drawn.methods) == {"real", *COARSE_METHODS}
    assert len(set(drawn.names)) == len(drawn)
    assert len({video for video in drawn.videos if video.startswith("real/")}) == len(photos)
    assert drawn.face_in_middle.all()


def test_same_bytes_in_another_process_and_with_one_core(drawn):
    code = """import hashlib, os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from deepfake.demo.shot_images import demo_images
images = demo_images("test", 0, 64)
print(hashlib.sha256(images.pixels.tobytes()).hexdigest(), images.fingerprint)"""
    other = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert other.stdout.split() == [digest(drawn), drawn.fingerprint]


def test_real_and_fake_of_a_shot_differ_inside_the_face_only(drawn):
    real, fake = drawn.pixels[0::2].astype(int), drawn.pixels[1::2].astype(int)
    changed = np.abs(real - fake).max(axis=-1)
    top = changed[:, :3].ravel()  # above the face; below it is the chin, which a mask may reach
    assert (changed.reshape(len(changed), -1).max(axis=1) > 8).all()
    assert np.median(top) <= 4 and np.percentile(top, 95) <= 16  # compression spreads a change over its block


def test_a_donor_is_another_person_near_in_tone_of_the_same_split():
    photos = people.photos_of("val", 0)
    for target in photos:
        donors = shots.nearest_donors(target, photos)
        far = [abs(np.array(other.tone) - target.tone).sum() for other in photos if other.person != target.person]
        assert len(donors) == shots.NEAREST and all(donor in photos for donor in donors)
        assert all(donor.person != target.person for donor in donors)
        assert max(abs(np.array(donor.tone) - target.tone).sum() for donor in donors) <= sorted(far)[shots.NEAREST - 1]


def test_folds_have_names():
    assert [fold_of(name) for name in ("demo", "demo/0", "demo/6", "./demo", "mine/demo", "demo/x")] == [
        *(0, 0, 6),
        *(None, None, None),
    ]
    assert is_demo("demo/3") and not is_demo("demos")
    with pytest.raises(UserError, match="demo/7: no such fold"):
        open_split("demo/7", "test", 64)
    assert fingerprint(0) != fingerprint(1)


def test_a_larger_network_reads_the_same_shots(one_shot):
    images = open_split("demo", "val", 299)
    assert images[0][0].shape == (3, 299, 299) and images.pixels.shape[1:] == (shots.SIZE, shots.SIZE, 3)


def test_a_person_who_was_removed_is_missing_and_nothing_else(one_removed):
    assert len({portrait.person for portrait in people.portraits()}) == 101
    assert all(portrait.person != "001" for split in SPLITS for portrait in people.photos_of(split, 0))
    assert sum(map(len, people.folds())) == 101


def test_the_notice_is_printed_once_and_says_no_result():
    code = """from deepfake.demo import shot_images
shot_images.SHOTS.update(val=1)
for image_size in (64, 32): shot_images.demo_images("val", 0, image_size)"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stderr.count("NO RESULT") == 1 and "CC BY 4.0" in done.stderr
    assert done.stdout == ""  # left to a command's own output


def test_samples_are_photos_and_clips_larger_than_the_face_with_their_licence(tmp_path: Path):
    paths = write_samples(tmp_path)
    assert [path.name for path in paths] == [*("real_photo.jpg", "real_clip.mp4", "fake_photo.jpg", "fake_clip.mp4")]
    detector = FaceDetector()
    for path in paths:
        frames = [read_rgb(path)] if path.suffix == ".jpg" else list(decode_frames(path))
        for frame in (frames[0], frames[-1]):
            x0, y0, x1, y1 = detector.largest(frame).box
            assert 1.3 * (x1 - x0) < frame.shape[1] and x0 > 0 and x1 < frame.shape[1] and y0 > 0
    assert (tmp_path / people.LICENCE).read_bytes() == (people.FOLDER / "LICENCE.md").read_bytes()
    real, fake = (read_rgb(tmp_path / f"{name}_photo.jpg").astype(int) for name in ("real", "fake"))
    assert np.abs(real - fake).max() > 30 and np.abs(real - fake)[:20].max() < 12
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_samples(tmp_path)] == first
