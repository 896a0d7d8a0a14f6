"""Instructions give what PTX defines: numbers, 16-bit floats, bits, exchanges between lanes, products of matrices."""

import pytest
import torch

from tests.emulator import library
from tests.emulator.running import Options, run
from tests.emulator.small_programs import THREAD, launch, program

pytestmark = [  # slow: g++ compiles the machine first
    pytest.mark.slow,
    pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not())),
]

NAN, INF = float("nan"), float("inf")


def of_float32(body, values):
    """%f1 after the body, for %f0 in each lane."""
    x = torch.zeros(32)
    x[: len(values)] = torch.tensor(values)
    out = torch.full((32,), 7.0)
    launch(f"ld.global.f32 %f0, [%q0];\n{body}\nst.global.f32 [%q1], %f1;", x, out)
    return out[: len(values)]


def of_int32(body, values):
    """%r2 after the body, for %r1 in each lane."""
    x = torch.zeros(32, dtype=torch.int32)
    x[: len(values)] = torch.tensor(values, dtype=torch.int64).to(torch.int32)
    out = torch.full((32,), 7, dtype=torch.int32)
    launch(f"ld.global.u32 %r1, [%q0];\n{body}\nst.global.u32 [%q1], %r2;", x, out)
    return out[: len(values)].tolist()


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_16_bit_floats_are_rounded_as_torch_does(kind, dtype):
    values = [1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 65520.0, 1e-7, 3e38, -0.0, INF, -INF, 0.1]
    values += torch.randn(20, generator=torch.Generator().manual_seed(0)).tolist()
    found = of_float32(f"cvt.rn.{kind}.f32 %h0, %f0; cvt.f32.{kind} %f1, %h0;", values)
    assert torch.equal(found, torch.tensor(values).to(dtype).float())
    assert of_float32(f"cvt.rn.{kind}.f32 %h0, %f0; cvt.f32.{kind} %f1, %h0;", [NAN]).isnan().all()


def test_fma_rounds_once_and_flushing_takes_subnormal_numbers_for_zero():
    x = 1 + 2**-12
    rounded_once = torch.tensor([x], dtype=torch.float64).square().sub(1 + 2**-11).float()
    assert rounded_once.item() == 2**-24
    less = "mov.f32 %f2, 0fBF801000;"  # -(1 + 2**-11)
    assert of_float32(f"{less} fma.rn.f32 %f1, %f0, %f0, %f2;", [x]) == rounded_once
    assert of_float32(f"{less} mul.f32 %f1, %f0, %f0; add.f32 %f1, %f1, %f2;", [x]) == 0
    assert of_float32("add.f32 %f1, %f0, %f0;", [1e-39]).item() > 0
    assert of_float32("add.ftz.f32 %f1, %f0, %f0;", [1e-39]).item() == 0


def test_maxima_drop_nan_and_comparisons_are_ordered():
    assert of_float32("mov.f32 %f2, 0f40000000; max.f32 %f1, %f0, %f2;", [NAN, 1, 3]).tolist() == [2, 2, 3]
    chosen = "mov.f32 %f2, 0f40000000; mov.f32 %f3, 0f00000000; setp.{} %p0, %f0, %f2; selp.f32 %f1, %f2, %f3, %p0;"
    assert of_float32(chosen.format("lt.f32"), [NAN, 1, 3]).tolist() == [0, 2, 0]
    assert of_float32(chosen.format("ltu.f32"), [NAN, 1, 3]).tolist() == [2, 2, 0]
    assert of_float32(chosen.format("neu.f32"), [NAN, 2, 3]).tolist() == [2, 0, 2]


NANS = torch.tensor([0x7FC00000, -0x400000, 0x7F800123, -1], dtype=torch.int32).view(torch.float32).tolist()
COMPUTING = {
    "float32": ["add.f32 %f1, %f0, %f0;", "sub.ftz.f32 %f1, %f0, %f0;", "fma.rn.f32 %f1, %f0, %f0, %f0;"],
    "others of float32": ["neg.f32 %f1, %f0;", "max.f32 %f1, %f0, %f0;", "ex2.approx.ftz.f32 %f1, %f0;"],
    "float16": ["cvt.rn.f16.f32 %h0, %f0; cvt.u32.u16 %r1, %h0; mov.b32 %f1, %r1;"],
    "pairs": [f"cvt.rn.{kind}x2.f32 %r1, %f0, %f0; mov.b32 %f1, %r1;" for kind in ("f16", "bf16")],
    "float64": ["cvt.f64.f32 %d0, %f0; add.f64 %d1, %d0, %d0; mov.b64 {%r2, %r1}, %d1; mov.b32 %f1, %r1;"],
}
ITS_NAN = {"float16": 0x7FFF, "pairs": 0x7FFF7FFF, "float64": 0xFFF80000}  # of float64 the upper half


