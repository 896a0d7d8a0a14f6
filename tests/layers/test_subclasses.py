"""Inputs of a subclass of Tensor: results of this class with its attributes, whatever methods the class has."""

import pytest
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

from panet_layers import ChannelAttention, SpatialAttention, functional
from tests.layers.cases import SMALL, assert_same, outcome_of, run, tensors


class Tagged(Tensor):
    """As MONAI's MetaTensor: results take its attribute over, and a method has another signature than the tensor's."""

    tag: str

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        out = super().__torch_function__(func, types, args, kwargs or {})
        tags = [a.tag for a in args if isinstance(a, Tagged) and hasattr(a, "tag")]
        if isinstance(out, Tagged) and tags:
            out.tag = tags[0]
        return out

    def refuse(self, *args, **kwargs):
        raise TypeError("this class makes no new tensors so")

    new_empty = new_zeros = new_ones = new_full = new_tensor = flatten = mean = max = to = refuse


class Renamed(Tensor):
    """A subclass that changes nothing."""


def tagged(x):
    x = x.as_subclass(Tagged)
    x.tag = "slice 7"
    return x


@pytest.fixture(autouse=True, params=["operators", "formulas"])
def _what_runs(request, monkeypatch):
    """Small inputs take the formulas; here also the operators."""
    if request.param == "operators":
        nothing = functional.Small(inference=-1, training=-1)
        monkeypatch.setattr(functional, "SMALL_EMAM", nothing)
        monkeypatch.setattr(functional, "SMALL_SCAM", nothing)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_a_class_with_methods_of_its_own(case, backend):
    x, grad = tensors(case)
    expected = run(case.layer(backend=backend), x, grad)
    layer = case.layer(backend=backend)
    given = tagged(x).requires_grad_()
    out = layer(given)
    assert type(out) is Tagged and out.tag == "slice 7"
    layer = case.layer(backend=backend)
    actual = outcome_of(layer, given, grad)
    assert_same({name: value.as_subclass(Tensor) for name, value in actual.items()}, expected)
    with torch.no_grad():
        assert case.layer(backend=backend)(given).tag == "slice 7"


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_other_classes(case):
    x, grad = tensors(case)
    expected = run(case.layer(), x, grad)
    for given in (x.as_subclass(Renamed), tv_tensors.Image(x), nn.Parameter(x)):
        layer = case.layer()
        out = layer(given)
        assert type(out) is (Renamed if type(given) is Renamed else Tensor)
        given.requires_grad_()
        actual = outcome_of(case.layer(), given, grad)
        assert_same({name: value.as_subclass(Tensor) for name, value in actual.items()}, expected)


def test_halves():
    x = torch.randn(2, 8, 5, 4)
    for layer in (ChannelAttention(8, 2), SpatialAttention(3, norm="batch").eval()):
        out = layer(tagged(x))
        assert out.tag == "slice 7"
        assert_same({"": out.as_subclass(Tensor)}, {"": layer(x)})


def test_parts_that_are_called():
    for case in SMALL:
        x, _ = tensors(case)
        layer = case.layer()
        expected = layer(x).detach()
        for part in layer.modules():
            part.register_forward_hook(lambda *_: None)
        out = layer(tagged(x))
        assert out.tag == "slice 7"
        assert_same({"": out.detach().as_subclass(Tensor)}, {"": expected})


def test_second_derivatives():
    for case in SMALL:
        x, _ = tensors(case)
        results = []
        for given in (x, tagged(x)):
            given = given.clone().requires_grad_()
            (first,) = torch.autograd.grad(case.layer()(given).square().sum(), given, create_graph=True)
            (second,) = torch.autograd.grad(first.square().sum(), given)
            results.append({"": second.as_subclass(Tensor)})
        assert_same(*results)
