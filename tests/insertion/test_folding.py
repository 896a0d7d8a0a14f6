"""A normalisation folded into its convolution beside an inserted layer is noticed at the next call."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.ao.quantization import fuse_modules
from torch.fx.experimental.optimization import fuse
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from panet_layers import EMAM, insert_attention
from tests.insertion.small_hosts import X


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
    insert_attention(model, at, EMAM, example_input=X)
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


def test_a_folding_is_noticed_after_a_conversion():
    model = network(bias=True, fresh=False)
    insert_attention(model, "0.conv", EMAM, example_input=X)
    with pytest.warns(UserWarning, match="folded into its convolution"):
        in_place_and_halved(model)(X)


@pytest.mark.parametrize("fold", [in_place, fuse])
def test_a_layer_after_the_whole_block_stays(fold):
    model = network(fresh=False)
    insert_attention(model, "0.act", EMAM, example_input=X)
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
        copy.deepcopy,
    ],
)
def test_other_changes_of_a_convolution_are_no_folding(change, fresh):
    model = network(bias=True, fresh=fresh)
    insert_attention(model, ["0.conv", "0.bn"], EMAM, example_input=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)
        model = change(model) or model
        model(X)
