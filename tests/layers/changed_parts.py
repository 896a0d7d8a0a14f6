"""What tools and users do to a layer's parts: hooks, other settings, other classes, adapters, pruning, fused biases."""

import types
import warnings

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune


class Scaled(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return 1.5 * super().forward(x)


class Adapter(nn.Module):
    """A low-rank adapter beside a layer, as peft adds it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        of_maps = isinstance(base, nn.Conv2d)
        inputs, outputs = (base.in_channels, base.out_channels) if of_maps else (base.in_features, base.out_features)
        self.added = (nn.Conv2d(inputs, outputs, 1) if of_maps else nn.Linear(inputs, outputs)).to(base.weight)

    def forward(self, x):
        return self.base_layer(x) + self.added(x)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def subclass(conv):
    other = Scaled(conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, dtype=torch.float64)
    return load(other, conv)


def load(other, part):
    other.load_state_dict(part.state_dict(), strict=False)
    return other


def convolution(conv, **settings):
    made = {"kernel_size": conv.kernel_size, "padding": conv.padding, "bias": conv.bias is not None}
    return nn.Conv2d(conv.in_channels, conv.out_channels, **{**made, **settings}, dtype=torch.float64)


def own_forward(part):
    plain = part.forward
    part.forward = lambda x: 0.5 * plain(x)


def own_conv_forward(conv):
    def circular(self, x, weight, bias):
        pad = [size // 2 for size in weight.shape[:1:-1] for _ in "lr"]
        return nn.functional.conv2d(nn.functional.pad(x, pad, mode="circular"), weight, bias)

    conv._conv_forward = types.MethodType(circular, conv)


def old_weight_norm(part):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        nn.utils.weight_norm(part)


def other_class(part):
    class Renamed(type(part)):
        def forward(self, x):
            return -super().forward(x)

    part.__class__ = Renamed


# Changes of a part in place, for every kind of part.
IN_PLACE = {
    "forward hook": lambda part: part.register_forward_hook(lambda module, args, out: 1.5 * out),
    "forward pre-hook": lambda part: part.register_forward_pre_hook(lambda module, args: (1.5 * args[0],)),
    "hook with keywords": lambda part: part.register_forward_hook(lambda m, a, k, out: out + 1, with_kwargs=True),
    "backward hook": lambda part: part.register_full_backward_hook(lambda module, grads, _: (2 * grads[0],)),
    "backward pre-hook": lambda part: part.register_full_backward_pre_hook(lambda module, grads: (2 * grads[0],)),
    "forward of its own": own_forward,
    "another class": other_class,
    "pruned": lambda part: prune.l1_unstructured(part, "weight", 0.5),
    "parametrised": lambda part: parametrize.register_parametrization(part, "weight", Twice()),
}
OF_MATRICES = {
    "old weight norm": old_weight_norm,
    "old spectral norm": lambda part: nn.utils.spectral_norm(part).eval(),
    "weight norm": lambda part: parametrizations.weight_norm(part),
    "pruned rows": lambda part: prune.ln_structured(part, "weight", 0.5, n=2, dim=1),
    "adapter": Adapter,
}
OF_CONVOLUTIONS = {
    "circular set": lambda conv: setattr(conv, "padding_mode", "circular"),
    "own _conv_forward": own_conv_forward,
    "subclass": subclass,
    "circular": lambda conv: load(convolution(conv, padding_mode="circular"), conv),
    "padding by name": lambda conv: load(convolution(conv, padding="same"), conv),
    "reflected by name": lambda conv: load(convolution(conv, padding="same", padding_mode="reflect"), conv),
    "other bias": lambda conv: load(convolution(conv, bias=conv.bias is None), conv),
}
OF_WIDE = {
    "wider": lambda conv: convolution(conv, kernel_size=5, padding=2),
    "longer": lambda conv: convolution(conv, kernel_size=(1, 5), padding=(0, 2)),
    "dilated": lambda conv: convolution(conv, kernel_size=3, dilation=2, padding=2),
}
OF_NORM = {
    "eps": lambda norm: setattr(norm, "eps", 0.5),
    "not affine": lambda norm: setattr(norm, "weight", None) or setattr(norm, "bias", None),
    "none": lambda norm: nn.Identity(),
}
OF_GROUP_NORM = {
    "batch norm": lambda norm: nn.BatchNorm2d(norm.num_channels, dtype=torch.float64),
    "instance norm": lambda norm: nn.InstanceNorm2d(norm.num_channels),
    "one group": lambda norm: load(nn.GroupNorm(1, norm.num_channels, dtype=torch.float64), norm),
    "made without affine": lambda norm: nn.GroupNorm(norm.num_channels, norm.num_channels, affine=False),
}
OF_BATCH_NORM = {
    "made without affine": lambda norm: nn.BatchNorm2d(1, affine=False, dtype=torch.float64),
    "group norm": lambda norm: nn.GroupNorm(1, 1, dtype=torch.float64),
    "momentum": lambda norm: setattr(norm, "momentum", 0.3),
    "average": lambda norm: setattr(norm, "momentum", None),
    "no count": lambda norm: setattr(norm, "num_batches_tracked", None),
    "average without count": lambda norm: setattr(norm, "momentum", None) or setattr(norm, "num_batches_tracked", None),
    "statistics not tracked": lambda norm: setattr(norm, "track_running_stats", False),
    "no statistics": lambda norm: setattr(norm, "running_mean", None) or setattr(norm, "running_var", None),
}
PARTS = {
    "emam": {
        "conv1x1": {**IN_PLACE, **OF_MATRICES, **OF_CONVOLUTIONS},
        "conv3x3": {**IN_PLACE, **OF_MATRICES, **OF_CONVOLUTIONS, **OF_WIDE},
        "gn": {**IN_PLACE, **OF_NORM, **OF_GROUP_NORM},
    },
    "scam": {
        "channel": {name: IN_PLACE[name] for name in list(IN_PLACE)[:7]},
        "spatial": {name: IN_PLACE[name] for name in list(IN_PLACE)[:7]},
        "channel.fc1": {**IN_PLACE, **OF_MATRICES},
        "channel.fc2": {**IN_PLACE, **OF_MATRICES},
        "spatial.conv": {**IN_PLACE, **OF_MATRICES, **OF_CONVOLUTIONS, **OF_WIDE},
        "spatial.bn": {**IN_PLACE, **OF_NORM, **OF_BATCH_NORM},
    },
}
CHANGES = [(kind, part, change) for kind, parts in PARTS.items() for part in parts for change in parts[part]]


def changed(layer, kind, part, change):
    """The layer after a change; where the change makes another module, that takes the part's place."""
    torch.manual_seed(0)
    parent, _, name = part.rpartition(".")
    other = PARTS[kind][part][change](layer.get_submodule(part))
    if isinstance(other, nn.Module):
        setattr(layer.get_submodule(parent), name, other)
    return layer
