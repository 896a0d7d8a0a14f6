"""Each kind of fault is found in a small program that has it, and not in the program without it."""

import pytest
import torch

from tests.emulator import library
from tests.emulator.findings import FAULTS, KINDS
from tests.emulator.running import Options
from tests.emulator.small_programs import launch

pytestmark = [  # slow: g++ compiles the machine first
    pytest.mark.slow,
    pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not())),
]

ADDRESS = "shl.b32 %r1, %r0, 2; mov.u32 %r2, dynamic; add.u32 %r3, %r2, %r1;\n"  # %r3: a word for each thread
STORE = ADDRESS + "st.shared.u32 [%r3], %r0;\n"
NEXT = "xor.b32 %r4, %r1, {}; add.u32 %r4, %r4, %r2;\n"  # %r4: another thread's word
LOAD = "ld.shared.u32 %r5, [%r4]; st.global.u32 [%q1], %r5;\n"
TO_FIRST = "ld.param.u64 %q2, [small_param_1];\n"
SMALL_STEP = "ld.global.f32 %f0, [%q0]; mov.b32 %r5, %f0;\n"
BARRIER, OF_WARP = "bar.sync 0;\n", "bar.warp.sync -1;\n"
COPY = ADDRESS + "cp.async.ca.shared.global [%r3], [%q0], 4;\n"

# A faulty program, what it shows, the same one mended; threads and blocks.
CASES = {
    "a load behind a tensor": ("ld.global.u32 %r1, [%q0+4];", "OUT_OF_BOUNDS", "ld.global.u32 %r1, [%q0];", 32, 1),
    "a store behind shared memory": (STORE.replace("[%r3]", "[%r3+132]"), "OUT_OF_BOUNDS", STORE, 32, 1),
    "an odd address": ("ld.global.u16 %h0, [%q0+1];", "MISALIGNED", "ld.global.u16 %h0, [%q0+2];", 32, 1),
    "a read of what nothing wrote": (
        STORE + "@%p0 st.shared.u32 [%r3], %r0;" + "ld.shared.u32 %r5, [%r2+128];",
        "UNINITIALISED",
        STORE + "st.shared.u32 [%r3+128], %r0;" + BARRIER + "ld.shared.u32 %r5, [%r2+128];",
        32,
        1,
    ),
    "a copy that nothing waits for": (
        COPY + BARRIER + NEXT.format(64) + LOAD,
        "UNINITIALISED",
        COPY + "cp.async.wait_all;\n" + BARRIER + NEXT.format(64) + LOAD,
        64,
        1,
    ),
    "blocks that store to one place": (
        "mov.u32 %r1, %ctaid.x; add.u32 %r1, %r1, 64; shl.b32 %r1, %r1, 24; st.global.u32 [%q1], %r1;",
        "RACE_OF_BLOCKS",
        "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 0; @%p0 st.global.u32 [%q1], %r1;",
        32,
        2,
    ),
    "another warp's word": (
        STORE + NEXT.format(128) + LOAD,
        "RACE_OF_WARPS",
        STORE + BARRIER + NEXT.format(128) + LOAD,
        64,
        1,
    ),
    "a barrier of one warp holds back no other": (
        STORE + OF_WARP + NEXT.format(128) + LOAD,
        "RACE_OF_WARPS",
        STORE + BARRIER + NEXT.format(128) + LOAD,
        64,
        1,
    ),
    "another lane's word": (
        STORE + NEXT.format(4) + LOAD,
        "RACE_OF_LANES",
        STORE + OF_WARP + NEXT.format(4) + LOAD,
        32,
        1,
    ),
    "lanes that store to one place": (
        TO_FIRST + "add.u32 %r1, %r0, 64; shl.b32 %r1, %r1, 24; st.global.u32 [%q2], %r1;",
        "CONFLICTING_STORES",
        TO_FIRST + "setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%q2], %r0;",
        32,
        1,
    ),
    "lanes that store nearly the same": (
        TO_FIRST + SMALL_STEP + "st.global.u32 [%q2], %r5;",
        "NEAR_STORES",
        TO_FIRST + SMALL_STEP + "st.global.u32 [%q1], %r5;",
        32,
        1,
    ),
    "a store over what others have read": (
        STORE + OF_WARP + "ld.shared.u32 %r5, [%r2];" + "st.shared.u32 [%r3], %r5;",
        "READ_BEFORE_WRITE",
        STORE + OF_WARP + "ld.shared.u32 %r5, [%r2];" + OF_WARP + "st.shared.u32 [%r3], %r5;",
        32,
        1,
    ),
    "a shuffle without some lanes": (
        "setp.lt.u32 %p0, %r0, 16; @%p0 shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1;",
        "INACTIVE_LANE",
        "shfl.sync.bfly.b32 %r1, %r0, 16, 31, -1;",
        32,
        1,
    ),
    "a barrier without some lanes": (
        "setp.lt.u32 %p0, %r0, 16; @%p0 bra END;\nbar.sync 0;\nEND:\n",
        "DIVERGENT_BARRIER",
        "setp.lt.u32 %p0, %r0, 64; @%p0 bra END;\nbar.sync 0;\nEND:\n",
        32,
        1,
    ),
    "a trap": ("trap;", "TRAP", "setp.gt.u32 %p0, %r0, 64; @%p0 trap;", 32, 1),
}


def findings(body, threads, blocks, **options):
    x = (1 + torch.arange(threads) * 2.0**-23).view(torch.int32)
    result = launch(
        body, x, torch.zeros_like(x), threads=threads, blocks=blocks, shared=8 * threads, options=Options(**options)
    )
    assert all(kind in KINDS and result.where(kind) for kind in result.findings)
    return set(result.findings) & set(FAULTS)


@pytest.mark.parametrize("name", CASES)
def test_a_fault_is_found_and_its_mending_too(name):
    faulty, kind, mended, threads, blocks = CASES[name]
    assert kind in findings(faulty, threads, blocks)
    assert findings(mended, threads, blocks) == set()
    assert findings(mended, threads, blocks, reverse=True) == set()


@pytest.mark.parametrize("kind, register", [("f32", "%f"), ("f64", "%d")])
def test_sums_of_two_nan_in_either_order_are_equal(kind, register):
    """Lanes that add what they hold and what another lane holds: copies of one element, whichever NaN that is."""
    a, b, c = (f"{register}{i}" for i in range(3))
    nans = {"f32": ("0f7FC00001", "0fFFC00002"), "f64": ("0d7FF8000000000001", "0dFFF8000000000002")}[kind]
    body = TO_FIRST + "setp.lt.u32 %p0, %r0, 16;" + f"mov.{kind} {a}, {nans[0]}; mov.{kind} {b}, {nans[1]};"
    body += f"selp.{kind} {c}, {a}, {b}, %p0; selp.{kind} {b}, {b}, {a}, %p0; " + "{}" + f"st.global.{kind} [%q2], {c};"
    assert findings(body.format(""), 32, 1) == {"NEAR_STORES"}  # moved, they differ
    assert findings(body.format(f"add.{kind} {c}, {c}, {b};"), 32, 1) == set()


def test_every_kind_of_fault_has_a_program():
    assert {kind for _, kind, *_ in CASES.values()} == set(FAULTS)


def test_bounds_are_checked_without_the_check_for_races_too():
    faulty, kind, _, threads, blocks = CASES["a load behind a tensor"]
    assert findings(faulty, threads, blocks, check=False) == {kind}
