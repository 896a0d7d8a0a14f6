"""A share of the layers' functions: lerp(x, attention, share) by every backend, traced or not."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from panet_layers import functional
from tests.layers.cases import BACKENDS, SMALL, EmamCase, ScamCase, tensors, with_backend

CASES = [*SMALL, EmamCase(2, 24, 4, 33, 40), EmamCase(0, 8, 4, 5, 4), ScamCase(0, 8, 4, 5, 4)]


def share_of(value, dtype=torch.float64):
    return torch.full((1,), value, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_lerp(case, backend, value):
    layer, reference = with_backend(case.layer(), backend), with_backend(case.layer(), "reference")
    x, grad = tensors(case)
    x.requires_grad_()
    share = share_of(value)
    out = layer.mixed(x, share)
    expected = torch.lerp(x, reference(x), share)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    assert value or torch.equal(out, x)
    gradients = torch.autograd.grad(out, (x, share, *layer.parameters()), grad)
    for actual, wanted in zip(gradients, torch.autograd.grad(expected, (x, share, *reference.parameters()), grad)):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(with_backend(layer, backend).mixed(x, share), expected, rtol=0, atol=1e-10)
    for name, buffer in layer.named_buffers():
        torch.testing.assert_close(buffer, reference.get_buffer(name), msg=name) if case.batch else None


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_derivatives_match_finite_differences(case, backend):
    """First and second ones, by torch's own check."""
    layer = with_backend(case.layer(), backend).eval()  # its running statistics stay
    x = tensors(case)[0][:1, :, :3, :3].contiguous().requires_grad_()
    inputs = (x, share_of(0.3))
    assert torch.autograd.gradcheck(layer.mixed, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer.mixed, inputs, fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL[:2], ids=str)
def test_transforms_and_traced_graphs(case, backend):
    layer, (x, _), share = with_backend(case.layer(), backend), tensors(case), share_of(0.3).detach()
    expected = torch.lerp(x, layer(x), share)
    mapped = torch.func.vmap(lambda x: layer.mixed(x[None], share)[0])(x)
    torch.testing.assert_close(mapped, expected, rtol=0, atol=1e-10)
    graph = make_fx(lambda x, share: layer.mixed(x, share))(x, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(graph(x, share), expected, rtol=0, atol=1e-10)
    compiled = torch.compile(layer.mixed, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, share), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", SMALL[:2], ids=str)
def test_an_exported_graph_holds_plain_operations(case):
    class Mixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.share = case.layer(), torch.nn.Parameter(share_of(0.3).detach())

        def forward(self, x):
            return self.layer.mixed(x, self.share)

    model, (x, _) = Mixed(), tensors(case)
    program = torch.export.export(model, (x,))
    assert not any("panet_layers" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x), model(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(2,), (0,), (1, 1)])
def test_a_share_that_is_not_one_number_is_refused(shape):
    x, weights = torch.ones(1, 4, 3, 3), (torch.ones(2, 4), torch.ones(4, 2), torch.ones(1, 2, 3, 3))
    with pytest.raises(ValueError, match=r"share must be one number, of shape \(\) or \(1,\), got shape \("):
        functional.scam(x, *weights, share=torch.ones(shape))
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="share must be one number"):
            layer = EmamCase(1, 4, 2, 3, 3).layer(backend=backend, dtype=torch.float32)
            layer.mixed(x, torch.ones(shape))


@pytest.mark.parametrize("share, given", [(0.5, "float 0.5"), (torch.tensor(1), "torch.int64"), (torch.tensor(1j), "")])
def test_a_share_that_is_no_floating_point_tensor_is_refused(share, given):
    x, weights = torch.ones(1, 4, 3, 3), (torch.ones(2, 4), torch.ones(4, 2), torch.ones(1, 2, 3, 3))
    with pytest.raises(TypeError, match=f"share must be a floating-point tensor, .* got {given}"):
        functional.scam(x, *weights, share=share)
    with pytest.raises(TypeError, match=f"share must be a floating-point tensor, .* got {given}"):
        EmamCase(1, 4, 2, 3, 3).layer(dtype=torch.float32).mixed(x, share)


def test_a_share_on_another_device_is_refused():
    x, weights = torch.ones(1, 4, 3, 3), (torch.ones(2, 4), torch.ones(4, 2), torch.ones(1, 2, 3, 3))
    share = torch.zeros(1, device="meta")
    with pytest.raises(RuntimeError, match=r"SCAM needs .* on one device, got the input on cpu and share on meta"):
        functional.scam(x, *weights, share=share)
    with pytest.raises(RuntimeError, match=r"EMAM needs .* on one device, got the input on cpu and share on meta"):
        EmamCase(1, 4, 2, 3, 3).layer(dtype=torch.float32).mixed(x, share)
