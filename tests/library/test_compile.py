"""Every kernel compiles for GPUs that are not here, fits their shared memory and keeps its registers. Runs without the interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")  # no build for macOS

SPILL_LIMIT = 1100  # bytes a thread; benchmarks/compiled.md has what each kernel spills

COMPILE = """
import sys
from tests.compiling import SHARED_LIMIT, compile_table

target, spill_limit, everything = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "everything"
for dtype, head_dim, variant, compiled in compile_table(target, everything):
    what = (target, str(dtype), head_dim, variant, compiled)
    assert compiled.shared <= SHARED_LIMIT[target] * 1024, what
    assert everything or compiled.spilled <= spill_limit, what
    print(*what)
"""


def compile_all(target, what):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = [sys.executable, "-c", COMPILE, target, str(SPILL_LIMIT), what]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-500:]
    return result.stdout.splitlines()


TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_fits_and_keeps_its_registers(target):
    assert len(compile_all(target, "plain")) == 3 * 3 * 6  # dtypes × head dims × (forward twice, delta, dkdv, dq, mask_gradient)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_with_every_feature(target):
    assert len(compile_all(target, "everything")) == 3 * 3 * (6 * 4 + 2)
