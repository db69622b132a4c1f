"""Every kernel compiles for GPUs that are not here, fits their shared memory and keeps its registers. Runs without the interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")  # no build for macOS

SPILL_LIMIT = 1100  # bytes a thread; benchmarks/compiled.md has what each kernel spills

COMPILE = """
import sys
from tests.compiling import SHARED_LIMIT, compile_odd_head_dims, compile_table

target, spill_limit, everything = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "everything"
for dtype, head_dim, variant, compiled in compile_table(target, everything):
    what = (target, str(dtype), head_dim, variant, compiled)
    assert compiled.shared <= SHARED_LIMIT[target] * 1024, what
    assert everything or compiled.spilled <= spill_limit, what
    assert not compiled.unwritten, what
    print(*what)
    if (target, str(dtype)) == ("sm_75", "torch.float16") and head_dim <= 128 and compiled.kernel != "delta":
        assert compiled.tensor_core_products > 0 and compiled.spilled == 0 and compiled.scalar_products == 0, what
# Every day where products read their operands from shared memory by descriptor, and where a kernel is rewritten; the rest in test-long.
for head_dim, value_dim, compiled in compile_odd_head_dims(target) if everything or target in ("sm_75", "sm_90") else ():
    what = (target, "float16", head_dim, value_dim, compiled)
    assert compiled.shared <= SHARED_LIMIT[target] * 1024, what
    assert not compiled.unwritten, what
"""


DECODE = """
import sys
from tests.compiling import SHARED_LIMIT, compile_decoding

target = sys.argv[1]
for *what, compiled in compile_decoding(target, sys.argv[3] == "everything"):
    assert compiled.shared <= SHARED_LIMIT[target] * 1024, (target, *what, compiled)
    assert not compiled.unwritten, (target, *what, compiled)
    assert compiled.spilled <= int(sys.argv[2]), (target, *what, compiled)
    print(target, *what, compiled)
"""


BY_HAND = """
import sys
from tests.compiling import SHARED_LIMIT, compile_by_hand

FUSED = {(64, "full"): 136, (64, "causal"): 248, (64, "window"): 248, (128, "full"): 24, (128, "causal"): 144, (128, "window"): 144}
SHAPED = {("forward", 64): 176, ("forward", 128): 8, ("fused", 64): 288, ("fused", 128): 152}  # bytes, these too
for *what, compiled in compile_by_hand(sys.argv[3] == "everything"):
    assert compiled.shared <= SHARED_LIMIT["sm_90"] * 1024, (*what, compiled)
    _, head_dim, variant = what
    plain = FUSED[head_dim, variant.split(",")[0]] if compiled.kernel == "fused" else int(sys.argv[2])
    most = SHAPED[compiled.kernel, head_dim] if "ALiBi" in variant else plain
    assert compiled.spilled <= most, (*what, compiled)
    assert not compiled.unwritten and not compiled.alone and not compiled.idle and compiled.tensor_core_products > 0, (*what, compiled)
    print("compiled", *what, compiled)
"""


NUMBER = """
import torch
from flashlab.kernels.forward import forward
from flashlab.spec import Spec
from tests.compiling import as_if_on, collecting, odd_distance

query = torch.empty(1, 1, 64, 64, dtype=torch.float16)
try:
    with as_if_on("sm_90", collecting([], "sm_90")):
        forward(query, query, query, Spec(0.1, mask_mod=odd_distance))
except Exception as error:
    while error.__cause__ is not None:
        error = error.__cause__
    print(error.error_message)
