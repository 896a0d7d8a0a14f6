"""The forgery set: FF++'s layout, disjoint people, the same steps for real and fake, repeatable and resumable."""

from __future__ import annotations

import hashlib
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

from portraits_for_tests import astronaut_as, save_people, save_rgb

import forge
import forging
from alignment import align
from canvas import Still, canvas_transform, fit_similarity, render
from cli import UserError
from faces import FaceDetector
from plan import split_sizes
from video import count_frames, decode_frames, frame_indices, sample_frames, write_clip

SCRIPT = Path(forge.__file__)
OPTIONS = ["--frames", "3", "--size", "160", "--workers", "1"]
SIDE = 256


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True)


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["forge.py", *map(str, arguments)])
    forge.main()


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
    assert "8 real and 16 fake clips" in done.stdout or "8 real and 18 fake clips" in done.stdout
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
        blends = forged / "manipulated_sequences/SelfBlend" / compression / "videos"
        assert sorted(path.stem for path in blends.iterdir()) == [f"{number:03d}_{number:03d}" for number in range(8)]
        swaps = [
            path.stem.split("_") for path in (forged / "manipulated_sequences/Swap" / compression / "videos").iterdir()
        ]
        assert {target for target, _ in swaps} == {f"{number:03d}" for number in range(8)}
        assert all(target != source for target, source in swaps)
    clip = forged / "original_sequences/youtube/c23/videos/000.mp4"
    frames = list(decode_frames(clip))
    assert len(frames) == 3 and frames[0].shape == (160, 160, 3)


def test_people_and_donors_stay_in_their_split(forged):
    identities = json.loads((forged / "identities.json").read_text())
    pairs = {split: json.loads((forged / "splits" / f"{split}.json").read_text()) for split in ("train", "val", "test")}
    people_of = {split: {identities[key]["person"] for pair in pairs[split] for key in pair} for split in pairs}
    assert sum(map(len, people_of.values())) == len(set().union(*people_of.values())) == 7
    for split, listed in pairs.items():
        for target, source in listed:
            assert identities[target]["split"] == identities[source]["split"] == split
            assert identities[target]["person"] != identities[source]["person"]
    made = {path.stem for path in (forged / "manipulated_sequences/Swap/c23/videos").iterdir()}
    assert made == {f"{a}_{b}" for listed in pairs.values() for pair in listed for a, b in (pair, pair[::-1])}
    both_of_a = [key for key, row in identities.items() if row["person"] == "a"]
    assert len(both_of_a) == 2


def test_forge_json_tells_what_was_made(forged, people):
    told = json.loads((forged / "forge.json").read_text())
    assert told["seed"] == 0 and told["crf"] == {"c23": 23, "c40": 40} and "dlib" in told["detector"]
    assert told["sources"]["a_1.png"] == hashlib.sha256((people / "a_1.png").read_bytes()).hexdigest()


def test_same_bytes_again_and_with_two_workers(forged, people, tmp_path):
    done = run_script(people, tmp_path / "again", *OPTIONS[:-1], 2)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "again") == digests(forged)


def test_another_seed_gives_another_set(forged, people, tmp_path, monkeypatch):
    run_here(monkeypatch, people, tmp_path / "set", *OPTIONS, "--seed", 1, "--identities", 6, "--methods", "SelfBlend")
    assert not (tmp_path / "set/manipulated_sequences/Swap").exists()
    name = "original_sequences/youtube/c23/videos/000.mp4"
    assert (tmp_path / "set" / name).read_bytes() != (forged / name).read_bytes()
    listed = json.loads((tmp_path / "set/identities.json").read_text())
    assert len({row["person"] for row in listed.values()}) == 6


