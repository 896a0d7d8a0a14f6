"""Examples of the fuzz tests: what hypothesis draws, and the layer, input and gradient that an example stands for."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.layers.cases import Case, EmamCase, ScamCase
from tests.layers.inputs import LAYOUTS

FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Example(NamedTuple):
    """One call of a layer, forward and backward. Failures print it as code that builds it again."""

    case: Case
    dtype: str
    parameter_dtype: str
    values: str  # of the input
    exponent: int  # the input is multiplied by ten to this power
    grad_values: str
    grad_exponent: int
    weights: str  # the parameters' values
    layout: str
    grad_layout: str
    trained: str  # what requires a gradient
    chunk_bytes: int
    small_bytes: int
    formulas: bool  # small inputs take the plain formulas, as they do for users
    seed: int

    def layer(self) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "EMAM", UserWarning)  # one channel in a group
            layer = self.case.layer(self.seed, dtype=torch.float64)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            for name, parameter in layer.named_parameters():
                changed = WEIGHTS[self.weights](parameter)
                if self.weights == "matched" and name in READ_THE_INPUT:
                    changed = changed * 10.0 ** (-self.exponent - 4 * (self.values == "offset"))
                # Numbers that a cast to a wider dtype does not change, in float16's range.
                parameter.copy_(changed.clamp(-6e4, 6e4).to(torch.bfloat16))
        for parameter in layer.parameters():
            parameter.requires_grad_(self._requires_grad(generator))
        return layer.to(FLOATS[self.parameter_dtype])

    def tensors(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """The input, which may require a gradient, and the output's gradient."""
        case, dtype = self.case, FLOATS[self.dtype]
        generator = torch.Generator().manual_seed(self.seed + 1)
        shape = (case.batch, case.channels, case.height, case.width)
        kinds = (self.values, self.exponent, self.layout), (self.grad_values, self.grad_exponent, self.grad_layout)
        drawn = []
        for values, exponent, layout in kinds:
            t = VALUES[values](torch.randn(shape, generator=generator, dtype=torch.float64), generator, dtype)
            t = (t * 10.0**exponent).to(device, dtype)
            drawn.append(ARRANGED[layout](t) if t.numel() else t)
        x, grad = drawn
        return x.requires_grad_(self.trained in ("all", "input", "some")), grad

    def _requires_grad(self, generator: torch.Generator) -> bool:
        if self.trained == "some":
            return bool(torch.rand((), generator=generator) < 0.5)
        return self.trained in ("all", "parameters")