@pytest.mark.parametrize("kind", COMPUTING)
def test_what_computes_has_one_nan_and_moves_keep_its_bits(kind):
    expected = torch.tensor([ITS_NAN.get(kind, 0x7FFFFFFF)]).to(torch.int32)
    for body in COMPUTING[kind]:
        assert of_float32(body, NANS).view(torch.int32).tolist() == expected.tolist() * len(NANS), body
    kept = torch.tensor(NANS).view(torch.int32)
    assert torch.equal(of_float32("mov.f32 %f1, %f0;", NANS).view(torch.int32), kept)


def test_integers_shift_divide_and_compare_by_their_sign():
    assert of_int32("shr.s32 %r2, %r1, 40;", [-8, 8]) == [-1, 0]
    assert of_int32("shr.u32 %r2, %r1, 28;", [-1]) == [15]
    assert of_int32("shl.b32 %r2, %r1, 32;", [5]) == [0]
    assert of_int32("div.s32 %r2, %r1, 3;", [-7, 7]) == [-2, 2]
    assert of_int32("rem.s32 %r2, %r1, 3;", [-7, 7]) == [-1, 1]
    assert of_int32("mul.hi.u32 %r2, %r1, -1;", [2]) == [1]
    assert of_int32("setp.lt.u32 %p0, %r1, 5; selp.u32 %r2, 1, 0, %p0;", [-1, 4]) == [0, 1]
    assert of_int32("setp.lt.s32 %p0, %r1, 5; selp.u32 %r2, 1, 0, %p0;", [-1, 4]) == [1, 1]


def test_bits_are_taken_and_set_as_ptx_defines_them():
    x = 0x12345678
    assert of_int32("bfe.u32 %r2, %r1, 8, 8;", [x]) == [0x56]
    assert of_int32("bfe.s32 %r2, %r1, 4, 4;", [x, 0xF0]) == [7, -1]
    assert of_int32("mov.b64 %q2, {%r1, %r1}; bfe.u64 %q2, %q2, 28, 12; mov.b64 {%r2, %r3}, %q2;", [x]) == [0x781]
    assert of_int32("mov.u32 %r3, 255; bfi.b32 %r2, %r3, %r1, 4, 8;", [x]) == [0x12345FF8]
    wide = "mov.u32 %r3, 255; mov.b64 %q2, {%r1, %r1}; mov.b64 %q3, {%r3, %r3};"
    assert of_int32(f"{wide} bfi.b64 %q2, %q3, %q2, 4, 32; mov.b64 {{%r2, %r3}}, %q2;", [x]) == [0x00000FF8]
    assert of_int32(f"{wide} bfi.b64 %q2, %q3, %q2, 4, 32; mov.b64 {{%r3, %r2}}, %q2;", [x]) == [0x12345670]
    assert of_int32("prmt.b32 %r2, %r1, 0, 0x4012;", [x]) == [0x00785634]
    assert of_int32("lop3.b32 %r2, %r1, 0xff, 3, 0x6a;", [x]) == [(x & 0xFF) ^ 3]
    assert of_int32("clz.b32 %r2, %r1;", [1, 0]) == [31, 32]


def test_shuffles_read_the_lane_that_ptx_names():
    lanes = list(range(32))
    assert of_int32("shfl.sync.bfly.b32 %r2, %r1, 16, 31, -1;", lanes) == [i ^ 16 for i in lanes]
    assert of_int32("shfl.sync.up.b32 %r2, %r1, 1, 0, -1;", lanes) == [0, *range(31)]
    assert of_int32("shfl.sync.down.b32 %r2, %r1, 2, 31, -1;", lanes) == [*range(2, 32), 30, 31]
    assert of_int32("shfl.sync.idx.b32 %r2, %r1, 3, 31, -1;", lanes) == [3] * 32
    assert of_int32("redux.sync.add.s32 %r2, %r1, -1;", lanes) == [sum(lanes)] * 32


