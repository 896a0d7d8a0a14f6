"""Bad arguments and bad input: the error's type, and a message that says what was given and what is wanted."""

import warnings

import numpy as np
import pytest
import torch

from panet_layers import EMAM, SCAM, ChannelAttention, SpatialAttention, functional, set_backend, use_backend
from panet_layers.ops import availability
from tests.layers.cases import BACKENDS, SMALL, with_backend

BAD_ARGUMENTS = [
    (lambda: EMAM(30, 8), "groups=8 does not divide channels=30", "such as 6"),
    (lambda: EMAM(4, 8), "groups=8 does not divide channels=4", "such as 4"),
    (lambda: EMAM(0), "got 0", "channels must be a positive int"),
    (lambda: EMAM(-8), "got -8", "channels must be a positive int"),
    (lambda: EMAM(64.5, 1), "got 64.5", "channels must be a positive int"),
    (lambda: EMAM("64"), "got '64'", "channels must be a positive int"),
    (lambda: EMAM(8, 0), "got 0", "groups must be a positive int"),
    (lambda: EMAM(8, -1), "got -1", "groups must be a positive int"),
    (lambda: EMAM(8, 8.0), "got 8.0", "groups must be a positive int"),
    (lambda: EMAM(8, eps=0.0), "got 0.0", "eps must be a positive number"),
    (lambda: EMAM(8, eps="small"), "got 'small'", "eps must be a positive number"),
    (lambda: SCAM(0), "got 0", "channels must be a positive int"),
    (lambda: SCAM(8, 0), "got 0", "reduction must be a positive int"),
    (lambda: SCAM(8, 2.5), "got 2.5", "reduction must be a positive int"),
    (lambda: ChannelAttention(8, -2), "got -2", "reduction must be a positive int"),
    (lambda: SCAM(8, kernel_size=4), "got 4", "kernel_size must be odd"),
    (lambda: SCAM(8, kernel_size=0), "got 0", "kernel_size must be a positive int"),
    (lambda: SCAM(8, kernel_size=7.0), "got 7.0", "kernel_size must be a positive int"),
    (lambda: SpatialAttention(-3), "got -3", "kernel_size must be a positive int"),
    (lambda: SCAM(8, spatial_norm="layer"), "'layer'", "'batch'"),
    (lambda: SpatialAttention(norm="instance"), "'instance'", "'batch'"),
    (lambda: EMAM(8, backend="rocm"), "'rocm'", "'collapsed'"),
    (lambda: SCAM(8, backend=""), "''", "'collapsed'"),
    (lambda: set_backend("fast"), "'fast'", "'collapsed'"),
    (lambda: use_backend("fast").__enter__(), "'fast'", "'collapsed'"),
]

BAD_INPUTS = [
    (torch.randn(8, 5, 4), ValueError, r"\(8, 5, 4\)"),
    (torch.randn(2, 8, 5, 4, 3), ValueError, r"\(2, 8, 5, 4, 3\)"),
    (torch.randn(2, 6, 5, 4), ValueError, r"\(2, 6, 5, 4\)"),
    (torch.randn(2, 0, 5, 4), ValueError, r"\(2, 0, 5, 4\)"),
    (torch.randn(2, 8, 0, 4), ValueError, r"\(2, 8, 0, 4\)"),
    (torch.randn(2, 8, 5, 0), ValueError, r"\(2, 8, 5, 0\)"),
    (torch.ones(2, 8, 5, 4, dtype=torch.int64), TypeError, "torch.int64"),
    (torch.ones(2, 8, 5, 4, dtype=torch.uint8), TypeError, "torch.uint8"),
    (torch.ones(2, 8, 5, 4, dtype=torch.bool), TypeError, "torch.bool"),
    (torch.ones(2, 8, 5, 4, dtype=torch.complex64), TypeError, "torch.complex64"),
]


@pytest.mark.parametrize(("build", "given", "wanted"), BAD_ARGUMENTS)
def test_bad_arguments(build, given, wanted):
    with pytest.raises(ValueError) as error:
        build()
    assert given in str(error.value) and wanted in str(error.value)


def test_output_channels_given_as_groups():
    """As `EMAM(c1, c2)` in a YOLO's YAML."""
    with pytest.warns(
        UserWarning, match=r"EMAM\(channels=64, groups=64\).*one channel.*number of groups, not of output"
    ):
        EMAM(64, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [EMAM(64, 32).groups, EMAM(1, 1).groups, EMAM(64).groups] == [32, 1, 8]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("x", "kind", "given"), BAD_INPUTS)
def test_bad_input(x, kind, given, backend):
    for layer in (EMAM(8, 4, backend=backend), SCAM(8, 4, backend=backend)):
        wanted = "floating-point" if kind is TypeError else r"\(B, 8, H, W\)|at least one"
        with pytest.raises(kind, match=f"{type(layer).__name__} needs.*({wanted}).*{given}"):
            layer(x)


@pytest.mark.parametrize("x", [None, [1.0], np.zeros((2, 8, 5, 4), np.float32)], ids=lambda x: type(x).__name__)
def test_input_that_is_no_tensor(x):
    hooked = EMAM(8, 4)
    hooked.conv1x1.register_forward_hook(lambda *_: None)
    for layer in (EMAM(8, 4), hooked, SCAM(8, 4), ChannelAttention(8), SpatialAttention()):
        with pytest.raises(TypeError, match=rf"must be a tensor of shape \(B, C, H, W\), got a {type(x).__name__}"):
            layer(x)


def test_sizes_of_another_integer_type():
    assert EMAM(np.int64(8), np.int32(4))(torch.randn(2, 8, 5, 4)).shape == (2, 8, 5, 4)


def test_bad_input_of_the_halves():
    with pytest.raises(ValueError, match=r"ChannelAttention needs.*\(B, 8, H, W\).*\(2, 6, 5, 4\)"):
        ChannelAttention(8)(torch.randn(2, 6, 5, 4))
    with pytest.raises(ValueError, match=r"SpatialAttention needs.*\(B, C, H, W\).*\(6, 5, 4\)"):
        SpatialAttention()(torch.randn(6, 5, 4))
    with pytest.raises(TypeError, match=r"SpatialAttention needs.*floating-point.*torch.int32"):
        SpatialAttention()(torch.ones(2, 6, 5, 4, dtype=torch.int32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_pixel_has_no_batch_statistics(backend):
    layer = SCAM(8, 4, spatial_norm="batch", backend=backend)
    with pytest.raises(ValueError, match="more than"):
        layer(torch.randn(1, 8, 1, 1))
    assert layer.eval()(torch.randn(1, 8, 1, 1)).shape == (1, 8, 1, 1)
    layer.spatial.bn.running_mean = layer.spatial.bn.running_var = None
    with pytest.raises(ValueError, match="more than"):
        layer(torch.randn(1, 8, 1, 1))


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_triton_is_refused_where_it_cannot_run(case, monkeypatch):
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    x = torch.randn(2, 8, 5, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"triton.*cpu.*collapsed"):
        with_backend(case.layer(), "triton")(x)


def test_functions_check_their_input_too():
    layer = EMAM(8, 4)
    parameters = [p.detach() for p in layer.parameters()]
    x = torch.randn(2, 8, 5, 4)
    assert torch.equal(functional.emam(x, *parameters, groups=4), layer(x))
    with pytest.raises(ValueError, match=r"EMAM needs.*\(B, 16, H, W\).*\(2, 8, 5, 4\)"):
        functional.emam(x, *parameters, groups=8)
    with pytest.raises(ValueError, match="'fast'"):
        functional.emam(x, *parameters, groups=4, backend="fast")