def _at_some(value: float):
    """Values with this one in up to three places."""

    def change(x: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        if x.numel():
            x.view(-1)[torch.randint(x.numel(), (3,), generator=generator)] = value
        return x

    return change


VALUES = {
    "normal": lambda x, generator, dtype: x,
    "rounded": lambda x, generator, dtype: x.round(),  # with many ties
    "relu": lambda x, generator, dtype: x.relu(),
    "constant": lambda x, generator, dtype: torch.full_like(x, 0.7),
    "zero": lambda x, generator, dtype: torch.zeros_like(x),
    "signed zeros": lambda x, generator, dtype: torch.where(x < 0.5, x.sign() * 0, x),
    "offset": lambda x, generator, dtype: x + 1e4,
    "huge pixel": _at_some(1e6),
    "denormal": lambda x, generator, dtype: x * torch.finfo(dtype).smallest_normal / 4,
    "nan": _at_some(math.nan),
    "inf": _at_some(math.inf),
    "-inf": _at_some(-math.inf),
}
NON_FINITE = ("nan", "inf", "-inf")
WEIGHTS = {
    "matched": lambda p: p,  # to the size of the input, so that gates are neither closed nor open
    "normal": lambda p: p,
    "zero": torch.zeros_like,  # all gates half open, all ties kept
    "large": lambda p: p * 8,  # gates almost closed or open
    "tiny": lambda p: p * 2.0**-12,
}
READ_THE_INPUT = ("conv1x1.weight", "conv3x3.weight", "channel.fc1.weight", "spatial.conv.weight")
# How often each is drawn.
OF_INPUTS = dict.fromkeys(VALUES, 1) | {
    "normal": 6,
    "rounded": 3,
    "offset": 3,
    "relu": 2,
    "huge pixel": 2,
    "signed zeros": 2,
}
OF_GRADIENTS = dict.fromkeys(VALUES, 1) | {"normal": 12}
OF_WEIGHTS = dict.fromkeys(WEIGHTS, 1) | {"matched": 8}
BATCHES = {2: 4, 1: 3, 3: 2, 4: 2, 0: 1}
TRAINED = {"all": 8, "input": 1, "parameters": 1, "some": 1, "none": 1}

ARRANGED = {
    **LAYOUTS,
    "odd offset": lambda x: torch.cat([x.new_zeros(3), x.flatten()])[3:].view(x.shape),
    "expanded from one": lambda x: x.flatten()[-1].expand(x.shape),  # as the gradient of a sum is
    "expanded channels": lambda x: x[:, :1].expand(x.shape),
}


def often(weights: dict) -> st.SearchStrategy:
    """Each of these as often as its number says: most examples should be such that a wrong result shows."""
    return st.sampled_from([value for value, weight in weights.items() for _ in range(weight)])


@st.composite
def sizes(draw, longest: int) -> tuple[int, int, int, int]:
    """Batch, channels, height and width of small, thin and larger maps; the larger ones have few channels."""
    short, long = st.integers(1, 12), st.integers(1, longest)
    height, width = draw(st.tuples(short, short) | st.tuples(st.just(1), long) | st.tuples(long, long))
    if draw(st.booleans()):
        height, width = width, height
    return draw(often(BATCHES)), draw(short if height * width > 200 else short | long), height, width


@st.composite
def emam_cases(draw, longest: int) -> EmamCase:
    batch, channels, height, width = draw(sizes(longest))
    in_a_group = draw(st.integers(1, channels))
    groups = channels // in_a_group
    return EmamCase(batch, groups * in_a_group, groups, height, width)


@st.composite
def scam_cases(draw, longest: int) -> ScamCase:
    batch, channels, height, width = draw(sizes(longest))
    case = ScamCase(batch, channels, draw(st.integers(1, 16)), height, width)
    norm = draw(st.sampled_from([None, "batch"]))
    # A single pixel has no variance, and batch normalisation refuses it.
    training = draw(st.booleans()) and not (norm and batch * height * width == 1)
    return case._replace(
        kernel_size=draw(st.sampled_from([1, 3, 7])), mlp_bias=draw(st.booleans()), norm=norm, training=training
    )


def _exponents(dtype: str, values: str) -> st.SearchStrategy[int]:
    """Powers of ten that leave numbers in the dtype's range."""
    if values in ("denormal", *NON_FINITE):
        return st.just(0)
    if dtype == "float16":
        return st.integers(-6, 0) if values in ("offset", "huge pixel") else st.integers(-6, 3)
    return st.sampled_from([0, 0, 0, 0, 0, 0, 0, -30, -20, -10, -4, -1, 1, 2, 4, 8, 15, 20, 30])


@st.composite
def examples(draw, cases: st.SearchStrategy[Case], dtypes: tuple[str, ...]) -> Example:
    dtype = draw(st.sampled_from(dtypes))
    # Nothing is wide enough to judge float64's own denormals by.
    left_out = {"denormal": 0} if dtype == "float64" else {}
    values, grad_values = draw(often(OF_INPUTS | left_out)), draw(often(OF_GRADIENTS | left_out))
    layouts = st.sampled_from(sorted(ARRANGED))
    return Example(
        case=draw(cases),
        dtype=dtype,
        parameter_dtype=draw(st.sampled_from([dtype, dtype, *FLOATS])),
        values=values,
        exponent=draw(_exponents(dtype, values)),
        grad_values=grad_values,
        grad_exponent=draw(_exponents(dtype, grad_values)),
        weights=draw(often(OF_WEIGHTS)),
        layout=draw(layouts),
        grad_layout=draw(layouts),
        trained=draw(often(TRAINED)),
        chunk_bytes=draw(st.sampled_from([16 << 20, 1, 3000, 20_000])),
        small_bytes=draw(st.sampled_from([1 << 20, 0])),
        formulas=draw(st.sampled_from([False, False, False, True])),
        seed=draw(st.integers(0, 2**16)),
    )
