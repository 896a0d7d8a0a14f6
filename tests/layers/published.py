"""The published modules: stored results of EMA and CBAM, and timm's CbamModule, under the names of our modules."""

from pathlib import Path

import torch
from safetensors import safe_open
from timm.layers.cbam import CbamModule

from panet_layers import EMAM, SCAM
from tests.layers.cases import randomised

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))

# The published CBAM's names, and ours.
SCAM_NAMES = {
    "ChannelGate.mlp.1.": "channel.fc1.",
    "ChannelGate.mlp.3.": "channel.fc2.",
    "SpatialGate.spatial.": "spatial.",
}


def load(path):
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118 (no mapping)


def build(metadata, channels, backend):
    if metadata["kind"] == "emam":
        return EMAM(channels, int(metadata["groups"]), backend=backend, dtype=torch.float64)
    published = {"mlp_bias": True, "spatial_norm": "batch"}
    return SCAM(channels, int(metadata["reduction"]), **published, backend=backend, dtype=torch.float64)


def our_name(name):
    for published, ours in SCAM_NAMES.items():
        name = name.replace(published, ours)
    return name


def expected_outcome(stored):
    """The stored tensors under the names of `run`; the published CBAM's convolution sees [max, mean]."""
    expected = {"output": stored["output"], "grad x": stored["grad_x"]}
    for key, value in stored.items():
        kind, _, name = key.partition(".")
        if kind in ("grad", "after"):
            expected[f"{kind} {our_name(name)}"] = value.flip(1) if name.endswith("spatial.conv.weight") else value
    return expected


def timms(channels, reduction, **options):
    module = CbamModule(channels, 1 / reduction, **options).double()  # older timm takes no dtype
    module.spatial.conv.bn.momentum = 0.01  # the published CBAM's; timm keeps torch's default
    return randomised(module, 0)


def ours(module, channels, reduction, **options):
    layer = SCAM(channels, reduction, spatial_norm="batch", dtype=torch.float64, **options)
    layer.load_state_dict(module.state_dict())
    return layer


def in_our_terms(outcome):
    """timm's outcome under our names, its 1x1 convolutions as linear layers."""
    renamed = {name.replace("conv.conv.", "conv.").replace("conv.bn.", "bn."): g for name, g in outcome.items()}
    return {name: g.flatten(1) if "channel.fc" in name and g.dim() == 4 else g for name, g in renamed.items()}
