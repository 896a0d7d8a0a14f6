"""Small networks to insert layers into, and images for them that are not square."""

from collections import namedtuple
from functools import partial

import pytest
import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from panet_layers import insert_attention
from panet_layers.insertion.refinement import Refinement

X = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))
insert_alone = partial(insert_attention, start="layer")  # changes the outputs, which shows that a layer runs


if not timm.is_model("test_resnet"):
    default_cfgs = generate_default_cfgs(  # register_model looks for this name
        {"test_resnet": {"input_size": (3, 160, 160), "first_conv": "conv1.0", "classifier": "fc", "num_classes": 1000}}
    )

    @register_model
    def test_resnet(pretrained=False, **options):
        """Return a network as timm's of this name, which older timm does not have; without a bottleneck."""
        form = {"block": BasicBlock, "layers": (1, 1, 1, 1), "channels": (32, 48, 192, 96)}
        stem = {"stem_width": 16, "stem_type": "deep", "avg_down": True}
        return build_model_with_cfg(ResNet, "test_resnet", pretrained, **{**form, **stem, **options})


def create(name, **options):
    """Return a network of timm in eval mode. Where timm does not have it, the test is skipped."""
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    return timm.create_model(name, **options).eval()


def resnet(**options):
    torch.manual_seed(0)
    return create("test_resnet", num_classes=3, **options)


def inserted(model):
    return [name for name, module in model.named_modules() if isinstance(module, Refinement)]


class Returns(nn.Module):
    """A convolution, then the module `stage`, which returns `form` of the convolution's map."""

    def __init__(self, form):
        super().__init__()
        self.conv, self.stage, self.form = nn.Conv2d(3, 16, 4, 4), Stage(form), form

    def forward(self, x):
        return self.stage(self.conv(x))


class Stage(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


Pair = namedtuple("Pair", "map other")
