"""The forgery set: FF++'s layout, disjoint people, the same steps for real and fake, repeatable and resumable."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

pytest.importorskip("dlib", reason="finding faces in portraits needs dlib-bin")
pytest.importorskip("av", reason="clips need PyAV")

import forge
import prepare
from deepfake.common.cli import UserError
from deepfake.dataset.manifest import list_images
from deepfake.forging import recipes
from deepfake.forging.alignment import align
from deepfake.forging.canvas import Still, canvas_transform, fit_similarity, render
from deepfake.forging.pairing import split_sizes
from deepfake.media.faces import FaceDetector
from deepfake.media.video import decode_frames
from deepfake.sources import ffpp
from tests.deepfake import scripts
from tests.deepfake.portraits_for_tests import astronaut_as, save_people, save_rgb

SCRIPT = Path(forge.__file__)
OPTIONS = ["--frames", "3", "--size", "200", "--workers", "1"]
SIDE = 256


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    return scripts.run_script("forge.py", *arguments)


def run_here(*arguments: object) -> None:
    forge.main(list(map(str, arguments)))


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    return save_people(tmp_path_factory.mktemp("people"))


@pytest.fixture(scope="module")
def forged(people, tmp_path_factory) -> Path:
    destination = tmp_path_factory.mktemp("sets") / "forged"
    done = run_script(people, destination, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "8 real and 32 fake clips" in done.stdout or "8 real and 40 fake clips" in done.stdout
    return destination


def stills() -> tuple[Still, Still]:
    detector = FaceDetector()
    images = [astronaut_as(person) for person in (0, 3)]
    target, donor = (Still(image, detector.largest(image).box) for image in images)
    return target, donor


def test_layout_is_that_of_ffpp(forged):
    for compression in ("c23", "c40"):
        real = sorted(path.name for path in (forged / "original_sequences/youtube" / compression / "videos").iterdir())
        assert real == [f"{number:03d}.mp4" for number in range(8)]
        folders = [forged / "manipulated_sequences" / method / compression / "videos" for method in ffpp.METHODS]
        names = [sorted(path.stem for path in folder.iterdir()) for folder in folders]
        assert names == names[:1] * 4 and len(list((forged / "manipulated_sequences").iterdir())) == 4
        fakes = [name.split("_") for name in names[0]]
        assert {target for target, _ in fakes} == {f"{number:03d}" for number in range(8)}
        assert all(target != source for target, source in fakes)
    clip = forged / "original_sequences/youtube/c23/videos/000.mp4"
    frames = list(decode_frames(clip))
    assert len(frames) == 3 and frames[0].shape == (200, 200, 3)


def test_people_and_donors_stay_in_their_split(forged):
    identities = json.loads((forged / "identities.json").read_text())
    pairs = {split: json.loads((forged / "splits" / f"{split}.json").read_text()) for split in ("train", "val", "test")}
    people_of = {split: {identities[key]["person"] for pair in pairs[split] for key in pair} for split in pairs}
    assert sum(map(len, people_of.values())) == len(set().union(*people_of.values())) == 7
    for split, listed in pairs.items():
        for target, source in listed:
            assert identities[target]["split"] == identities[source]["split"] == split
            assert identities[target]["person"] != identities[source]["person"]
    made = {path.stem for path in (forged / "manipulated_sequences/Deepfakes/c23/videos").iterdir()}
    assert made == {f"{a}_{b}" for listed in pairs.values() for pair in listed for a, b in (pair, pair[::-1])}
    both_of_a = [key for key, row in identities.items() if row["person"] == "a"]
    assert len(both_of_a) == 2


def test_prepare_reads_the_set_as_ffpp(forged, tmp_path):
    """Its own splits count, all four folders are read, and the face is found in every clip of the smallest size."""
    prepare.main([str(forged), str(tmp_path / "crops"), "--frames", "1", "--size", "64", "--compression", "c40"])
    identities = json.loads((forged / "identities.json").read_text())
    records, _ = list_images(tmp_path / "crops")
    assert {record.method for record in records} == {"real", *ffpp.METHODS}
    assert len(records) == len(list(forged.rglob("c40/videos/*.mp4")))
    for record in records:
        assert {identities[key]["split"] for key in record.path.split("/")[1].split("_")} == {record.split}
    rows = [json.loads(line) for line in (tmp_path / "crops/manifest.jsonl").read_text().splitlines()]
    assert all(row["faces"] for row in rows)
    assert all(row["person"] == identities[row["video"].split("_")[0]]["person"] for row in rows)


def test_readme_says_that_the_set_is_not_ffpp(forged):
    note = (forged / "README.md").read_text()
    assert "Not FaceForensics++" in note and all(f"- `{method}`: The " in note for method in ffpp.METHODS)


def test_forge_json_holds_all_settings(forged, people):
    settings = json.loads((forged / "forge.json").read_text())
    assert list(settings["methods"]) == list(ffpp.METHODS)
    assert settings["seed"] == 0 and settings["crf"] == {"c23": 23, "c40": 40} and "dlib" in settings["detector"]
    assert settings["sources"]["a_1.png"] == hashlib.sha256((people / "a_1.png").read_bytes()).hexdigest()


def test_same_bytes_again_and_with_two_workers(forged, people, tmp_path):
    done = run_script(people, tmp_path / "again", *OPTIONS[:-1], 2)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "again") == digests(forged)


def test_visible_forgeries_and_several_shots_of_a_photo(forged, people, tmp_path):
    """Two clips of each photo differ in camera and forgery, and a visible forgery changes more than the others do."""
    run_here(people, tmp_path / "set", *OPTIONS, "--visible", "--shots", 2, "--methods", "NeuralTextures")
    listed = json.loads((tmp_path / "set/identities.json").read_text())
    assert len(listed) == 16 and listed["000"]["portrait"] == listed["001"]["portrait"]
    videos = tmp_path / "set/original_sequences/youtube/c23/videos"
    assert len(list(videos.iterdir())) == 16
    assert (videos / "000.mp4").read_bytes() != (videos / "001.mp4").read_bytes()
    fakes = sorted((tmp_path / "set/manipulated_sequences").rglob("c23/videos/*.mp4"))
    assert len(fakes) >= 16 and {file.parts[-4] for file in fakes} == {"NeuralTextures"}
    assert json.loads((tmp_path / "set/forge.json").read_text())["shots"] == 2
    with pytest.raises(UserError, match=r"forge\.json"):
        run_here(people, tmp_path / "set", *OPTIONS, "--visible", "--methods", "NeuralTextures")


def test_wrong_choices_are_named(people, tmp_path):
    with pytest.raises(UserError, match="--visible has no Face2Face"):
        run_here(people, tmp_path / "set", "--visible", "--methods", "Deepfakes", "Face2Face")
    with pytest.raises(UserError, match="8 photos x 500 shots"):
        run_here(people, tmp_path / "set", "--shots", 500)
    assert not (tmp_path / "set").exists()


def test_another_seed_gives_another_set(forged, people, tmp_path):
    run_here(people, tmp_path / "set", *OPTIONS, "--seed", 1, "--identities", 6, "--methods", "NeuralTextures")
    assert not (tmp_path / "set/manipulated_sequences/Deepfakes").exists()
    name = "original_sequences/youtube/c23/videos/000.mp4"
    assert (tmp_path / "set" / name).read_bytes() != (forged / name).read_bytes()
    listed = json.loads((tmp_path / "set/identities.json").read_text())
    assert len({row["person"] for row in listed.values()}) == 6


def test_killed_run_continues_to_the_same_bytes(forged, people, tmp_path):
    destination = tmp_path / "set"
    command = [sys.executable, SCRIPT, people, destination, *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(destination.rglob("[!.]*.mp4"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = list(destination.rglob("[!.]*.mp4"))
    assert 5 <= len(made) < 80
    assert all(len(list(decode_frames(path))) == 3 for path in made), "a clip must be whole or absent"
    assert not (destination / "splits").exists(), "splits/ says that the set is complete"
    times = {path: path.stat().st_mtime_ns for path in made}
    done = run_script(people, destination, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == times, "finished clips are kept"
    assert digests(destination) == digests(forged)


def test_other_settings_do_not_mix_into_a_set(forged, people):
    before = digests(forged)
    done = run_script(people, forged, *OPTIONS, "--seed", "5")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error:") and "another seed" in done.stderr
    assert digests(forged) == before


def test_foreign_folder_is_refused(people, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    done = run_script(people, tmp_path, *OPTIONS)
    assert done.returncode == 2 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_photo_without_a_face_is_named_and_left_out(people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    save_rgb(tmp_path / "people/z_1.png", np.full((300, 300, 3), 90, np.uint8))
    done = run_script(tmp_path / "people", tmp_path / "set", *OPTIONS, "--methods", "NeuralTextures")
    assert done.returncode == 0, done.stderr
    assert "z_1.png: no face found" in done.stderr
    assert json.loads((tmp_path / "set/forge.json").read_text())["without_a_face"] == ["z_1.png"]
    assert "z" not in {row["person"] for row in json.loads((tmp_path / "set/identities.json").read_text()).values()}


@pytest.mark.parametrize("what, wanted", [("truncated", "b_1.png"), ("empty", "no photos"), ("absent", "not a folder")])
def test_bad_portraits_are_one_error_and_nothing_is_made(people, tmp_path, what, wanted):
    folder = tmp_path / "people"
    if what == "truncated":
        shutil.copytree(people, folder)
        (folder / "b_1.png").write_bytes((people / "b_1.png").read_bytes()[:2000])
    elif what == "empty":
        folder.mkdir()
    with pytest.raises(UserError, match=wanted):
        run_here(folder, tmp_path / "set", *OPTIONS)
    assert not (tmp_path / "set").exists()


def test_too_few_people(tmp_path):
    save_people(tmp_path / "people", people=5)
    with pytest.raises(UserError, match=r"5 people .*at least 6"):
        run_here(tmp_path / "people", tmp_path / "set", *OPTIONS)
    with pytest.raises(UserError, match="--identities 9"):
        run_here(tmp_path / "people", tmp_path / "set", *OPTIONS, "--identities", 9)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("bad", [["--size", "201"], ["--size", "64"], ["--frames", "0"],
                                 ["--methods", "Magic"], ["--seed", "-1"]])  # fmt: skip
def test_bad_arguments_exit_with_2(people, tmp_path, bad):
    with pytest.raises(UserError) as caught:
        run_here(people, tmp_path / "set", *bad)
    assert caught.value.exit_code == 2 and bad[1].lstrip("-") in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{", '{"file": 3}', '{"file": "a_1.png", "landmarks": [1, 2]}', '{"file": "a_1.png", "person": 4}', "[]"]
)
def test_bad_sidecar_names_its_line(people, tmp_path, line):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people/faces.jsonl").write_text('{"file": "b_1.png"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"faces.jsonl, line 2: wanted"):
        run_here(tmp_path / "people", tmp_path / "set", *OPTIONS)


def test_sidecar_names_the_person(people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    rows = [{"file": "b_1.png", "person": "a"}]  # six people are left
    (tmp_path / "people/faces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_here(tmp_path / "people", tmp_path / "set", *OPTIONS, "--methods", "NeuralTextures")
    listed = json.loads((tmp_path / "set/identities.json").read_text()).values()
    assert sorted(row["portrait"] for row in listed if row["person"] == "a") == ["a_1.png", "a_2.png", "b_1.png"]


@pytest.mark.parametrize("method", ffpp.METHODS)
def test_fake_differs_from_its_real_only_under_the_mask(method):
    """Both are resampled once: outside the mask they are equal bit for bit, inside they differ."""
    target, donor = stills()
    real = recipes.genuine(target, donor, SIDE, np.random.default_rng(0))
    fake = recipes.METHODS[method](target, donor, SIDE, np.random.default_rng(0))
    changed = (real != fake).any(axis=2)
    assert fake.dtype == np.float32 and fake.min() >= 0 and fake.max() <= 1
    assert 0.05 < changed.mean() < 0.5
    assert not changed[:16].any() and not changed[:, :16].any() and not changed[-16:].any()
    assert np.abs(fake - real)[changed].mean() > 0.005


@pytest.mark.parametrize("method", ["real", *ffpp.METHODS])
def test_every_canvas_is_resampled_once(method, monkeypatch):
    """Each canvas, real or forged, is one `render` of a photo; none is rendered from another canvas."""
    target, donor = stills()
    inputs = []

    def counting(image, *how):
        inputs.append(image.dtype)
        return render(image, *how)

    monkeypatch.setattr(recipes, "render", counting)
    recipes.METHODS.get(method, recipes.genuine)(target, donor, SIDE, np.random.default_rng(0))
    assert len(inputs) == (1 if method == "real" else 2)
    assert set(inputs) == {np.dtype(np.uint8)}, "canvases are float, photos uint8"


def test_the_recipes_differ():
    """Also with the same random numbers: two swaps with different seams, two blends of the target's own face."""
    target, donor = stills()
    made = [recipes.METHODS[method](target, donor, SIDE, np.random.default_rng(0)) for method in ffpp.METHODS]
    for one, other in itertools.combinations(made, 2):
        assert np.abs(one - other).max() > 0.02
    same_face, another_face = np.abs(made[0] - made[2]).mean(), np.abs(made[0] - made[1]).mean()
    assert same_face < another_face, "the two swaps show the same face"