@pytest.mark.parametrize("deep", [8, 16])
@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_mma_is_a_product_of_matrices(kind, dtype, deep):
    """A row-major, B column-major, C and D row-major, two neighbours of a row in a register or a pair of registers."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(shape, generator=generator) for shape in ((16, deep), (deep, 8), (16, 8)))
    a, b = a.to(dtype), b.to(dtype)
    c[3, 5] = NAN
    of_a, of_b = (4, 2) if deep == 16 else (2, 1)
    load = "mov.u32 %r0, %tid.x; shr.u32 %r1, %r0, 2; and.b32 %r2, %r0, 3;"
    for i in range(3):
        load += f"ld.param.u64 %q{i}, [small_param_{i}];"
    for r in range(of_a):  # rows g and g + 8, columns 2 t and 2 t + 8
        load += f"add.u32 %r3, %r1, {8 * (r % 2)}; mul.lo.u32 %r3, %r3, {deep}; mad.lo.u32 %r3, %r2, 2, %r3;"
        load += f"add.u32 %r3, %r3, {8 * (r // 2)}; mad.wide.u32 %q4, %r3, 2, %q0; ld.global.b32 %r{10 + r}, [%q4];"
    for r in range(of_b):
        load += f"mul.lo.u32 %r3, %r1, {deep}; mad.lo.u32 %r3, %r2, 2, %r3; add.u32 %r3, %r3, {8 * r};"
        load += f"mad.wide.u32 %q4, %r3, 2, %q1; ld.global.b32 %r{20 + r}, [%q4];"
    for r in range(2):
        load += f"add.u32 %r3, %r1, {8 * r}; mul.lo.u32 %r3, %r3, 8; mad.lo.u32 %r3, %r2, 2, %r3;"
        load += f"mad.wide.u32 %q{5 + r}, %r3, 4, %q2; ld.global.v2.f32 {{%f{2 * r}, %f{2 * r + 1}}}, [%q{5 + r}];"
    listed = lambda first, n: "{" + ", ".join(f"%r{first + i}" for i in range(n)) + "}"  # noqa: E731
    multiply = f"mma.sync.aligned.m16n8k{deep}.row.col.f32.{kind}.{kind}.f32 {{%f4, %f5, %f6, %f7}}, "
    multiply += f"{listed(10, of_a)}, {listed(20, of_b)}, {{%f0, %f1, %f2, %f3}};"
    store = "st.global.v2.f32 [%q5], {%f4, %f5}; st.global.v2.f32 [%q6], {%f6, %f7};"
    multiplying = program(f"{load}\n{multiply}\n{store}", ("u64", "u64", "u64"))
    out = c.clone()
    assert run(multiplying, [a, b.T.contiguous(), out], [1], 32).findings == {}
    assert torch.allclose(out.double(), a.double() @ b.double() + c.double(), rtol=1e-6, atol=1e-6, equal_nan=True)
    assert out[3, 5].view(torch.int32) == 0x7FFFFFFF


def test_approximate_instructions_are_off_by_up_to_their_documented_error():
    x = torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.5
    outcomes = []
    for noisy in (False, True):
        out = torch.zeros(32)
        body = "ld.global.f32 %f0, [%q0]; rcp.approx.ftz.f32 %f1, %f0; st.global.f32 [%q1], %f1;"
        launch(body, x, out, options=Options(noisy=noisy))
        outcomes.append(out)
    exact, noisy = outcomes
    assert torch.equal(exact, 1 / x) and not torch.equal(noisy, exact)
    assert (noisy.view(torch.int32) - exact.view(torch.int32)).abs().max() == 1


def test_lanes_part_at_a_branch_and_meet_again():
    body = "setp.lt.s32 %p0, %r1, 3; @%p0 bra SMALL; add.s32 %r2, %r1, 100; bra TOGETHER; SMALL: mov.b32 %r2, %r1;"
    body += "\nTOGETHER:\nredux.sync.add.s32 %r2, %r2, -1;"
    assert of_int32(body.replace("SMALL: ", "\nSMALL:\n"), [*range(32)]) == [sum(range(32)) + 100 * 29] * 32


@pytest.mark.parametrize(
    "body",
    ["tanh.approx.f32 %f0, %f1;", "ld.local.b32 %r1, [%r2];", "bar.sync 1, 64;", "vote.sync.any.pred %p0, %p1, -1;"],
)
def test_what_is_not_known_raises_with_its_text(body):
    with pytest.raises(NotImplementedError, match=f"small: '{body.split()[0]}"):
        program(THREAD + body)