def test_killed_run_goes_on_to_the_same_bytes(forged, people, tmp_path):
    destination = tmp_path / "set"
    command = [sys.executable, SCRIPT, people, destination, *OPTIONS]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(destination.rglob("*.mp4"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    made = [path for path in destination.rglob("*.mp4") if path.name[0] != "."]
    assert 5 <= len(made) < 48
    assert all(count_frames(path) == 3 for path in made), "a clip must be whole or absent"
    assert not (destination / "splits").exists(), "splits/ says that the set is complete"
    times = {path: path.stat().st_mtime_ns for path in made}
    done = run_script(people, destination, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == times, "finished clips are kept"
    assert digests(destination) == digests(forged)


def test_other_settings_do_not_mix_into_a_set(forged, people):
    before = digests(forged)
    done = run_script(people, forged, *OPTIONS, "--seed", "5")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error:") and "another seed" in done.stderr
    assert digests(forged) == before


def test_foreign_folder_is_refused(people, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    done = run_script(people, tmp_path, *OPTIONS)
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_photo_without_a_face_is_named_and_left_out(people, tmp_path):
    shutil.copytree(people, tmp_path / "people")
    save_rgb(tmp_path / "people/z_1.png", np.full((300, 300, 3), 90, np.uint8))
    done = run_script(tmp_path / "people", tmp_path / "set", *OPTIONS, "--methods", "SelfBlend")
    assert done.returncode == 0, done.stderr
    assert "z_1.png: no face found" in done.stderr
    assert json.loads((tmp_path / "set/forge.json").read_text())["without_a_face"] == ["z_1.png"]
    assert "z" not in {row["person"] for row in json.loads((tmp_path / "set/identities.json").read_text()).values()}


@pytest.mark.parametrize("what, wanted", [("truncated", "b_1.png"), ("empty", "no photos"), ("absent", "not a folder")])
def test_bad_portraits_are_one_error_and_nothing_is_made(people, tmp_path, monkeypatch, what, wanted):
    folder = tmp_path / "people"
    if what == "truncated":
        shutil.copytree(people, folder)
        (folder / "b_1.png").write_bytes((people / "b_1.png").read_bytes()[:2000])
    elif what == "empty":
        folder.mkdir()
    with pytest.raises(UserError, match=wanted):
        run_here(monkeypatch, folder, tmp_path / "set", *OPTIONS)
    assert not (tmp_path / "set").exists()


def test_too_few_people(tmp_path, monkeypatch):
    save_people(tmp_path / "people", people=5)
    with pytest.raises(UserError, match=r"5 people .*at least 6"):
        run_here(monkeypatch, tmp_path / "people", tmp_path / "set", *OPTIONS)
    with pytest.raises(UserError, match="--identities 9"):
        run_here(monkeypatch, tmp_path / "people", tmp_path / "set", *OPTIONS, "--identities", 9)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("bad", [["--size", "161"], ["--frames", "0"], ["--methods", "Magic"], ["--seed", "-1"]])
def test_bad_arguments_exit_with_2(people, tmp_path, monkeypatch, bad):
    with pytest.raises(UserError) as caught:
        run_here(monkeypatch, people, tmp_path / "set", *bad)
    assert caught.value.exit_code == 2 and bad[1].lstrip("-") in str(caught.value)


@pytest.mark.parametrize(
    "line", ["{", '{"file": 3}', '{"file": "a_1.png", "landmarks": [1, 2]}', '{"file": "a_1.png", "person": 4}', "[]"]
)
def test_bad_sidecar_names_its_line(people, tmp_path, monkeypatch, line):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people/faces.jsonl").write_text('{"file": "b_1.png"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"faces.jsonl, line 2: wanted"):
        run_here(monkeypatch, tmp_path / "people", tmp_path / "set", *OPTIONS)


def test_sidecar_says_who_is_who(people, tmp_path, monkeypatch):
    shutil.copytree(people, tmp_path / "people")
    rows = [{"file": "b_1.png", "person": "a"}]  # six people are left
    (tmp_path / "people/faces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_here(monkeypatch, tmp_path / "people", tmp_path / "set", *OPTIONS, "--methods", "SelfBlend")
    listed = json.loads((tmp_path / "set/identities.json").read_text()).values()
    assert sorted(row["portrait"] for row in listed if row["person"] == "a") == ["a_1.png", "a_2.png", "b_1.png"]


@pytest.mark.parametrize("method", ["Swap", "SelfBlend"])
def test_fake_differs_from_its_real_under_the_mask_alone(method):
    """Both come through one resampling: outside the mask they are equal bit for bit, inside they are not."""
    target, donor = stills()
    real = forging.genuine(target, donor, SIDE, np.random.default_rng(0))
    fake = forging.METHODS[method](target, donor, SIDE, np.random.default_rng(0))
    changed = (real != fake).any(axis=2)
    assert fake.dtype == np.float32 and fake.min() >= 0 and fake.max() <= 1
    assert 0.05 < changed.mean() < 0.5
    assert not changed[:16].any() and not changed[:, :16].any() and not changed[-16:].any()
    assert np.abs(fake - real)[changed].mean() > 0.005


@pytest.mark.parametrize("method", ["real", "Swap", "SelfBlend"])
def test_every_picture_is_resampled_once(method, monkeypatch):
    """Each canvas, real or forged, is one `render` of a photo; none is rendered from another canvas."""
    target, donor = stills()
    inputs = []

    def counting(image, transform, side):
        inputs.append(image.dtype)
        return render(image, transform, side)

    monkeypatch.setattr(forging, "render", counting)
    forging.METHODS.get(method, forging.genuine)(target, donor, SIDE, np.random.default_rng(0))
    assert len(inputs) == {"real": 1, "Swap": 2, "SelfBlend": 2}[method]
    assert set(inputs) == {np.dtype(np.uint8)}, "canvases are float, photos uint8"


def test_colour_match_gives_mean_and_spread():
    rng = np.random.default_rng(0)
    inner = rng.uniform(0.3, 0.5, (40, 40, 3)).astype(np.float32)
    outer = np.clip(rng.normal([0.6, 0.5, 0.4], 0.06, (40, 40, 3)), 0, 1).astype(np.float32)
    matched = forging.match_colour(inner, outer, np.ones((40, 40), np.float32))
    lab_matched, lab_outer = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB) for image in (matched, outer))
    assert lab_matched.mean((0, 1)) == pytest.approx(lab_outer.mean((0, 1)), abs=0.5)
    assert lab_matched.std((0, 1)) == pytest.approx(lab_outer.std((0, 1)), rel=0.1)


def test_registration_undoes_a_known_move():
    """Without landmarks: the same face moved within its box comes back to within 2 % of the box."""
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


def test_landmarks_of_another_photo_are_named(people, tmp_path, monkeypatch):
    """Landmarks that all lie in one place fix no transform: one line that names the two photos."""
    shutil.copytree(people, tmp_path / "people")
    rows = [{"file": path.name, "landmarks": [[200, 170]] * 5} for path in sorted(people.glob("*.png"))]
    (tmp_path / "people/faces.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"\.png onto .*\.png: the landmarks"):
        run_here(monkeypatch, tmp_path / "people", tmp_path / "set", *OPTIONS)
    assert not (tmp_path / "set/splits").exists()


def test_clip_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*clip\.mp4"):
        write_clip(tmp_path / "absent/clip.mp4", [np.zeros((64, 64, 3), np.uint8)], crf=23)


def test_canvas_centres_the_face():
    transform = canvas_transform(Still(np.zeros((9, 9, 3), np.uint8), (10, 20, 30, 40)), 100)
    assert transform @ [20, 30, 1] == pytest.approx([50, 50, 1])
    assert transform @ [10, 20, 1] == pytest.approx([25, 25, 1])


@pytest.mark.parametrize("people, sizes", [(6, (2, 2, 2)), (10, (6, 2, 2)), (20, (14, 3, 3)), (102, (72, 15, 15))])
def test_split_sizes(people, sizes):
    assert split_sizes(people) == sizes


def test_index_rule():
    assert frame_indices(10, 4) == [1, 3, 6, 8]
    assert frame_indices(3, 8) == [0, 1, 2]
    assert all(
        frame_indices(n, k) == [int((i + 0.5) * n / k) for i in range(k)] for n in (7, 97, 300) for k in (1, 5, 7)
    )
    with pytest.raises(ValueError, match="got total=0"):
        frame_indices(0, 4)


def test_clip_round_trip_and_sampling(tmp_path):
    frames = [np.full((64, 96, 3), 20 * number, np.uint8) for number in range(10)]
    for name in ("a", "b"):
        write_clip(tmp_path / f"{name}.mp4", frames, crf=23)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    picked = sample_frames(tmp_path / "a.mp4", 4)
    assert [index for index, _ in picked] == [1, 3, 6, 8]
    assert all(abs(int(image.mean()) - 20 * index) < 4 for index, image in picked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]
    with pytest.raises(ValueError, match="even"):
        write_clip(tmp_path / "odd.mp4", [np.zeros((63, 96, 3), np.uint8)], crf=23)
    assert not list(tmp_path.glob("*odd*"))


@pytest.mark.parametrize("what", ["empty", "text", "cut", "absent"])
def test_bad_video_is_named(tmp_path, what):
    video = tmp_path / "clip.mp4"
    write_clip(tmp_path / "good.mp4", [np.zeros((64, 64, 3), np.uint8)] * 5, crf=23)
    content = (tmp_path / "good.mp4").read_bytes()
    if what != "absent":
        video.write_bytes({"empty": b"", "text": b"not a video\n" * 99, "cut": content[: len(content) // 2]}[what])
    with pytest.raises(UserError, match=r"clip\.mp4"):
        count_frames(video)
    with pytest.raises(UserError, match=r"clip\.mp4"):
        sample_frames(video, 4)


def shared_london() -> Path:
    shared = Path(os.environ.get("PANET_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (shared / "data/london").is_dir():
        pytest.skip(f"no portraits in {shared}/data/london")
    return shared / "data/london"


def test_london_portraits_with_landmarks(tmp_path, monkeypatch):
    source, folder = shared_london(), tmp_path / "people"
    folder.mkdir()
    rows = [line for line in (source / "faces.jsonl").read_text().splitlines() if json.loads(line)["landmarks"]][:6]
    (folder / "faces.jsonl").write_text("\n".join(rows))
    for row in rows:
        shutil.copy(source / json.loads(row)["file"], folder)
    run_here(monkeypatch, folder, tmp_path / "set", *OPTIONS)
    assert len(list((tmp_path / "set/manipulated_sequences/Swap/c23/videos").iterdir())) == 6
