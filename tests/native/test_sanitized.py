"""The tests of the compiled kernels again, by libraries with AddressSanitizer and UBSan."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from panet_layers.ops.native import build, library

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_kernels_have_no_errors_that_sanitizers_find(tmp_path):
    if reason := library.why_not():
        pytest.skip(f"no compiled kernels: {reason}")
    if build.compiler() is None:
        pytest.skip("needs a C compiler")
    results = build.build(tmp_path, build.SANITIZERS, only=library.isa())
    if any("asan" in error for error in results.values() if error):
        pytest.skip("needs AddressSanitizer's library")
    assert not any(results.values()), results
    environment = {"PANET_LAYERS_LIBRARIES": str(tmp_path), "OMP_NUM_THREADS": "2", **build.sanitizing_environment()}
    # torch's own checks of operators compile code, which is not what is tested here; a read of a guard page, which the
    # tests of these pages try, ends in the sanitizer's words.
    tests = [f"tests/native/test_{name}.py" for name in ("kernels", "shares", "threads", "guard_pages")]
    tests += ["-k", "not opcheck and not page_is_guarded"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=CHECKOUT, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    assert "skipped" not in done.stdout, done.stdout[-3000:]
