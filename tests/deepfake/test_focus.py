"""explain.py --focus: regions from landmarks, the concentration of a map on them, and when it is too coarse to say."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import explain
from deepfake.common.cli import UserError
from deepfake.dataset.batches import stack
from deepfake.dataset.images import Images, open_folder, to_unit_range
from deepfake.dataset.landmarks import GROWTH, in_square, regions
from deepfake.demo import shots
from deepfake.demo.people import photos_of
from deepfake.demo.shots import SIZE, nearest_donors, shoot
from deepfake.evaluating import focus as measured
from deepfake.evaluating.by_person import draws
from deepfake.evaluating.focus import (
    ALL,
    REGIONS,
    _means,
    faces_of,
    on_regions,
    too_coarse,
    with_own_statistics,
)
from deepfake.evaluating.heatmaps import EMAM_GATE, GRAD_CAM, Seen
from tests.deepfake.scripts import call_json
from tests.deepfake.tiny_runs import IMAGE_SIZE, build, save_images, save_run

FACE_68 = np.zeros((68, 2))
FACE_68[:27] = 10 + 80 * np.stack([np.linspace(0, 1, 27), np.sin(np.linspace(0, np.pi, 27))], axis=1)  # a bowl
FACE_68[36:42], FACE_68[42:48] = (30, 30), (70, 30)
CELLS = {EMAM_GATE: (10, 10), GRAD_CAM: (5, 5)}
FACE_68[27:36], FACE_68[48:68] = (50, 50), (50, 70)


def test_a_part_is_its_points_grown_by_a_fifth_of_the_distance_between_the_eyes():
    found = regions(FACE_68, 100)
    assert list(found) == ["left eye", "right eye", "nose", "mouth", "face"]
    radius = GROWTH * 40
    for name, (x, y) in {"left eye": (30, 30), "nose": (50, 50), "mouth": (50, 70)}.items():
        assert found[name].sum() == pytest.approx(np.pi * radius**2, rel=0.1)
        assert found[name][y, x + 8] and not found[name][y, x + 9]
        assert (found["face"] | ~found[name]).all()


@pytest.mark.parametrize("points", [np.zeros((5, 2)), np.zeros((68, 2)) - 900])
def test_other_landmarks_are_refused(points):
    with pytest.raises(UserError, match="landmarks of a face"):
        regions(points, 64)


def test_points_move_as_the_image_does():
    """A wide image loses its sides and is halved."""
    assert in_square(np.array([[60.0, 40.0]]), (80, 120, 3), 40).tolist() == [[20, 20]]


def test_the_landmarks_of_a_shot_are_where_its_pixels_are():
    """A bright dot drawn on the photo's left pupil is brightest at that landmark in the shot."""
    photos = photos_of("test", 0)
    target = photos[0]
    still = shots._still(target)
    x, y = np.round(still.landmarks[12]).astype(int)
    image = np.zeros_like(still.image)
    image[y - 4 : y + 5, x - 4 : x + 5] = 255
    seed = 5
    canvas = shots.genuine(still.__class__(image, still.box, still.landmarks), still, shots.CANVAS, None)
    shot = shots._photograph(canvas, seed).astype(float).sum(2)
    weights = np.where(shot > shot.max() / 2, shot, 0)
    middle = [(weights * grid).sum() / weights.sum() for grid in np.meshgrid(np.arange(SIZE), np.arange(SIZE))]
    assert shots._landmarks(still, seed)[12] == pytest.approx(middle, abs=1.0)
    assert shoot(target, 0, nearest_donors(target, photos)).landmarks.shape == (50, 2)


def test_concentration_by_hand():
    """A map of 3 on the mouth and 1 elsewhere on the face."""
    masks = regions(FACE_68, 100)
    values = np.where(masks["mouth"], 3, 1).astype(np.float32)
    face, mouth = masks["face"].sum(), masks["mouth"].sum()
    concentration, (inside, rest) = on_regions(values, masks)
    on_face = (face + 2 * mouth) / face
    assert concentration[:3] == pytest.approx(np.array([1, 1, 3]) / on_face)
    areas = sum(masks[name].sum() for name in ("left eye", "right eye", "nose", "mouth"))
    assert concentration[3] == pytest.approx((1 + 2 * mouth / areas) / on_face) and rest == 1
    assert inside == pytest.approx(1 + 2 * mouth / areas)
    shares = values[masks["mouth"]].sum() / values[masks["face"]].sum(), mouth / face
    assert concentration[2] == pytest.approx(shares[0] / shares[1])
    assert on_regions(np.ones((100, 100), np.float32), masks)[0] == pytest.approx([1] * 4)
    assert np.isnan(on_regions(np.zeros((100, 100), np.float32), masks)[0]).all()


def test_when_a_map_is_too_coarse():
    assert too_coarse((10, 10), 160, 0.0100) is None
    assert "covers 0.98 of its cells" in too_coarse((7, 7), 160, 0.0200)
    assert too_coarse((10, 10), 159, 0.5) == "an input of 159 pixels (wanted at least 160)"


def test_the_intervals_draw_people_not_images():
    people = ["a"] * 50 + ["b"] * 50
    values = np.repeat([1.0, 3.0], 50)[:, None]
    values[0] = np.nan
    found = _means(values, draws(people))
    assert found[0] == pytest.approx((49 + 150) / 99)
    assert set(np.round(np.unique(found[1:]), 6)) == {1.0, round((49 + 150) / 99, 6), 3.0}


