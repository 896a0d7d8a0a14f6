"""start="identity": the model first computes what it did, the share learns at once, the layer from the next step on."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from panet_layers import EMAM, SCAM, insert_attention, mixing, profile, remove_attention, use_backend
from panet_layers.insertion.refinement import Refinement
from panet_layers.insertion.share import STARTS, shared
from panet_layers.ops.native import library
from tests.insertion.small_hosts import Returns, X, create, resnet

FORMS = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.permute(0, 2, 3, 1),
    "tokens": lambda x: torch.cat([x[:, :, :3, 0].mT, x.flatten(2).mT], 1),
}


def refinements(model):
    return [module for module in model.modules() if isinstance(module, Refinement)]


@torch.no_grad()
def set_shares(model, value):
    for refinement in refinements(model):
        refinement.share.fill_(value)
    return model


def bits(tensor):
    return tensor.contiguous().view(torch.int64 if tensor.dtype == torch.float64 else torch.int32)


class Bad(nn.Module):
    """A layer that overflows."""

    def forward(self, x):
        return x * float("inf")


@pytest.mark.parametrize("layer", [EMAM, SCAM, lambda _: Bad()], ids=["EMAM", "SCAM", "overflow"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("training", [False, True])
def test_the_outputs_are_the_plain_models_bit_for_bit(layer, form, training):
    model = Returns(lambda x: FORMS[form](x * x.ge(0)))  # with negative zeros
    plain = model(X)
    assert torch.signbit(plain[plain == 0]).any()
    insert_attention(model.train(training), "stage", layer, example_input=X)
    with torch.set_grad_enabled(training):
        assert torch.equal(bits(model(X)), bits(plain))


@pytest.mark.usefixtures("form_of_the_share")
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -0.5])
@pytest.mark.parametrize("layer", [EMAM, SCAM, lambda _: nn.Tanh()], ids=["EMAM", "SCAM", "another"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_outputs_and_gradients_are_those_of_lerp(value, layer, memory_format):
    torch.manual_seed(0)
    built = layer(16).double()
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weights = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    share = torch.full((1,), value, dtype=torch.float64, requires_grad=True)
    inputs = (x, share, *built.parameters())
    results = []
    for out in (shared(x * 1, built, share), torch.lerp(x * 1, built(x * 1), share)):
        first = torch.autograd.grad(out, inputs, weights, retain_graph=True)
        gradients = torch.autograd.grad(out, inputs, weights, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)
        results.append((out, *first, *gradients, *again))
    for actual, expected in zip(*results):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    assert results[0][0].stride() == x.stride()


@pytest.fixture(params=["as a number", "as a tensor"])
def form_of_the_share(request, monkeypatch):
    """On a CPU the share is used as a number, on other devices as a tensor."""
    if request.param == "as a tensor":
        monkeypatch.setattr(mixing, "_number", lambda share: None)


@pytest.mark.usefixtures("form_of_the_share")
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layer", [EMAM(16), SCAM(16), nn.Tanh(), Bad()], ids=["EMAM", "SCAM", "another", "overflow"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@use_backend("collapsed")  # compiled kernels round once, not twice
def test_outputs_are_the_same_without_gradients_and_for_every_form_of_the_share(value, layer, memory_format):
    x = torch.randn(2, 16, 24, 20).relu().neg().to(memory_format=memory_format)  # with negative zeros
    share = nn.Parameter(torch.full((1,), value))
    expected = torch.lerp(x, layer(x), value) if value else x
    given, seen = x.clone(), []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    outputs = [shared(given.requires_grad_(), layer, share)]
    with torch.no_grad():
        outputs.append(shared(given, layer, share))
        handle.remove()
        outputs.append(shared(given, layer, share))
    assert torch.equal(bits(given), bits(x)) and all(torch.equal(bits(out), bits(layer(x))) for out in seen)
    for out in outputs:
        assert torch.equal(bits(out), bits(expected)) and out.stride() == x.stride()


@pytest.mark.usefixtures("form_of_the_share")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_gradient_of_the_share_is_as_accurate_as_the_dtype(dtype):
    torch.manual_seed(0)
    x, weights = torch.randn(4, 16, 20, 20, dtype=dtype), torch.randn(4, 16, 20, 20, dtype=dtype)
    layer = nn.Tanh()
    share = torch.zeros(1, requires_grad=True)
    shared(x, layer, share).backward(weights)
    expected = (weights.double() * (layer(x).double() - x.double())).sum()
    scale = (weights.double() * (layer(x).double() - x.double())).norm()
    assert (share.grad.double() - expected).abs() < 1e-5 * scale


def test_the_share_learns_at_once_and_the_layer_from_the_next_step():
    model = resnet().double().train()
    insert_attention(model, "layer[23]", EMAM)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    states = []
    for _ in range(3):
        states.append([copy.deepcopy(r.state_dict()) for r in refinements(model)])
        optimiser.zero_grad()
        model(X.double()).square().sum().backward()
        optimiser.step()
    for first, second, third in zip(*states):
        assert not first["share"].any() and second["share"].all()
        layer = [key for key in first if key.startswith("layer.")]
        assert all(torch.equal(first[key], second[key]) for key in layer)
        assert any(not torch.equal(second[key], third[key]) for key in layer)


def test_a_map_without_a_gradient_and_a_frozen_share():
    model = Returns(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    model.conv.requires_grad_(False)
    set_shares(model, 0.5)(X).sum().backward()
    refinement = model.stage.inserted_attention[0]
    assert all(p.grad is not None for p in refinement.parameters())
    refinement.zero_grad()
    refinement.share.requires_grad_(False)
    model(X).square().sum().backward()
    assert refinement.share.grad is None and refinement.layer.gn.weight.grad.any()


def test_a_state_without_shares_loads_as_the_layers_alone():
    before, model = resnet(), resnet()
    insert_attention(before, "stages", EMAM, start="layer")
    insert_attention(model, "stages", EMAM)
    state = before.state_dict()
    assert not any(key.endswith("share") for key in state)
    model.load_state_dict(state)
    assert torch.equal(model(X), before(X)) and all(r.share == 1 for r in refinements(model))
    meta = resnet()
    insert_attention(meta, "stages", EMAM)
    meta.to("meta").load_state_dict(state, assign=True)
    assert torch.equal(meta(X), before(X))
    with pytest.raises(RuntimeError, match=r"Unexpected key.*inserted_attention\.0\.share"):
        before.load_state_dict(model.state_dict())


def test_a_plain_state_leaves_the_shares_at_zero():
    plain, model = resnet(), resnet()
    insert_attention(model, "stages", EMAM)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and sum(key.endswith(".share") for key in missing) == 5
    assert torch.equal(model(X), plain(X))


def test_copies_pickles_and_replicas_have_the_share():
    model = resnet()
    insert_attention(model, "stages", EMAM)
    set_shares(model, 0.4)
    expected = model(X)
    other = resnet()
    insert_attention(other, "stages", EMAM)
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other):
        assert torch.equal(twin(X), expected)
    copied = copy.deepcopy(model.layer1[-1].inserted_attention[0])
    share = copied.share
    del copied._parameters["share"]
    copied.share = share  # a replica holds it as an attribute
    x = torch.randn(2, copied.layer.channels, 8, 8)
    assert torch.equal(copied(x), model.layer1[-1].inserted_attention[0](x))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_compiled_and_exported(name):
    torch._dynamo.reset()
    model = create(name, num_classes=3)
    insert_attention(model, "stages", EMAM)
    x = torch.randn(2, 3, 160, 160)
    plain = model(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), plain)
    compiled(x).square().sum().backward()
    grads = [r.share.grad.clone() for r in refinements(model)]
    model.zero_grad()
    model(x).square().sum().backward()
    for refinement, grad in zip(refinements(model), grads):
        torch.testing.assert_close(refinement.share.grad, grad, rtol=1e-3, atol=1e-3)
    set_shares(model, 0.3)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    assert not torch.allclose(model(x), plain)


def test_functions_of_torch_func():
    model = Returns(lambda x: x)
    insert_attention(model, "stage", EMAM, example_input=X)
    set_shares(model, 0.3)
    state = dict(model.named_parameters())
    loss = lambda p, x: torch.func.functional_call(model, p, (x[None],)).square().sum()  # noqa: E731
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(state, X)
    model(X).square().sum().backward()
    for key, p in model.named_parameters():
        torch.testing.assert_close(gradients[key].sum(0), p.grad, rtol=1e-4, atol=1e-4)


def test_the_report_and_profile_show_the_share_and_its_cost():
    model, alone = resnet(), resnet()
    report = insert_attention(model, "layer[34]", EMAM)
    without = insert_attention(alone, "layer[34]", EMAM, start="layer")
    for row, other in zip(report.rows, without.rows):
        assert (row.share, other.share) == (0.0, None)
        assert row.cost.parameters == other.cost.parameters + 1 and row.cost.macs == other.cost.macs
        assert library.why_not() or row.cost.activation_bytes == other.cost.activation_bytes
    set_shares(model, 0.25)
    rows = profile(model).rows
    assert [row.share for row in rows] == [0.25, 0.25]
    assert [row.cost for row in rows] == [row.cost for row in report.rows]
    heads = [str(profile(each)).splitlines()[0] for each in (model, alone)]
    assert [head.endswith(" s") for head in heads] == [True, False] and "0.250" in str(profile(model))


def test_the_output_of_a_layer_that_no_kernel_mixes_is_kept():
    rows = [insert_attention(resnet(), "layer4", lambda c: nn.Tanh(), start=start).rows[0] for start in STARTS]
    identity, alone = (row.cost.activation_bytes for row in rows)
    assert identity - alone == 4 * 96 * 5 * 5


def test_models_on_meta_have_shares_too():
    meta = resnet().to("meta")
    report = insert_attention(meta, "layer4", EMAM)
    assert report.rows[0].share is None and str(report)
    meta(X.to("meta"))
    for module in meta.to_empty(device="cpu").modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert profile(meta).rows[0].share == 0.0


def test_removal_and_another_start():
    plain = (model := resnet())(X)
    insert_attention(model, "layer2", EMAM)
    insert_attention(model, "layer2", SCAM, start="layer")
    assert [r.share is None for r in refinements(model)] == [False, True]
    remove_attention(model)
    assert torch.equal(model(X), plain) and not any("share" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("layer", "start", "message"),
    [
        (EMAM, "zero", "start must be 'identity' or 'layer', got 'zero'"),
        (lambda _: nn.ReLU(inplace=True), "identity", r"ReLU changes its input in place, .* use start=\"layer\""),
        (lambda c: nn.Conv2d(c, 1, 1), "identity", "Conv2d returned"),
    ],
)
def test_refusals(layer, start, message):
    with pytest.raises(ValueError, match=message):
        insert_attention(model := resnet(), "layer2", layer, start=start)
    assert not refinements(model)


def test_a_backbone_that_changes_the_output_in_place():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(inplace=True), nn.Conv2d(16, 8, 1))
    insert_attention(model, "0", EMAM, example_input=X)
    for value in (0.0, 0.5):
        set_shares(model, value)(X).sum().backward()


def test_autocast():
    model = timm.create_model("test_resnet", num_classes=3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(X)
        insert_attention(model, "stages", EMAM)
        assert torch.equal(model(X), plain)
        set_shares(model, 0.3)(X).sum().backward()
    assert all(r.share.grad.isfinite().all() for r in refinements(model))


class Extra(nn.Conv2d):
    """A layer whose state begins with something else than a tensor."""

    def state_dict(self, *args, destination, prefix, **kwargs):
        destination[prefix + "_extra_state"] = self.get_extra_state()
        return super().state_dict(*args, destination=destination, prefix=prefix, **kwargs)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        assert state == {"version": 1}


def test_a_state_without_a_share_and_with_the_layers_extra_state_loads():
    before, model = resnet(), resnet()
    insert_attention(before, "layer2", lambda c: Extra(c, c, 1), start="layer")
    insert_attention(model, "layer2", lambda c: Extra(c, c, 1))
    model.load_state_dict(before.state_dict())
    assert torch.equal(model(X), before(X)) and refinements(model)[0].share == 1
