"""Positions of maxima beyond the integers that floating point holds exactly."""

import pytest
import torch

from panet_layers import SCAM
from panet_layers.ops.scam.chunked import _first_hit


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("length", [1, 2, 3, 100, 129, 257, 700, 3000])
def test_first_hit_in_any_precision(length, dtype):
    """bfloat16 holds integers to 256, float16 to 2048: as float32 beyond 2^24, or rounded by a fast matrix product."""
    generator = torch.Generator().manual_seed(length)
    for hits_of_each in (0, 1, 2, 5):
        hits = torch.zeros(2, 40, length)
        for _ in range(hits_of_each):
            hits.scatter_(2, torch.randint(length, (2, 40, 1), generator=generator), 1.0)
        for dim, given in ((2, hits), (1, hits.mT.contiguous())):
            assert torch.equal(_first_hit(given.to(dtype), dim), given.argmax(dim, keepdim=True))


@pytest.mark.slow  # about 3 GB of memory
@pytest.mark.parametrize("size", [2901, 4100])  # more than 2^23 and 2^24 pixels
def test_gradient_of_a_maximum_in_a_large_map(size):
    """It goes to the maximum, not to its neighbour."""
    torch.manual_seed(0)
    layer = SCAM(2, 1, kernel_size=1).requires_grad_(False)
    with torch.no_grad():
        layer.channel.fc1.weight.fill_(1.0)
        layer.channel.fc2.weight.fill_(0.01)
    for offset in (2, 3):
        x = torch.zeros(1, 2, size, size)
        at = size * size - offset
        x.flatten(2)[:, :, at] = 5.0
        x.requires_grad_()
        (actual,) = torch.autograd.grad(layer(x).sum(), x)
        # Where x is zero, the gradient is that of the gates and of the mean: the same everywhere.
        others = actual.flatten(2).clone()
        others[:, :, at] = others[:, :, 0]
        assert (others == others[:, :, :1]).all()
        assert (actual.flatten(2)[:, :, at] != actual.flatten(2)[:, :, 0]).all()
