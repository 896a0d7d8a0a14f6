"""The operators torch.ops.panet_layers.*: schema, fake tensors and dispatch, as torch's own check sees them."""

import pytest
import torch

import panet_layers  # noqa: F401  (registers the operators)
from tests.layers.cases import SMALL, EmamCase, ScamCase, tensors
from tests.layers.operators import opcheck

OPERATORS = ("emam_forward", "emam_backward", "scam_forward", "scam_backward")
DTYPES = [torch.float64, torch.bfloat16]
LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


def test_four_operators_are_registered():
    for name in OPERATORS:
        assert torch.Tag.pt2_compliant_tag in getattr(torch.ops.panet_layers, name).default.tags


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [*SMALL, EmamCase(0, 8, 4, 3, 3), ScamCase(0, 8, 4, 3, 3)], ids=str)
def test_opcheck(case, dtype, layout):
    x, grad = map(LAYOUTS[layout], tensors(case, dtype=dtype))
    opcheck(case, case.layer(dtype=dtype), x, grad)
