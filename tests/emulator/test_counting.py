"""What a launch's counts say: executions, lanes, sectors, bank conflicts, products of matrices."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.emulator import library
from tests.emulator.running import Options
from tests.emulator.small_programs import THREAD, launch, program, text

pytestmark = [  # slow: g++ compiles the machine first
    pytest.mark.slow,
    pytest.mark.skipif(library.why_not() is not None, reason=str(library.why_not())),
]

ROOT = Path(__file__).parents[2]
SHAPES = [((32, 728, 19, 19), 8), ((32, 256, 37, 37), 8), ((32, 64, 147, 147), 8), ((32, 2048, 10, 10), 8)]
SHAPES += [((32, 256, 56, 56), 32)]
COUNTED = Options(check=False, count=2)


def counts_of(body, wanted, threads=32, blocks=1, options=COUNTED):
    """Counts of the instruction whose name starts so."""
    x = torch.zeros(64 * threads, dtype=torch.int32)
    result = launch(body, x, x.clone(), threads=threads, blocks=blocks, shared=1 << 14, options=options)
    (at,) = (i for i, name in enumerate(program(THREAD + body).names) if name.startswith(wanted))
    return {name: int(array[at]) for name, array in result.counts._asdict().items()}, result


def test_executions_are_of_warps_and_lanes_of_threads():
    body = "setp.lt.u32 %p0, %r0, 5; @%p0 ld.global.u32 %r1, [%q0];"
    counts, _ = counts_of(body, "ld.global", threads=64, blocks=3)
    assert counts["executions"] == 6 and counts["lanes"] == 15


@pytest.mark.parametrize(("step", "sectors"), [(4, 4), (8, 8), (32, 32), (0, 1)])
def test_sectors_of_a_load(step, sectors):
    body = f"ld.param.u64 %q2, [small_param_0]; mad.wide.u32 %q2, %r0, {step}, %q2; ld.global.u32 %r1, [%q2];"
    counts, _ = counts_of(body, "ld.global")
    assert counts["transactions"] == counts["distinct"] == sectors and counts["ideal"] == 128


@pytest.mark.parametrize(("step", "wavefronts"), [(4, 1), (8, 2), (128, 32), (0, 1)])
def test_wavefronts_of_shared_memory(step, wavefronts):
    body = f"mul.lo.u32 %r1, %r0, {step}; mov.u32 %r2, dynamic; add.u32 %r2, %r2, %r1; ld.shared.u32 %r3, [%r2];"
    counts, _ = counts_of(body, "ld.shared")
    assert counts["transactions"] == wavefronts and counts["ideal"] == 1


@pytest.mark.parametrize("sample", [1, 2, 7])
def test_where_some_blocks_run_the_last_one_counts_for_itself(sample):
    five_lanes_of_the_last = "mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 99; setp.lt.u32 %p1, %r0, 5;"
    body = f"{five_lanes_of_the_last} and.pred %p0, %p0, %p1; @!%p0 ld.global.u32 %r1, [%q0];"
    counts, result = counts_of(body, "ld.global", blocks=100, options=COUNTED._replace(sample=sample))
    assert result.blocks_run == sample and counts["executions"] == 100
    assert counts["lanes"] == 100 * 32 - (5 if sample > 1 else 0)
    assert (counts["transactions"], counts["ideal"]) == (400, 4 * counts["lanes"])


def test_the_last_table_has_a_line_for_each_shape():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.emulator.counts", "scam", "nhwc", "--blocks", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    head, *lines = done.stdout.split("\n\n")[-1].strip().splitlines()
    assert head.endswith("| forward: sass-threads/el, issue, L1, sum of max, ideal us | backward the same"), done.stderr
    direction = r"(\s+\d+){4}\s+\d+\.\d  launches \d+"
    for line, (shape, groups) in zip(lines, SHAPES, strict=True):
        assert re.fullmatch(rf"{re.escape(str(shape))}\s*G{groups}\s+nhwc \|{direction} \|{direction}", line), line


PRODUCT = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f0, %f1, %f2, %f3}, {%r1, %r1, %r1, %r1}, {%r1, %r1}, "
PRODUCTS = (
    "ld.global.u32 %r1, [%q0]; mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;\n"
    + 1000 * (PRODUCT + "{%f0, %f1, %f2, %f3};\n")
    + "st.global.f32 [%q1], %f0;"
)


def test_a_product_of_matrices_is_one_instruction_and_has_a_rate_of_its_own(tmp_path):
    triton = pytest.importorskip("triton")
    from tests.emulator.emulation import Execution
    from tests.emulator.time_model import CLOCK, MATRIX_RATE, PROCESSORS, cost

    source, binary = tmp_path / "small.ptx", tmp_path / "small.cubin"
    source.write_text(text(THREAD + PRODUCTS))
    subprocess.run([triton.knobs.nvidia.ptxas.path, "-arch=sm_80", str(source), "-o", str(binary)], check=True)
    x, blocks = torch.zeros(32, dtype=torch.int32), 500
    result = launch(PRODUCTS, x, x.clone(), blocks=blocks, options=COUNTED._replace(sample=2))
    execution = Execution("", program(THREAD + PRODUCTS), binary.read_bytes(), blocks, 32, 0, result.counts)
    of = cost(execution)
    assert of.by_class["matrix"] == 1000 * blocks
    assert 1000 * blocks < of.machine < 1100 * blocks
    assert of.matrix == pytest.approx(1000 * blocks * 16 * 8 * 16 / MATRIX_RATE / PROCESSORS / CLOCK * 1e6)
    assert of.longest == of.matrix > of.issue
