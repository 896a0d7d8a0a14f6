"""SCAM's Triton kernels where only a GPU can show it: in a graph, and on maps of more than 2^31 elements."""

import pytest
import torch

from tests.layers.cases import ScamCase, assert_same, tensors, with_backend
from tests.layers.inputs import LAYOUTS

FORMATS = ["contiguous", "channels_last"]


@pytest.mark.cuda
@pytest.mark.parametrize("layout", FORMATS)
def test_in_a_graph_on_a_stream_of_its_own(layout):
    case = ScamCase(2, 48, 8, 13, 17, norm="batch")
    layer = with_backend(case.layer(dtype=torch.float32), "triton").cuda()
    x, grad = (LAYOUTS[layout](t.cuda()) for t in tensors(case, dtype=torch.float32))
    x.requires_grad_()
    inputs = [x, *layer.parameters()]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        expected = torch.autograd.grad(layer(x), inputs, grad)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        captured = torch.autograd.grad(layer(x), inputs, grad)
    graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(captured, expected))


@pytest.mark.cuda
@pytest.mark.xdist_group("most of the GPU's memory")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", [(9, 64, 1, 2**22), (2**17, 64, 16, 17), (1, 48, 7000, 7000)], ids=str)
def test_more_than_2_to_the_31_elements(shape, layout):
    """In the batch, and within one sample: at its last pixels a 32-bit offset would be wrong."""
    if torch.cuda.get_device_properties(0).total_memory < 40 << 30:
        pytest.skip("needs 40 GB of GPU memory")
    layer = ScamCase(*shape[:2], 16, *shape[2:]).layer(dtype=torch.float16).cuda()
    x = torch.zeros(shape, dtype=torch.float16, device="cuda")
    x = x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x
    x[-1, :, -8:, -8:] = torch.randn_like(x[-1, :, -8:, -8:])
    out = with_backend(layer, "triton")(x)
    expected = with_backend(layer, "collapsed").cpu()(x[-1:].cpu())
    corner = (slice(-1, None), slice(None), slice(-16, None), slice(-16, None))
    assert_same({"": out[corner].cpu().float()}, {"": expected[corner].float()}, 2e-3)
