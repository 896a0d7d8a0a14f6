"""Every arm of a seed starts where the others do; the placebos learn nothing but their share."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch

from deepfake.common.cli import UserError
from trial import networks
from trial.arms import ARMS, NOTHING, ConstantGate, FrozenGate
from trial.networks import Network, digest, shares, trained_parameters
from trial.pictures import Pictures, Split
from trial.training import Recipe, Setup, batches, train

TINY = Network("tests.trial.odd_networks:tiny", False, ["1", "3"], "identity", 12, 2)


def setup(weight_decay: float = 0.0) -> Setup:
    """Eight images of noise, for both splits."""
    draw = torch.Generator().manual_seed(0)
    split = Split(torch.randint(256, (8, 3, 12, 12), generator=draw, dtype=torch.uint8), torch.arange(8) % 2)
    pictures = Pictures("drawn", ["a", "b"], split, split)
    return Setup(TINY, pictures, Recipe(4, 0.01, weight_decay), list(ARMS), torch.device("cpu"))


def test_all_arms_start_from_the_same_weights_and_outputs() -> None:
    x = torch.rand(2, 3, 12, 12)
    plain = TINY.plain(3)
    for arm in ARMS:
        model, report = TINY.arm(arm, 3)
        assert digest(model) == digest(plain) != digest(TINY.plain(4))
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert (report is None) == (arm == NOTHING)
        assert shares(model) == ([] if arm == NOTHING else [0.0, 0.0])


def test_with_start_layer_an_arm_has_no_share_and_starts_elsewhere() -> None:
    x = torch.rand(2, 3, 12, 12)
    model, _ = TINY._replace(start="layer").arm("emam", 3)
    assert shares(model) == [] and digest(model) == digest(TINY.plain(3))
    assert not torch.equal(model.eval()(x), TINY.plain(3).eval()(x))


def test_the_constant_gate_halves_and_has_nothing_to_learn() -> None:
    x = torch.randn(2, 16, 5, 4)
    gate = ConstantGate()
    assert torch.equal(gate(x), x / 2) and not list(gate.parameters())


def test_the_frozen_gate_differs_by_image_and_channel() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 4)
    gates = (FrozenGate(16)(x) / x)[:, :, 0, 0]
    assert gates.min() > 0 and gates.max() < 1
    assert gates.std(0).min() > 0 and gates.std(1).min() > 0


@pytest.mark.parametrize("arm, trained", [("constant", 0), ("frozen", 0), ("eca", 3), ("se", 16 * 8 * 2 + 24)])
def test_training_changes_a_placebo_s_share_and_nothing_else_of_it(
    arm: str, trained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _ = TINY.arm(arm, 0)
    assert trained_parameters(before) - trained_parameters(TINY.plain(0)) == 2 * (trained + 1)
    after, report = TINY.arm(arm, 0)
    monkeypatch.setattr(Network, "arm", lambda *_: (after, report))
    train(setup(weight_decay=0.1), arm, 0, 3)
    changed = {
        name.partition("inserted_attention.0.")[2]
        for name, value in before.state_dict().items()
        if "inserted_attention" in name and not torch.equal(value, after.state_dict()[name])
    }
    assert "share" in changed and (changed == {"share"}) == (trained == 0)


def test_a_training_is_the_same_every_time() -> None:
    found = [train(setup(), "both", 1, 5) for _ in range(2)]
    assert {**found[0], "seconds": 0} == {**found[1], "seconds": 0}
    assert train(setup(), "both", 2, 5)["start"] != found[0]["start"]


def test_an_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    steps = list(itertools.islice(batches(10, 3, seed=0), 6))
    first, second = torch.cat(steps[:3]).tolist(), torch.cat(steps[3:]).tolist()
    assert len(set(first)) == len(set(second)) == 9 and first != second
    again = list(itertools.islice(batches(10, 3, seed=0), 6))
    assert all(map(torch.equal, steps, again))
    assert torch.cat(list(itertools.islice(batches(10, 3, seed=1), 3))).tolist() != first


@pytest.mark.parametrize(
    "name, said",
    [
        ("tests.trial.nowhere:tiny", "No module named"),
        ("tests.trial.odd_networks:nobody", "no attribute 'nobody'"),
        ("tests.trial.odd_networks:a_number", "returned int, wanted an nn.Module"),
        ("tests.trial.odd_networks:of_grey", "does not take images of 3x12x12"),
        ("tests.trial.odd_networks:of_seven", "returned (2, 7) for 2 images, wanted (2, 2)"),
        ("tests.trial.odd_networks:of_pairs", "returned tuple for 2 images"),
        ("tests.trial.odd_networks:of_any_start", "its weights differ with the same torch.manual_seed"),
    ],
)
def test_a_network_that_cannot_be_compared_is_refused_in_one_line(name: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        TINY._replace(name=name).check()
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("at, said", [("stages", "feature_info"), ("9", "no module '9'"), ("5", "returned")])
def test_a_location_without_a_map_is_refused_in_one_line(at: str, said: str) -> None:
    with pytest.raises(UserError, match="--at says where layers go") as refused:
        TINY._replace(at=at).arm("emam", 0)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_pretrained_weights_see_the_mean_and_deviation_that_they_know() -> None:
    model = networks.standardising(timm.create_model("test_resnet")).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    seen: list[torch.Tensor] = []
    next(model.children()).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 3, 32, 32)
    model(2 * x - 1)
    torch.testing.assert_close(seen[0], (x - mean) / std)


def test_a_map_that_could_be_read_in_two_ways_is_read_at_other_proportions() -> None:
    model, report = TINY._replace(image_size=16).arm("emam", 0)
    assert report is not None and len(report.rows) == 2
