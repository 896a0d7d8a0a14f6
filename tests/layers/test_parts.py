"""Parts that are not as they were made: the layers give what the published modules give, or refuse the part by name."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_hook
from torch.nn.utils import prune

from panet_layers import EMAM, SCAM, ChannelAttention, SpatialAttention, use_backend
from tests.layers import published_calls
from tests.layers.cases import EmamCase, ScamCase, assert_same, run, tensors
from tests.layers.changed_parts import CHANGES, changed

CASES = {
    "emam": EmamCase(2, 16, 4, 6, 7),
    "scam": ScamCase(2, 16, 4, 6, 7, kernel_size=3, mlp_bias=True, norm="batch"),
}
READ = {  # changes of a part that is read all the same
    *(("gn", "eps"), ("spatial.conv", "wider"), ("spatial.bn", "eps")),
    *(("spatial.bn", name) for name in ("momentum", "average", "no count", "average without count")),
    *(("spatial.bn", name) for name in ("statistics not tracked", "no statistics")),
}


@pytest.mark.usefixtures("by_hand_at_any_size")
@pytest.mark.parametrize(("kind", "part", "change"), CHANGES)
def test_results_are_the_published_modules(kind, part, change):
    """Outputs, all gradients and statistics, twice: some changes keep a state."""
    case = CASES[kind]
    x, grad = tensors(case)
    expected = published_calls.calling(changed(case.layer(), kind, part, change))
    layer = changed(case.layer(), kind, part, change)
    for mode in (True, False):
        for one in (expected, layer):
            one.train(mode)
        assert_same(run(layer, x, grad), run(expected, x, grad))


@pytest.mark.parametrize(("kind", "part", "change"), CHANGES)
def test_a_backend_of_kernels_refuses_a_part_that_must_be_called(kind, part, change):
    case = CASES[kind]
    layer = changed(case.layer(), kind, part, change)
    layer.backend = "triton"
    x, _ = tensors(case)
    if (part, change) in READ:
        assert not layer.called_part()
    else:
        with pytest.raises(RuntimeError, match=rf"'triton'.*{type(layer).__name__}.{part}, .*not as it was made"):
            layer(x)


def leaves(layer):
    return [module for module in layer.modules() if not list(module.children())]


@pytest.mark.parametrize("kind", CASES)
def test_hooks_of_all_parts_run_as_in_the_published_module(kind):
    """As tools do that count operations or look at features: thop, Grad-CAM, observers."""
    seen = []
    case = CASES[kind]
    x, _ = tensors(case)
    for layer in (case.layer(), published_calls.calling(case.layer())):
        names = {part: name for name, part in layer.named_modules()}
        handles = [
            part.register_forward_hook(lambda part, args, out, names=names: seen.append((names[part], out.detach())))
            for part in leaves(layer)
        ]
        layer.eval()(x)
        for handle in handles:
            handle.remove()
    half = len(seen) // 2
    assert {name for name, _ in seen} == {name for name, part in case.layer().named_modules() if not [*part.children()]}
    for (name, actual), (wanted, expected) in zip(seen[:half], seen[half:]):
        assert name == wanted
        assert_same({name: actual}, {name: expected})


@pytest.mark.parametrize("kind", CASES)
def test_global_hooks_see_the_parts(kind):
    case = CASES[kind]
    x, grad = tensors(case)
    layer = case.layer()
    expected = run(copy.deepcopy(layer), x, grad)
    seen = []
    for register in (register_module_forward_hook, register_module_full_backward_hook):
        handle = register(lambda module, _, __: seen.append(module))
        try:
            assert_same(run(copy.deepcopy(layer), x, grad), expected)
        finally:
            handle.remove()
        assert {type(part) for part in seen} >= {type(part) for part in leaves(layer)}
        seen.clear()
    run(layer, x, grad)
    assert not seen and not layer.called_part()


@pytest.mark.parametrize("kind", CASES)
def test_a_backend_of_kernels_refuses_global_hooks(kind):
    layer, (x, _) = CASES[kind].layer(backend="triton"), tensors(CASES[kind])
    handle = register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(RuntimeError, match=r"'triton'.*global module hooks.*take these away"):
            layer(x)
    finally:
        handle.remove()


def test_a_forward_that_was_replaced_in_the_class(monkeypatch):
    """As some tools for adapters do, for every layer of a class."""
    for kind, (part, method) in {"emam": (nn.Conv2d, "_conv_forward"), "scam": (nn.Linear, "forward")}.items():
        layer, (x, _) = CASES[kind].layer().eval(), tensors(CASES[kind])
        with monkeypatch.context() as patch:
            plain = getattr(part, method)
            patch.setattr(part, method, lambda *args, plain=plain: 1.5 * plain(*args))
            expected = published_calls.calling(copy.deepcopy(layer))(x)
            assert_same({"": layer(x)}, {"": expected})
        assert not torch.allclose(layer(x), expected) and not layer.called_part()


@pytest.mark.parametrize("kind", CASES)
def test_parts_are_read_again_after_a_change_is_taken_back(kind):
    case = CASES[kind]
    layer = case.layer()
    part = layer.conv3x3 if kind == "emam" else layer.spatial.conv
    handle = part.register_forward_hook(lambda *_: None)
    assert layer.called_part().endswith("conv3x3" if kind == "emam" else "conv")
    handle.remove()
    prune.identity(part, "weight")
    assert layer.called_part()
    prune.remove(part, "weight")
    assert not layer.called_part()


def test_folded_batch_normalisation():
    """By torch's functions: the convolution gets a bias, and the normalisation is gone."""
    layer = CASES["scam"].layer().eval()
    x, _ = tensors(CASES["scam"])
    expected = layer(x)
    by_hand, by_tool = copy.deepcopy(layer), copy.deepcopy(layer)
    by_hand.spatial.conv = nn.utils.fuse_conv_bn_eval(by_hand.spatial.conv, by_hand.spatial.bn)
    by_hand.spatial.bn = None
    torch.ao.quantization.fuse_modules(by_tool, [["spatial.conv", "spatial.bn"]], inplace=True)
    for fused in (by_hand, by_tool):
        assert_same({"": fused(x)}, {"": expected})
        with use_backend("triton"), pytest.raises(RuntimeError, match=r"'triton'.*SCAM.spatial.conv, .*Conv2d\("):
            fused(x)