"""


def compile_all(target, what, script=COMPILE, spill_limit=SPILL_LIMIT, **variables):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"} | variables
    arguments = [sys.executable, "-c", script, target, str(spill_limit), what]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-500:]
    return result.stdout.splitlines()


def test_an_arrival_that_speaks_for_others_unasked_is_found():
    from tests.compiling import arrivals_alone

    read, meet, arrive = "\tld.shared.b32 \t%r1, [%r2];", "\tbar.sync \t0, 128;", "\t@%p1 mbarrier.arrive.shared::cta.b64 _, [%r3];"
    assert arrivals_alone("\n".join((read, meet, "\t// begin inline asm", arrive, meet, arrive))) == 0
    assert arrivals_alone("\n".join((meet, read, arrive, meet, "\t// bar.sync 0", read, arrive))) == 2


def test_a_barrier_that_nobody_uses_is_found():
    from tests.compiling import idle_barriers

    room = "    {} = ttg.local_alloc : () -> !ttg.memdesc<2x1xi64, #shared, #smem, mutable>"
    made, given = "    %v = ttg.memdesc_index %full[%c0] : x", "    ttg.warp_specialize(%tile, %full, %scale)"
    assert idle_barriers("\n".join((room.format("%full"), made, given))) == 0
    assert idle_barriers("\n".join((room.format("%full"), room.format("%empty"), made, given))) == 1


def test_a_register_that_nothing_has_written_is_found():
    """As ptxas 12.8 wrote it: UR18 is read at 0x1240, and no instruction before has set it."""
    from tests.compiling import unwritten_registers

    code = ["ULDC.64 UR16, c[0x0][0x208]", "@P1 LDG.E.U16 R37, desc[UR16][R12.64]", "UIADD3 UR4, UR17, 0x1000, URZ"]
    wrong = "UIADD3 UR18, UP0, UR18, 0x20, URZ"
    right = "USGXT.U32 UR18, UR4, 0xe"

    def sass(*lines):
        return "".join(f"        /*{16 * n:04x}*/                   {line} ;\n" for n, line in enumerate(lines))

    assert unwritten_registers(sass(*code, wrong)) == [wrong]
    assert unwritten_registers(sass(*code, right, wrong)) == []


def test_a_mask_mod_that_gives_a_number_is_refused_in_words():
    assert compile_all("sm_90", "one", NUMBER) == ["mask_mod gives a number: end it with a comparison, as in `x != 0`"]


TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "gfx942")


# Every day one GPU of each kind: a T4, whose products are written by hand; Hopper, whose products run beside the rest; AMD.
DAILY = ("sm_75", "sm_90", "gfx942")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", [target if target in DAILY else pytest.param(target, marks=pytest.mark.long) for target in TARGETS])
def test_every_kernel_compiles_fits_and_keeps_its_registers(target):
    assert len(compile_all(target, "plain")) == 3 * 3 * 6  # dtypes × head dims × (forward twice, delta, dkdv, dq, mask_gradient)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_compiles_with_every_feature(target):
    assert len(compile_all(target, "everything")) == 3 * 3 * (6 * 4 + 2)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", ["one", pytest.param("everything", marks=pytest.mark.long)])
@pytest.mark.parametrize("target", [target if target in DAILY else pytest.param(target, marks=pytest.mark.long) for target in TARGETS])
def test_decoding_compiles_fits_and_keeps_its_registers(target, what):
    calls = 9 if what == "everything" else 1  # dtypes × head dims
    wheres = 4 if target in ("sm_89", "sm_90", "sm_100", "sm_120") else 3  # older ones and AMD's have no conversion of that fp8
    assert len(compile_all(target, what, DECODE)) == calls * wheres * 4  # append, rotate, decode, combine


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("what", ["one", pytest.param("everything", marks=pytest.mark.long)])
def test_what_is_scheduled_by_hand_compiles_and_nothing_waits_in_line(what, tmp_path):
    """ptxas tells in notes that are hidden otherwise where it lets each product wait for the one before: C7510 and what follows."""
    lines = compile_all("sm_90", what, BY_HAND, spill_limit=0, TRITON_DUMP_PTXAS_LOG="1", TRITON_CACHE_DIR=str(tmp_path))
    kernels = 2 * 3  # forward, and backward in turns and in any order, of two head dims
    assert sum(line.startswith("compiled") for line in lines) == (2 if what == "everything" else 1) * 4 * kernels
    assert any("ptxas info" in line for line in lines) and not any("C75" in line for line in lines)