class Network(nn.Module):
    """A network whose gate is twice as high at the mouth, or the same everywhere; it has no Grad-CAM."""

    def __init__(self, at_mouth: bool):
        super().__init__()
        self.at_mouth = at_mouth
        self.weight = nn.Parameter(torch.zeros(()))  # it says on which device the network is

    def forward(self, images):
        return images

    def looks(self, images):
        mouth = regions(FACE_68 * 1.6, 160)["mouth"]
        gate = np.where(mouth & self.at_mouth, 2, 1).astype(np.float32)
        return [Seen(None, 0.0, None, {EMAM_GATE: gate, GRAD_CAM: 0 * gate}, CELLS)] * len(images)


def faces(size, people=6):
    rng = np.random.default_rng(0)
    count = 2 * people
    return Images(
        labels=np.arange(count) % 2, videos=[f"real/{i // 2}_x" for i in range(count)], methods=["real", "a"] * people,
        names=[str(i) for i in range(count)], description="faces", fingerprint="f00d", image_size=size,
        landmarks=[FACE_68 * size / 100] * (count - 1) + [None],
        pixels=rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
    )  # fmt: skip


def test_a_network_that_looks_at_mouths_is_found_out(monkeypatch):
    monkeypatch.setattr(measured, "heat_maps", lambda network, images: network.looks(images))
    found = measured.focus(Network(True), lambda seed: Network(False), faces(160), 4, (1, 2))
    assert (found["images"], found["people"], found["auc"]) == (11, 6, 0.5)
    gate = found["maps"][EMAM_GATE]["regions"]
    assert gate["mouth"]["trained"][1] > 1.5 and gate["mouth"]["difference"][1] > 0.5
    assert gate["eyes"]["trained"][2] < 1 and gate["eyes"]["untrained"] == pytest.approx([1, 1, 1])
    coarse = found["maps"][GRAD_CAM]
    assert "covers 0." in coarse["too_coarse"] and "regions" not in coarse
    text = measured.focus_table(found)
    assert "| Grad-CAM, 5 x 5 | too coarse to say: the smallest region covers" in text
    assert text.count("\n") == 1 + len(REGIONS) + 1 and ALL in text


def test_an_untrained_network_gets_the_images_statistics_and_no_other_change():
    images = faces(64)
    of = faces_of(images)
    model = with_own_statistics(build("panet"), images, of, 4)
    assert not any(module.training for module in model.modules())
    with torch.no_grad():
        first = model.encoder.conv1(to_unit_range(stack(images, of.indices)[0]))
    batches = [first[:4].mean((0, 2, 3)), first[4:8].mean((0, 2, 3)), first[8:].mean((0, 2, 3))]
    torch.testing.assert_close(model.encoder.bn1.running_mean, torch.stack(batches).mean(0))
    for name, weight in build("panet").named_parameters():
        assert torch.equal(weight, model.get_parameter(name))


def data_with_landmarks(folder, landmarks):
    data = save_images(folder)
    rows = [json.loads(line) for line in (data / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"landmarks": landmarks} for row in rows]
    (data / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def test_the_command_says_that_maps_of_small_inputs_are_too_coarse(tmp_path, capsys):
    run = save_run(tmp_path / "run", build("panet"))
    data = data_with_landmarks(tmp_path / "data", (FACE_68 * 0.8).tolist())
    explain.main([str(run), "--focus", str(data), "--out", str(tmp_path / "out")])
    assert "too coarse to say: an input of 64 pixels (wanted at least 160)" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "focus.json").read_text())
    assert (found["images"], found["people"], found["image_size"]) == (12, 3, IMAGE_SIZE)
    assert found["maps"][EMAM_GATE]["cells"] == [4, 4] and "too coarse" in (tmp_path / "out" / "focus.md").read_text()


def test_landmarks_are_scaled_from_the_pixels_of_the_stored_image(tmp_path):
    images = open_folder(data_with_landmarks(tmp_path / "data", (FACE_68 * 0.8).tolist()), "test", 160)
    mask = regions(faces_of(images).points[0], 160)["mouth"]
    assert np.argwhere(mask).mean(0) == pytest.approx([0.7 * 160, 0.5 * 160], abs=1)


def test_a_network_without_emam_has_no_gate(tmp_path, capsys):
    run, data = save_run(tmp_path / "run", build("xception")), data_with_landmarks(tmp_path / "data", FACE_68.tolist())
    explain.main([str(run), "--focus", str(data), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "| EMAM's gate | this network has none |" in printed and "| Grad-CAM, 2 x 2 | too coarse" in printed


@pytest.mark.parametrize("landmarks", [[[1, 2, 3]], [["a", 1]], 7, [[1, float("inf")]], [[1e300, 0]], [[True, 0]]])
def test_wrong_landmarks_of_a_manifest_are_refused(tmp_path, landmarks):
    data = data_with_landmarks(tmp_path / "data", landmarks)
    with pytest.raises(UserError, match=r"manifest\.jsonl, line 1: "):
        open_folder(data, "test", 64)


def test_focus_needs_a_data_set_with_landmarks_and_no_path(tmp_path, capsys):
    run, data = save_run(tmp_path / "run", build("panet")), save_images(tmp_path / "data")
    for arguments, code, said in (
        ([run, "--focus", data, "--out", tmp_path / "out"], 1, "no image has landmarks"),
        ([run, data, "--focus", data, "--out", tmp_path / "out"], 2, "PATH"),
        ([run, "--out", tmp_path / "out"], 2, "--focus"),
    ):
        found, lines, errors = call_json(explain.main, capsys, *arguments)
        assert (found, lines, len(errors)) == (code, [], 1) and said in errors[0]
    assert not (tmp_path / "out").exists()
