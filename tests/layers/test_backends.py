"""Choosing a backend: by layer, by block, by process, by environment variable; and what importing costs."""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import panet_layers
from panet_layers import EMAM, SCAM, backends, get_backend, set_backend, use_backend
from panet_layers.backends import resolve_backend
from panet_layers.ops import availability
from panet_layers.ops.emam import autograd as emam_autograd
from panet_layers.ops.emam import reference as emam_reference
from panet_layers.ops.scam import autograd as scam_autograd
from panet_layers.ops.scam import reference as scam_reference
from tests.layers.cases import BACKENDS

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")


@pytest.fixture(autouse=True)
def default_backend():
    before = get_backend()
    set_backend("auto")
    yield
    set_backend(before)


@pytest.fixture
def ran(monkeypatch):
    """The list of backends that ran, in order."""
    calls = []

    def spy(module, name, backend):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *args, **options: calls.append(backend or named(args)) or original(*args, **options)
        )

    def named(args):
        return next(argument for argument in args if isinstance(argument, str))  # the backend

    for module, name in ((emam_autograd, "emam"), (scam_autograd, "scam")):
        spy(module, name, "")
    for module, name in ((emam_reference, "emam"), (scam_reference, "scam")):
        spy(module, name, "reference")
    return calls


LAYERS = pytest.mark.parametrize("build", [EMAM, SCAM])


@LAYERS
def test_auto_takes_kernels_on_the_cpu(build, ran):
    build(8)(torch.randn(2, 8, 5, 4))
    build(8, backend="auto")(torch.randn(2, 8, 5, 4))
    assert ran == [BACKENDS[-1]] * 2


@LAYERS
def test_the_layers_choice_wins(build, ran):
    x = torch.randn(2, 8, 5, 4)
    for process in ("reference", "collapsed", "auto"):
        with use_backend(process):
            build(8, backend="reference")(x)
            build(8, backend="collapsed")(x)
    assert ran == ["reference", "collapsed"] * 3


@LAYERS
def test_the_processs_choice(build, ran):
    x = torch.randn(2, 8, 5, 4)
    layer = build(8)
    for name in ("reference", "collapsed", None):
        set_backend(name)
        assert get_backend() == (name or "auto")
        layer(x)
    assert ran == ["reference", "collapsed", BACKENDS[-1]]


def test_blocks_nest_and_end_with_an_exception():
    with use_backend("reference"):
        with use_backend("collapsed"):
            assert get_backend() == "collapsed"
        assert get_backend() == "reference"
        with pytest.raises(KeyError), use_backend("collapsed"):
            raise KeyError
        assert get_backend() == "reference"
        with pytest.raises(ValueError), use_backend("fast"):
            pass
        assert get_backend() == "reference"
    assert get_backend() == "auto"


@LAYERS
def test_a_named_backend_never_falls_back(build, ran, monkeypatch):
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    x = torch.randn(2, 8, 5, 4)
    with pytest.raises(RuntimeError, match=r"'triton' cannot run: .* cpu tensor"):
        build(8, backend="triton")(x)
    with use_backend("triton"), pytest.raises(RuntimeError, match=r"'triton' cannot run: .* cpu tensor"):
        build(8)(x)
    with use_backend("triton"):
        build(8, backend="reference")(x)
    assert ran == ["reference"]


@LAYERS
def test_a_backend_without_operators_runs_no_other_one(build, monkeypatch):
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, "fourth"))
    for x in (torch.randn(2, 8, 5, 4), torch.randn(2, 8, 5, 4, requires_grad=True)):
        with pytest.raises(KeyError, match="fourth"):
            build(8, backend="fourth")(x)


class Pretended(NamedTuple):
    """The attributes of an input that decide whether the kernels can run on it."""

    dtype: torch.dtype
    device: torch.device = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (torch.float32, (8, 0), "triton"),
        (torch.float16, (8, 6), "triton"),
        (torch.bfloat16, (9, 0), "triton"),
        (torch.float64, (9, 0), "collapsed"),
        (torch.float32, (7, 5), "collapsed"),
    ],
)
def test_autos_rule_on_a_gpu(dtype, capability, expected, monkeypatch):
    """The fused kernels wherever they can run, except for float64."""
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    major, minor = capability
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major, minor=minor))
    assert resolve_backend(None, Pretended(dtype)) == resolve_backend("auto", Pretended(dtype)) == expected
    if capability == (7, 5):
        with pytest.raises(RuntimeError, match=r"capability 8\.0 .* has 7\.5"):
            resolve_backend("triton", Pretended(dtype))
    else:
        assert resolve_backend("triton", Pretended(dtype)) == "triton"


