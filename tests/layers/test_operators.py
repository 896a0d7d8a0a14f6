"""The operators torch.ops.panet_layers.*: schema, fake tensors and dispatch, as torch's own check sees them."""

import pytest
import torch

import panet_layers  # noqa: F401  (registers the operators)
from tests.layers.cases import SMALL, EmamCase, ScamCase, tensors

OPERATORS = ("emam_forward", "emam_backward", "scam_forward", "scam_backward")
DTYPES = [torch.float64, torch.bfloat16]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


def emam_arguments(case, dtype, layout):
    layer = case.layer(dtype=dtype)
    x, grad = map(layout, tensors(case, dtype=dtype))
    parameters = [p.detach() for p in layer.parameters()]
    forward = (x, *parameters, case.groups, layer.eps)
    _, *saved = torch.ops.panet_layers.emam_forward(*forward)
    return forward, (grad, x, *parameters, *saved, case.groups)


def scam_arguments(case, dtype, layout):
    layer = case.layer(dtype=dtype)
    x, grad = map(layout, tensors(case, dtype=dtype))
    channel, spatial = layer.channel, layer.spatial
    norm = spatial.bn
    parameters = [channel.fc1.weight, channel.fc1.bias, channel.fc2.weight, channel.fc2.bias, spatial.conv.weight]
    parameters += [norm.weight, norm.bias] if norm else [None, None]
    parameters = [p if p is None else p.detach() for p in parameters]
    of_batch = bool(norm) and case.training
    running = (norm.running_mean, norm.running_var) if norm and not of_batch else (None, None)
    forward = (x, *parameters, *running, of_batch, 1e-5)
    _, *saved = torch.ops.panet_layers.scam_forward(*forward)
    return forward, (grad, x, *parameters, *saved, of_batch, 1e-5)


def test_four_operators_are_registered():
    for name in OPERATORS:
        assert torch.Tag.pt2_compliant_tag in getattr(torch.ops.panet_layers, name).default.tags


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*SMALL, EmamCase(0, 8, 4, 3, 3), ScamCase(0, 8, 4, 3, 3)], ids=str)
def test_opcheck(case, dtype, layout):
    arguments = emam_arguments if isinstance(case, EmamCase) else scam_arguments
    kind = "emam" if isinstance(case, EmamCase) else "scam"
    forward, backward = arguments(case, dtype, LAYOUTS[layout])
    torch.library.opcheck(getattr(torch.ops.panet_layers, f"{kind}_forward").default, forward)
    torch.library.opcheck(getattr(torch.ops.panet_layers, f"{kind}_backward").default, backward)
