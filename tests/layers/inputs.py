"""Inputs of the layers' tests: memory layouts, special values, and cases drawn at random."""

import torch
from hypothesis import strategies as st

from tests.layers.cases import EmamCase, ScamCase

# Memory layouts of an input.
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "strided": lambda x: x.repeat_interleave(2, 3).repeat_interleave(2, 1)[:, ::2, :, ::2],
    "slice": lambda x: torch.nn.functional.pad(x, (1, 2, 3, 1, 2, 1, 1, 0))[1:, 2:-1, 3:-1, 1:-2],
    "expanded": lambda x: x[:, :, :, :1].expand(x.shape),
    "expanded_batch": lambda x: x[:1].expand(x.shape),
    "permuted": lambda x: x.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1),
    "transposed": lambda x: x.mT.contiguous().mT,
}

# Inputs on which something special happens: ties for the maxima, zeros, magnitudes far from 1.
VALUES = {
    "normal": lambda x: x,
    "rounded": lambda x: x.round(),
    "relu": lambda x: x.round().relu(),
    "constant": lambda x: torch.full_like(x, 0.75),
    "zero": torch.zeros_like,
    "offset": lambda x: x + 10,
    "small": lambda x: x * 1e-3,
}

sizes = st.integers(1, 12)


@st.composite
def emam_cases(draw):
    groups = draw(st.integers(1, 8))
    return EmamCase(draw(st.integers(0, 4)), groups * draw(st.integers(1, 5)), groups, draw(sizes), draw(sizes))


@st.composite
def scam_cases(draw):
    case = ScamCase(
        batch=draw(st.integers(0, 4)),
        channels=draw(st.integers(1, 24)),
        reduction=draw(st.integers(1, 16)),
        height=draw(sizes),
        width=draw(sizes),
        kernel_size=draw(st.sampled_from([1, 3, 5, 7])),
        mlp_bias=draw(st.booleans()),
        norm=draw(st.sampled_from([None, "batch"])),
        training=draw(st.booleans()),
    )
    one_pixel = case.batch * case.height * case.width == 1
    return case._replace(training=case.training and not one_pixel)