@pytest.mark.parametrize(
    ("version", "reason"),
    [(None, "triton is not installed"), ((3, 3), r"needs triton 3\.4 or later.* and triton 3\.3 is installed")],
)
def test_autos_rule_without_a_triton_that_has_what_the_kernels_need(version, reason, monkeypatch):
    monkeypatch.setattr(availability, "TRITON_VERSION", version)
    capable = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: capable)
    for interpreting in (False, True):
        monkeypatch.setattr(availability, "INTERPRETING", interpreting)
        assert resolve_backend(None, Pretended(torch.float32)) == "collapsed"
        with pytest.raises(RuntimeError, match=reason):
            resolve_backend("triton", Pretended(torch.float32))


@pytest.mark.parametrize(
    ("capabilities", "hip", "reason"),
    [
        ([], None, "it needs an NVIDIA GPU, and torch finds none"),
        ([(9, 0)], "6.4", "it needs an NVIDIA GPU, and torch finds none"),
        ([(7, 5)], None, "it needs compute capability 8.0 (Ampere) or later, and cuda:0 has 7.5"),
        ([(7, 5), (8, 6)], None, None),
    ],
)
def test_whether_triton_is_available(capabilities, hip, reason, monkeypatch):
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capabilities))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    devices = [SimpleNamespace(major=major, minor=minor) for major, minor in capabilities]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: devices[device.index])
    assert panet_layers.available_backends()["triton"] == reason


def test_tritons_version_is_read_without_importing_it():
    triton = pytest.importorskip("triton")
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    assert version == availability.TRITON_VERSION


@pytest.mark.parametrize(("name", "device"), [("ROCm", "cuda"), ("mps", "mps"), ("xpu", "xpu")])
def test_autos_rule_on_other_devices(name, device, monkeypatch):
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    monkeypatch.setattr(torch.version, "hip", "6.4" if name == "ROCm" else None)
    x = Pretended(torch.float32, torch.device(device))
    assert resolve_backend(None, x) == "collapsed"
    with pytest.raises(RuntimeError, match=f"needs an NVIDIA GPU, and the input is a {name} tensor"):
        resolve_backend("triton", x)


def python(code, **environment):
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=120)


def test_interpreting_agrees_with_triton(monkeypatch):
    triton = pytest.importorskip("triton")
    if not hasattr(triton, "knobs"):
        pytest.skip("needs triton.knobs")
    try:
        for value in ("", "0", "1", "True", "on", "no", "false", "2"):
            monkeypatch.setenv("TRITON_INTERPRET", value)
            assert triton.knobs.runtime.interpret == importlib.reload(availability).INTERPRETING, value
    finally:
        monkeypatch.undo()
        importlib.reload(availability)


@pytest.mark.parametrize(("value", "expected"), [("reference", "reference"), ("", "auto")])
def test_environment_variable(value, expected):
    done = python("import panet_layers; print(panet_layers.get_backend())", PANET_LAYERS_BACKEND=value)
    assert done.stdout.strip() == expected, done.stderr


def test_wrong_environment_variable_is_named():
    done = python("import panet_layers", PANET_LAYERS_BACKEND="fast")
    assert done.returncode != 0
    message = done.stderr.strip().splitlines()[-1]
    assert "PANET_LAYERS_BACKEND" in message and "'fast'" in message and "'collapsed'" in message


def test_importing_the_layers_is_light():
    code = """
import sys, torch, einops
einops.rearrange(torch.ones(1), "a -> a")  # some versions of einops import torch's compiler here
def refuse(*_, **__): raise AssertionError("CUDA was asked")
for name in ("is_available", "device_count", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, refuse)
before = set(sys.modules)
import panet_layers
panet_layers.EMAM(8)(torch.randn(1, 8, 4, 4)).sum().backward()
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(sorted(new & {"timm", "triton", "torchvision", "huggingface_hub", "safetensors"}))
"""
    done = python(code)
    assert done.stdout.strip() == "[]", done.stderr


def test_version_is_a_release():
    assert all(part.isdigit() for part in panet_layers.__version__.split(".")[:2])
