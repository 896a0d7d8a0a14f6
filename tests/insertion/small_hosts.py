"""Small networks to insert layers into, and images for them that are not square."""

from collections import namedtuple

import timm
import torch
from torch import nn

from panet_layers.insertion.refinement import Refinement

X = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def resnet(**options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3, **options).eval()


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