def test_blending_equal_images_gives_the_image():
    image = np.random.default_rng(0).uniform(0, 1, (40, 40, 3)).astype(np.float32)
    mask = np.zeros((40, 40), np.float32)
    mask[10:30, 10:30] = 1
    assert np.abs(recipes.blend_bands(image, image, mask, levels=3) - image).max() < 1e-5
    dark = recipes.blend_bands(np.zeros_like(image), image, np.ones_like(mask), levels=3)
    assert np.abs(dark).max() < 1e-5


def test_colour_match_gives_mean_and_standard_deviation():
    rng = np.random.default_rng(0)
    inner = rng.uniform(0.3, 0.5, (40, 40, 3)).astype(np.float32)
    outer = np.clip(rng.normal([0.6, 0.5, 0.4], 0.06, (40, 40, 3)), 0, 1).astype(np.float32)
    matched = recipes.match_colour(inner, outer, np.ones((40, 40), np.float32))
    lab_matched, lab_outer = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (matched, outer))
    assert lab_matched.mean((0, 1)) == pytest.approx(lab_outer.mean((0, 1)), abs=0.5)
    assert lab_matched.std((0, 1)) == pytest.approx(lab_outer.std((0, 1)), rel=0.1)


def test_registration_finds_a_known_shift():
    """Without landmarks, a face that is shifted in its box is aligned to within 2 % of the box's side."""
    image = astronaut()
    box = FaceDetector().largest(image).box
    side = box[2] - box[0]
    wrong = (box[0] + 0.08 * side, box[1] - 0.06 * side, box[2] + 0.08 * side, box[3] - 0.06 * side)
    found = align(Still(image, wrong), Still(image, box))
    corners = np.array([[box[0], box[1], 1], [box[2], box[1], 1], [box[2], box[3], 1]])
    assert np.abs(corners @ found[:2].T - corners[:, :2]).max() < 0.02 * side