def test_eps_of_emam_is_that_of_its_normalisation():
    case = CASES["emam"]
    x, _ = tensors(case)
    layer, other = case.layer(), case.layer(eps=0.3)
    layer.eps = 0.3
    assert layer.gn.eps == layer.eps == other.eps == 0.3 and "eps=0.3" in repr(layer)
    assert_same({"": layer(x)}, {"": other(x)}, 0)


def test_a_layer_of_the_halves_alone():
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    channel, spatial = ChannelAttention(8, 2, dtype=torch.float64), SpatialAttention(3, dtype=torch.float64)
    channel.fc2.register_forward_hook(lambda module, args, out: out + 1)
    spatial.conv.padding_mode = "circular"
    assert_same({"": channel(x)}, {"": published_calls.channel_attention(channel, x)})
    assert_same({"": spatial(x)}, {"": published_calls.spatial_attention(spatial, x)})


REFUSED = {
    "another shape": (
        lambda: nn.Conv2d(4, 4, 3),
        r"EMAM.conv3x3, torch.nn.modules.conv.Conv2d\(.*wanted \(8, 4, 6, 7\)",
    ),
    "too many channels": (
        lambda: nn.Conv2d(4, 5, 3, padding=1),
        r"EMAM.conv3x3, .*\(8, 5, 6, 7\).*wanted \(8, 4, 6, 7\)",
    ),
    "no tensor": (lambda: Pair(), r"EMAM.conv3x3, .*Pair\(\) returned a tuple; wanted a tensor"),
    "on another device": (lambda: nn.Conv2d(4, 4, 3, padding="same", device="meta"), r"EMAM.conv3x3, .*on meta"),
    "none": (lambda: None, r"EMAM.conv3x3 is None"),
}


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize("name", REFUSED)
def test_a_part_that_cannot_serve_is_refused_by_name(name):
    part, message = REFUSED[name]
    layer = EMAM(16, 4)
    layer.conv3x3 = part()
    with pytest.raises((TypeError, ValueError, RuntimeError), match=message):
        layer(torch.randn(2, 16, 6, 7))


OF_ANOTHER_SIZE = {
    "conv1x1": lambda layer: setattr(layer, "conv1x1", nn.Conv2d(5, 5, 1)),
    "gn": lambda layer: setattr(layer, "gn", nn.GroupNorm(1, 1)),
    "spatial.conv": lambda layer: setattr(layer.spatial, "conv", nn.Conv2d(3, 1, 7, padding=3, bias=False)),
    "spatial.bn": lambda layer: setattr(layer.spatial, "bn", nn.BatchNorm2d(2)),
}


@pytest.mark.parametrize("part", OF_ANOTHER_SIZE)
def test_a_part_of_another_size_is_refused_as_the_published_modules_refuse_it(part):
    layer = SCAM(16, 4, spatial_norm="batch") if "spatial" in part else EMAM(16, 4)
    OF_ANOTHER_SIZE[part](layer.eval())
    assert layer.called_part() == part
    with pytest.raises((RuntimeError, ValueError)):
        layer(torch.randn(2, 16, 6, 7))


@pytest.mark.skipif(not hasattr(Exception, "add_note"), reason="notes of exceptions are from Python 3.11")
def test_an_error_inside_a_part_names_the_part():
    layer = SCAM(16, 4)
    layer.channel.fc2 = nn.Linear(3, 16)
    layer.channel.fc2.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError) as error:
        layer(torch.randn(2, 16, 6, 7))
    assert "ChannelAttention.fc2, torch.nn.modules.linear.Linear(" in error.value.__notes__[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", CASES)
def test_called_parts_in_half_precision_and_under_autocast(kind, dtype):
    case = CASES[kind]
    x = tensors(case)[0].float()
    layer = case.layer(dtype=torch.float32).eval()
    expected = layer(x)
    for part in leaves(layer):
        part.register_forward_hook(lambda *_: None)
    with torch.autocast("cpu", dtype):
        assert_same({"": layer(x)}, {"": expected}, 1e-6)
        assert layer(x.to(dtype)).dtype == dtype
    actual = layer.to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    assert_same({"": actual.float()}, {"": expected}, 5e-2)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    ("kind", "part", "change"), [("emam", "conv3x3", "forward hook"), ("scam", "spatial.conv", "padding by name")]
)
def test_called_parts_compile_and_export(kind, part, change):
    case = CASES[kind]
    x, grad = tensors(case)
    expected = run(changed(case.layer(), kind, part, change), x, grad)
    layer = changed(case.layer(), kind, part, change)
    layer.compile(fullgraph=True, backend="aot_eager")
    assert_same(run(layer, x, grad), expected)
    evaluated = changed(case.layer(), kind, part, change).eval()
    sizes = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(evaluated, (x,), dynamic_shapes=(sizes,))
    other = torch.randn(3, 16, 9, 4, dtype=torch.float64)
    assert_same({"": program.module()(other)}, {"": evaluated(other)})
