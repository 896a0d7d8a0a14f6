"""The dry run of insert_attention and profile: it accepts any kind of module and input, and leaves no trace."""

import pickle
import warnings
from functools import partial

import pytest
import timm
import torch
from torch import nn

from panet_layers import EMAM, insert_attention, profile
from panet_layers.insertion.observation import _default_input
from tests.insertion.small_hosts import X, resnet

emam = partial(EMAM, groups=4)


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but existing scripted modules must still run
        return torch.jit.script(module)


def test_a_scripted_module_is_ignored():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), scripted(nn.Conv2d(16, 16, 1)))
    assert len(insert_attention(model, "0", emam, example_input=X).rows) == 1
    assert len(profile(model, X).rows) == 1
    assert all(key.startswith("inserted_attention") for key in model[0]._forward_hooks)


def test_a_scripted_layer_is_not_counted():
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4))
    insert_attention(model, "0", lambda c: scripted(nn.Conv2d(c, c, 1)), example_input=X)
    assert not profile(model, X).rows


def test_no_hook_remains_where_a_module_refuses_one():
    class Refuses(nn.Identity):
        def register_forward_hook(self, *args, **kwargs):
            raise RuntimeError("no hooks")

    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), Refuses())
    with pytest.raises(RuntimeError, match="no hooks"):
        insert_attention(model, "0", emam, example_input=X)
    assert not model[0]._forward_hooks and pickle.dumps(model[0])


class Merges(nn.Conv2d):
    """Merges its adapter into its weight for evaluation, as LoRA does, and does not undo it."""

    def train(self, mode=True):
        if not mode:
            self.weight.data += 1
        return super().train(mode)


def test_a_modules_own_train_method_is_not_called():
    model = nn.Sequential(Merges(3, 16, 4, 4), nn.Dropout())
    model[1].eval()
    before = model[0].weight.clone()
    insert_attention(model, "0", emam, example_input=X)
    profile(model, X)
    assert torch.equal(model[0].weight, before)
    assert model[0].training and not model[1].training


def test_a_compiled_model_that_has_run():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU()).eval()
    insert_attention(model, "0", emam, example_input=X)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(X)
    assert len(profile(compiled, X).rows) == 1
    assert len(insert_attention(compiled, "_orig_mod.1", emam, example_input=X).rows) == 1


def test_a_profile_without_a_layer_that_ran_is_refused():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.spare = EMAM(16)

        def forward(self, x):
            return x

    with pytest.raises(ValueError, match="none of the model's attention layers ran in the dry run: spare"):
        profile(Spare(), X)


@pytest.mark.parametrize("options", [{}, {"features_only": True}], ids=["network", "features"])
@pytest.mark.parametrize(("name", "channels"), [("test_resnet", 1), ("test_vit", 6), ("tresnet_m", 3)])
def test_default_images_have_the_channels_of_the_network(name, channels, options):
    model = timm.create_model(name, in_chans=channels, **options)
    assert _default_input(model).shape[:2] == (2, channels)


def test_a_network_for_images_of_one_channel():
    model = timm.create_model("test_resnet", in_chans=1)
    assert insert_attention(model, "stages", EMAM).total.parameters == profile(model).total.parameters


def test_a_model_of_several_networks_with_stages_is_refused_by_their_names():
    model = nn.ModuleDict({"teacher": resnet(), "student": resnet()})
    model.forward = lambda x: model["teacher"](x) + model["student"](x)
    with pytest.raises(ValueError, match="several networks with stages, 'teacher', 'student'; give module names"):
        insert_attention(model, "stages", EMAM)
    assert len(insert_attention(model, "student.layer[34]", EMAM).rows) == 2


def crnn():
    strides = nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, (2, 1), 1), nn.Conv2d(32, 32, 3, (2, 1), 1)
    return nn.Sequential(*strides, nn.BatchNorm2d(32), nn.AdaptiveAvgPool2d(7), nn.ReLU())


@pytest.mark.parametrize(("at", "read"), [("2", "32x4x50"), ("3", "32x4x50"), ("4", "32x7x7")])
def test_image_layers_may_return_maps_of_other_proportions(at, read):
    report = insert_attention(crnn(), at, EMAM, example_input=torch.zeros(2, 1, 32, 100))
    assert report.rows[0].map == f"NCHW {read}"


def test_other_modules_may_not_return_maps_of_other_proportions():
    with pytest.raises(ValueError, match=r"returned \(2, 32, 7, 7\)"):
        insert_attention(crnn(), "5", EMAM, example_input=torch.zeros(2, 1, 32, 100))


@pytest.mark.parametrize("example_input", [({"image": X},), {"batch": {"image": X}}, [[3, {"image": X}]]])
def test_images_nested_in_the_example_input(example_input):
    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 4, 4)

        def forward(self, batch):
            return self.conv((batch[1] if isinstance(batch, list) else batch)["image"])

    assert insert_attention(Takes(), "conv", emam, example_input=example_input).rows[0].map == "NCHW 16x16x12"


def test_an_example_input_without_images_is_refused():
    with pytest.raises(ValueError, match=r"must hold images of shape \(B, C, H, W\), got \[\(3,\), 'NoneType'\]"):
        profile(resnet(), ({"image": torch.zeros(3), "mask": None},))
