"""The layers as modules: copies, pickles, devices and dtypes, representation, memory formats, inside timm networks."""

import copy
import io
import pickle
from functools import partial

import pytest
import timm
import torch
from torch import nn

from panet_layers import EMAM, SCAM, ChannelAttention, SpatialAttention
from tests.layers.cases import BACKENDS, CASES, SMALL, assert_same, randomised, run, tensors, with_backend

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "torch.save": lambda layer: _through_torch_save(layer),
}


def _through_torch_save(layer):
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_copy_computes_the_same(case, way):
    layer = case.layer(backend="collapsed")
    x, grad = tensors(case)
    layer(x)  # a layer that has run can be copied too
    other = COPIES[way](layer)
    assert other.backend == "collapsed" and repr(other) == repr(layer)
    assert_same(run(other, x, grad), run(layer, x, grad), 0)


def test_repr():
    assert "EMAM(\n  64, groups=8, eps=1e-05\n" in repr(EMAM(64))
    assert "groups=4, eps=0.001, backend='reference'" in repr(EMAM(64, 4, eps=1e-3, backend="reference"))
    assert "backend='collapsed'" in repr(SCAM(64, backend="collapsed"))
    assert "ChannelAttention(\n    64, reduction=16\n" in repr(SCAM(64))
    assert "Conv2d(2, 1, kernel_size=(5, 5)" in repr(SCAM(64, kernel_size=5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "build",
    [EMAM, SCAM, partial(SCAM, mlp_bias=True, spatial_norm="batch"), ChannelAttention, None],
    ids=["emam", "scam", "cbam", "channel", "spatial"],
)
def test_device_and_dtype(build, dtype):
    build = build or (lambda channels, **options: SpatialAttention(norm="batch", **options))
    layer = build(16, device="meta", dtype=dtype)
    tensors = [*layer.parameters(), *(b for b in layer.buffers() if b.is_floating_point())]
    assert all(t.is_meta and t.dtype == dtype for t in tensors)
    assert layer(torch.empty(2, 16, 5, 4, device="meta", dtype=dtype)).shape == (2, 16, 5, 4)
    layer.to_empty(device="cpu").reset_parameters()
    assert layer(torch.randn(2, 16, 5, 4, dtype=dtype)).isfinite().all()


def test_to_moves_everything():
    layer = SCAM(16, spatial_norm="batch").double().to(memory_format=torch.channels_last)
    assert layer(torch.randn(2, 16, 5, 4, dtype=torch.float64)).dtype == torch.float64


def test_hidden_width():
    widths = {(64, 16): 4, (64, 8): 8, (8, 16): 1, (100, 16): 6, (1, 1): 1}
    for (channels, reduction), hidden in widths.items():
        assert SCAM(channels, reduction).channel.fc1.weight.shape == (hidden, channels)


def test_batch_norm_is_the_published_cbams():
    norm = SCAM(16, spatial_norm="batch").spatial.bn
    assert (norm.eps, norm.momentum) == (1e-5, 0.01)


def test_reset_parameters_is_seeded():
    for build in (EMAM, partial(SCAM, mlp_bias=True, spatial_norm="batch")):
        torch.manual_seed(3)
        layer = build(16)
        expected = {name: value.clone() for name, value in layer.state_dict().items()}
        randomised(layer, 0)
        torch.manual_seed(3)
        layer.reset_parameters()
        assert_same(dict(layer.state_dict()), expected, 0)


MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("name", MEMORY_FORMATS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_output_and_gradient_have_the_inputs_memory_format(case, backend, name):
    memory_format = MEMORY_FORMATS[name]
    x = tensors(case)[0].contiguous(memory_format=memory_format).requires_grad_()
    out = with_backend(case.layer(), backend)(x)
    assert out.is_contiguous(memory_format=memory_format)
    out.square().sum().backward()
    assert x.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_spatial_batch_norm_in_other_forms(norm):
    """Momentum None (a plain average) and no running statistics, as in nn.BatchNorm2d."""
    for change in ({"momentum": None}, {"track_running_stats": False, "running_mean": None, "running_var": None}):
        layers = []
        for backend in BACKENDS:
            torch.manual_seed(0)
            layer = SCAM(8, 4, spatial_norm="batch", backend=backend, dtype=torch.float64)
            for name, value in change.items():
                setattr(layer.spatial.bn, name, value)
            layers.append(layer.train(norm is not None))
        x, grad = torch.randn(2, 2, 8, 5, 4, dtype=torch.float64)
        for _ in range(3):
            assert_same(run(layers[1], x, grad), run(layers[0], x, grad))


NORMS = [
    {"num_batches_tracked": None},
    {"num_batches_tracked": None, "momentum": None},
    {"momentum": None},
    {"track_running_stats": False},
    {"running_mean": None, "running_var": None},
    {"momentum": 0.0},
]


@pytest.mark.parametrize("change", NORMS, ids=str)
def test_running_statistics_are_those_of_torchs_batch_norm(change):
    """Whatever of it is None or off."""
    layer = SCAM(8, 4, spatial_norm="batch", dtype=torch.float64)
    norm = layer.spatial.bn
    for name, value in change.items():
        setattr(norm, name, value)
    called = copy.deepcopy(layer)
    called.spatial.bn.register_forward_hook(lambda *_: None)
    for _ in range(3):
        x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
        assert_same({"": layer(x)}, {"": called(x)})
    assert_same(dict(norm.named_buffers()), dict(called.spatial.bn.named_buffers()))
    assert_same({"": layer.eval()(x)}, {"": called.eval()(x)})


def test_synchronised_batch_norm_runs_as_a_module():
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(SCAM(8, 4, spatial_norm="batch", backend="collapsed")).eval()
    assert type(layer.spatial.bn) is nn.SyncBatchNorm
    assert layer(torch.randn(2, 8, 5, 4)).shape == (2, 8, 5, 4)


@pytest.mark.parametrize("layer", [EMAM, SCAM, partial(SCAM, reduction=8, spatial_norm="batch")], ids=str)
def test_as_attention_layer_of_a_timm_network(layer):
    torch.manual_seed(0)
    options = {"layers": (1, 1, 1, 1), "channels": (16, 16, 32, 32)}
    network = timm.create_model("resnet18", num_classes=3, block_args={"attn_layer": layer}, **options)
    attention = [m for m in network.modules() if isinstance(m, EMAM | SCAM)]
    assert [m.channels for m in attention] == [16, 16, 32, 32]
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    for module in attention:
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_in_resnet50():
    network = timm.create_model("resnet50", num_classes=2, block_args={"attn_layer": EMAM})
    assert sum(isinstance(m, EMAM) for m in network.modules()) == 16
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_hook_on_an_output_that_is_changed_in_place(case, backend):
    """As Grad-CAM and FSDP2 hook it, and as backbones change it."""
    x, grad = tensors(case)
    seen = []
    layer = with_backend(case.layer(), backend)
    layer.register_forward_hook(lambda module, args, out: out.register_hook(seen.append) and None)
    out = layer(x)
    out += x
    (2 * out).backward(grad)
    assert_same({"": seen[0]}, {"": 2 * grad}, 0)


def test_empty_batch_trains():
    for case in CASES:
        if case.batch == 0:
            layer = with_backend(case.layer(), "collapsed")
            x, grad = tensors(case)
            outcome = run(layer, x, grad)
            assert all(not value.any() for name, value in outcome.items() if name.startswith("grad"))
