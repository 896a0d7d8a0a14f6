"""Batch normalisation folded into convolutions: the detectors' outputs to rounding, and what stays as it is."""

import pytest
import torch
from torch import nn

from panet_layers.models import PANet, fold_batch_norm

IMAGES = torch.rand(2, 3, 70, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
DETECTORS = {
    "panet": lambda: PANet(variant="tiny"),
    "recce": lambda: PANet(variant="tiny", emam=None, scam=None),
    "xception": lambda: PANet.xception_baseline(variant="tiny"),
}


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def detector(name="panet"):
    """A detector in float64 whose batch normalisations are not the identity that a new one nearly is."""
    torch.manual_seed(0)
    model = DETECTORS[name]().double().eval()
    for norm in norms(model):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.running_var.uniform_(0.5, 1.5)
        norm.bias.data.uniform_(-0.5, 0.5)
        norm.running_mean.uniform_(-0.5, 0.5)
    return model


def assert_same_outputs(folded, model):
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_batch_normalisation_is_folded_and_the_outputs_stay(name):
    model = detector(name)
    folded = fold_batch_norm(model)
    assert not norms(folded)
    assert_same_outputs(folded, model)


def test_the_model_itself_is_not_changed():
    model = detector().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert model.training and not any(module.training for module in folded.modules())
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


CHANGES = {
    "hook on a convolution": lambda model: doubled(model.encoder.conv2),
    "hook on a separable convolution": lambda model: doubled(model.encoder.block1.rep[0]),
    "hook on its pointwise part": lambda model: doubled(model.encoder.block1.rep[0].pointwise),
    "hook on a batch normalisation": lambda model: doubled(model.guided_attention.transform[1]),
    "another class": lambda model: setattr(model.encoder, "bn3", nn.GroupNorm(1, 160).double()),
    "no statistics": lambda model: setattr(model.encoder, "bn3", nn.BatchNorm2d(160, track_running_stats=False)),
}


def doubled(module):
    module.register_forward_hook(lambda module, args, out: 2 * out)


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_that_is_not_as_it_was_made_is_not_folded(change):
    model = detector()
    CHANGES[change](model)
    model.double()
    folded = fold_batch_norm(model)
    assert len(norms(folded)) == (change != "another class")
    assert_same_outputs(folded, model)


def test_weights_stay_in_channels_last():
    folded = fold_batch_norm(detector().to(memory_format=torch.channels_last))
    assert folded.encoder.conv2.weight.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got None"):
        fold_batch_norm(None)