def test_landmarks_align_exactly_and_outside_points_do_not_count():
    rng = np.random.default_rng(0)
    points = rng.uniform(20, 80, (12, 2))
    turn = np.array([[1.1, -0.2], [0.2, 1.1]])
    moved = points @ turn.T + [15, 4]
    points[0], moved[0] = [500, 500], [-300, 10]  # hair: outside both boxes
    blank = np.zeros((8, 8, 3), np.uint8)
    found = align(Still(blank, (0, 0, 100, 100), points), Still(blank, (0, 0, 200, 200), moved))
    assert found[:2, :2] == pytest.approx(turn) and found[:2, 2] == pytest.approx([15, 4])
    assert fit_similarity(points[1:], moved[1:]) == pytest.approx(found)


def test_landmarks_that_fix_no_similarity_are_named(people, tmp_path):
    """Landmarks that are all at one point determine no transform: one line names the two photos."""
    shutil.copytree(people, tmp_path / "people")
    rows = [{"file": path.name, "landmarks": [[200, 170]] * 5} for path in sorted(people.glob("*.png"))]
    (tmp_path / "people/faces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"\.png onto .*\.png: the landmarks"):
        run_here(tmp_path / "people", tmp_path / "set", *OPTIONS)
    assert not (tmp_path / "set/splits").exists()


def test_canvas_centres_the_face():
    transform = canvas_transform(Still(np.zeros((9, 9, 3), np.uint8), (10, 20, 30, 40)), 100)
    assert transform @ [20, 30, 1] == pytest.approx([50, 50, 1])
    assert transform @ [10, 20, 1] == pytest.approx([25, 25, 1])


@pytest.mark.parametrize("people, sizes", [(6, (2, 2, 2)), (10, (6, 2, 2)), (20, (14, 3, 3)), (102, (72, 15, 15))])
def test_split_sizes(people, sizes):
    assert split_sizes(people) == sizes


def shared_london() -> Path:
    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (shared / "data/london").is_dir():
        pytest.skip(f"no portraits in {shared}/data/london")
    return shared / "data/london"


def test_london_portraits_with_landmarks(tmp_path):
    source, folder = shared_london(), tmp_path / "people"
    folder.mkdir()
    rows = [line for line in (source / "faces.jsonl").read_text().splitlines() if json.loads(line)["landmarks"]][:6]
    (folder / "faces.jsonl").write_text("\n".join(rows))
    for row in rows:
        shutil.copy(source / json.loads(row)["file"], folder)
    run_here(folder, tmp_path / "set", *OPTIONS)
    assert len(list((tmp_path / "set/manipulated_sequences/Deepfakes/c23/videos").iterdir())) == 6
