"""Inserted layers stay when hooks come and go, and a layer that no longer runs is noticed."""

import copy
import pickle
import warnings
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.utils.hooks import RemovableHandle

from panet_layers import EMAM, profile, remove_attention
from tests.insertion.small_hosts import X, insert_alone, inserted


def network():
    """A convolution and two blocks, with layers after the blocks: in the first block's convolution and in a norm."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)) for _ in range(2)]
    model = nn.Sequential(nn.Conv2d(3, 16, 4, 4), *blocks).eval()
    insert_alone(model, ["1.0", "2"], EMAM, example_input=X)
    return model


def use_hooks(model, times=12):
    for module in model.modules():
        for prepend in (False, True) * (times // 2):
            module.register_forward_hook(lambda *_: None, prepend=prepend).remove()
            module.register_forward_pre_hook(lambda *_: None, prepend=prepend).remove()


@pytest.fixture
def hooks_are_numbered_anew(monkeypatch):
    """As in another process."""
    return lambda: monkeypatch.setattr(RemovableHandle, "next_id", 0)


def test_layers_of_a_pickle_stay_when_later_hooks_have_their_numbers(hooks_are_numbered_anew):
    hooks_are_numbered_anew()
    model = network()
    expected, stored = model(X), pickle.dumps(model)
    hooks_are_numbered_anew()
    loaded = pickle.loads(stored)
    use_hooks(loaded, times=200)
    insert_alone(loaded, "0", nn.Identity, example_input=X)  # has hooks of its own in the dry run
    assert torch.equal(loaded(X), expected)
    remove_attention(loaded)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in loaded.modules())


def test_layers_stay_among_other_hooks():
    model = network()
    expected, calls = model(X), []
    handles = [model[1][0].register_forward_hook(lambda *_: calls.append(1), prepend=p) for p in (True, False)]
    use_hooks(model)
    twin = copy.deepcopy(model)
    assert torch.equal(model(X), expected) and len(calls) == 2
    for handle in handles:
        handle.remove()
    use_hooks(twin)
    assert torch.equal(model(X), expected) and torch.equal(twin(X), expected) and len(calls) == 4


def removed_hook(model):
    model[1][0]._forward_hooks.clear()
    return "'1.0'"


def replaced_hooks(model):
    for module in model.modules():
        module._forward_hooks = OrderedDict()
    return "'1.0', '2.1'"


def replaced_children(model):
    model._modules = {"0": model[0], "2": model[2]}
    return "'1.0'"


def replaced_module(model):
    model[2][1] = nn.Identity()
    return "'2.1'"


def converted_module(model):
    nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return "'2.1'"


def deleted_block(model):
    del model[2]
    return "'2.1'"


@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
@pytest.mark.parametrize(
    "change", [removed_hook, replaced_hooks, replaced_children, replaced_module, converted_module, deleted_block]
)
def test_a_lost_layer_is_noticed_at_the_next_call_and_only_then(change, copied):
    model = copied(network())
    name = change(model)
    with pytest.warns(UserWarning, match=rf"no longer runs the layers inserted at .*{name}.*convert first and insert"):
        model(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(X)


@pytest.mark.parametrize("use", [lambda model: profile(model, X), remove_attention])
def test_a_layer_without_its_hook_is_noticed_in_any_model_that_holds_it(use):
    block = network()[1]
    block[0]._forward_hooks.clear()
    with pytest.warns(UserWarning, match=r"no longer runs the layers inserted at '1\.0'"):
        use(nn.Sequential(nn.Conv2d(3, 16, 4, 4), block, EMAM(16)))


def removed_from_a_part(model):
    remove_attention(model[2])
    model[2] = nn.Identity()


def wrapped(model):
    model[1][0], model[2] = checkpoint_wrapper(model[1][0]), checkpoint_wrapper(model[2])


def moved(model):
    model[0] = nn.Sequential(model[0], model[1])
    model[1] = nn.Identity()


def copied_in_part(model):
    model[1] = copy.deepcopy(model[1])


@pytest.mark.parametrize("change", [removed_from_a_part, wrapped, moved, copied_in_part, use_hooks])
def test_layers_that_run_or_were_removed_are_not_missed(change):
    model = network()
    expected = model(X)
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = [model(X) for _ in range(2)]
    assert change is removed_from_a_part or all(torch.equal(out, expected) for out in after)
    assert inserted(model)
