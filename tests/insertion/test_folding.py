"""A normalisation folded into its convolution beside an inserted layer is noticed at the next call."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from panet_layers import EMAM
from panet_layers.insertion.folding import KEY
from tests.insertion.small_hosts import X, insert_alone


class Block(nn.Module):
    """A convolution, a normalisation and an activation, which can be folded as in ultralytics."""

    def __init__(self, bias, fresh):
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 16, 4, 4, bias=bias), nn.BatchNorm2d(16), nn.ReLU()
        if bias and fresh:
            nn.init.zeros_(self.conv.bias)
        if not fresh:
            for tensor in (self.bn.weight.data, self.bn.bias.data, self.bn.running_mean, self.bn.running_var):
                tensor.uniform_(0.5, 1.5)

    def forward(self, x):
        x = self.conv(x)
        return self.act(self.bn(x) if hasattr(self, "bn") else x)


def network(bias=False, fresh=True):
    torch.manual_seed(0)
    return nn.Sequential(Block(bias, fresh), nn.Conv2d(16, 4, 1)).eval()


def by_hand(model):
    folded = fuse_conv_bn_eval(model[0].conv, model[0].bn)
    return nn.Sequential(folded, nn.ReLU(), model[1])  # which calls nothing that knows of the insertion


def in_place(model):
    conv, bn = model[0].conv, model[0].bn
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    del model[0].bn
    return model


def in_place_and_halved(model):
    return in_place(model).bfloat16().float()


def by_fuse_modules(model):
    return fuse_modules(model, ["0.conv", "0.bn"])


def by_fuse_modules_with_activation(model):
    return fuse_modules(model, ["0.conv", "0.bn", "0.act"])


FOLDINGS = [by_hand, in_place, fuse, by_fuse_modules, by_fuse_modules_with_activation]


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("at", ["0.conv", "0.bn"])
@pytest.mark.parametrize("fold", FOLDINGS)
def test_a_folding_beside_a_layer_is_noticed(fold, at, bias, fresh):
    model = network(bias, fresh)
    insert_alone(model, at, EMAM, example_input=X)
    folded = fold(pickle.loads(pickle.dumps(model)))
    with pytest.warns(UserWarning, match=rf"folded into its convolution beside the layer inserted at '{at}'"):
        try:
            folded(X)
        except RuntimeError as error:  # fuse_modules moves the hook to the convolution
            assert "has lost its inserted layer" in str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            folded(X)
        except RuntimeError as error:
            assert "has lost its inserted layer" in str(error)


def folded_parameters(model):
    conv, bn = model[0].conv, model[0].bn
    return fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)


@torch.no_grad()
def by_copying_values(model):
    conv, (weight, bias) = model[0].conv, folded_parameters(model)
    conv.weight.copy_(weight), conv.bias.copy_(bias)
    model[0].bn = nn.Identity()


def by_assigning_data(model):
    conv, (weight, bias) = model[0].conv, folded_parameters(model)
    conv.weight.data, conv.bias.data = weight.data, bias.data
    del model[0].bn


def by_assigning_data_of_the_weight_alone(model):
    """As ultralytics does where the convolution has no bias."""
    conv, (weight, bias) = model[0].conv, folded_parameters(model)
    conv.weight.data, conv.bias = weight.data, bias
    del model[0].bn


def trained(model):
    model.train()
    for _ in range(2):
        model.zero_grad()
        model(X).sum().backward()
        torch.optim.SGD(model.parameters(), 1e-5).step()
    return model.eval()


@pytest.mark.parametrize(
    "before", [lambda m: m, copy.deepcopy, lambda m: m.half(), trained], ids=["", "copied", "half", "trained"]
)
@pytest.mark.parametrize("fold", [by_copying_values, by_assigning_data, by_assigning_data_of_the_weight_alone])
def test_a_folding_in_place_is_noticed(fold, before):
    model = network(bias=True, fresh=False)
    insert_alone(model, "0.conv", EMAM, example_input=X)
    model = before(model)
    fold(model)
    with pytest.warns(UserWarning, match="folded into its convolution beside the layer inserted at '0.conv'"):
        model.float()(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)


def test_a_folding_in_place_gives_a_bias_to_a_convolution_without_one():
    model = network(fresh=True)
    insert_alone(model, "0.conv", EMAM, example_input=X)
    by_assigning_data_of_the_weight_alone(model)
    with pytest.warns(UserWarning, match="folded into its convolution"):
        model(X)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(8, 16, 3, groups=8),
        nn.ConvTranspose2d(8, 16, 3),
        nn.ConvTranspose2d(8, 16, 3, groups=4),
    ],
)
def test_a_folding_into_any_convolution_is_noticed(convolution):
    x, model = torch.randn(2, 8, 12, 9), nn.Sequential(convolution, nn.BatchNorm2d(16))
    model(x)
    insert_alone(model.eval(), "0", EMAM, example_input=x)
    scale = model[1].running_var.add(1e-5).rsqrt()
    axis = scale.view(4, 1, 4, 1, 1).expand(4, 2, 4, 1, 1).reshape(8, 4, 1, 1) if convolution.groups == 4 else None
    if axis is None:
        axis = scale.view((1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1))
    convolution.weight = nn.Parameter(convolution.weight.detach() * axis)
    convolution.bias = nn.Parameter((convolution.bias.detach() - model[1].running_mean) * scale)
    with pytest.warns(UserWarning, match="folded into its convolution"):
        nn.Sequential(convolution)(x)


def test_a_convolution_does_not_hold_the_normalisation_after_it():
    model = network(bias=True)
    insert_alone(model, ["0.conv", "0.bn"], EMAM, example_input=X)
    norm = weakref.ref(model[0].bn)
    conv, stored = copy.deepcopy(model[0].conv), pickle.dumps(model[0].conv)
    assert b"BatchNorm" not in stored and "BatchNorm" not in str(vars(conv._forward_hooks[KEY]))
    model[0].bn = nn.Identity()
    with pytest.warns(UserWarning, match="no longer runs"):
        model(X)
    gc.collect()
    assert norm() is None


def test_a_folding_is_noticed_after_a_conversion():
    model = network(bias=True, fresh=False)
    insert_alone(model, "0.conv", EMAM, example_input=X)
    with pytest.warns(UserWarning, match="folded into its convolution"):
        in_place_and_halved(model)(X)


@pytest.mark.parametrize("fold", [in_place, fuse])
def test_a_layer_after_the_whole_block_stays(fold):
    model = network(fresh=False)
    insert_alone(model, "0.act", EMAM, example_input=X)
    expected = model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fold(model)(X), expected)


def loaded_by_assignment(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)


def loaded_from_another_network(model):
    other = network(bias=True, fresh=False)
    torch.nn.init.normal_(other[0].conv.weight)
    model.load_state_dict(other.state_dict(), assign=True, strict=False)


def rebuilt(model):
    state = copy.deepcopy(model.state_dict())
    model.to("meta").to_empty(device="cpu").load_state_dict(state)


def called_functionally(model):
    other = {name: nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
    torch.func.functional_call(model, other, X)
    torch.func.vmap(lambda p: torch.func.functional_call(model, p, X))(
        {k: torch.stack([p, p]) for k, p in other.items()}
    )


def stepped(model):
    model(X).sum().backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def converted(model):
    model.double().float()


def given_a_bias(model):
    model[0].conv.bias = nn.Parameter(torch.zeros(16))


def given_a_bias_and_loaded(model):
    """As a network of the same form whose convolution has a bias."""
    model[0].conv.bias = nn.Parameter(torch.randn(16))
    model[0].conv.weight = nn.Parameter(model[0].conv.weight.detach().clone())


def scaled(model):
    model[0].conv.weight = nn.Parameter(0.5 * model[0].conv.weight.detach())


def without_normalisation(model):
    model[0].bn = nn.Identity()


def normalised_otherwise(model):
    model[0].bn = nn.GroupNorm(4, 16)
    nn.init.normal_(model[0].conv.bias)


@pytest.mark.parametrize("change", [given_a_bias, given_a_bias_and_loaded])
def test_a_bias_alone_is_no_folding(change):
    model = network(fresh=False)
    insert_alone(model, "0.conv", EMAM, example_input=X)
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)


@pytest.mark.parametrize("change", [without_normalisation, normalised_otherwise])
@pytest.mark.parametrize("called", [True, False])
def test_another_normalisation_or_none_is_no_folding(change, called):
    model = network(bias=True, fresh=False)
    insert_alone(model, "0.conv", EMAM, example_input=X)
    if called:
        trained(model)
        model(X)
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "trained"])
@pytest.mark.parametrize(
    "change",
    [
        loaded_by_assignment,
        loaded_from_another_network,
        rebuilt,
        called_functionally,
        stepped,
        converted,
        scaled,
        copy.deepcopy,
    ],
)
def test_other_changes_of_a_convolution_are_no_folding(change, fresh):
    model = network(bias=True, fresh=fresh)
    insert_alone(model, ["0.conv", "0.bn"], EMAM, example_input=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)
        model = change(model) or model
        model(X)
