"""Write benchmarks/compiled.md: what the compiler makes of every kernel, for every GPU, on a machine without any of them."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import triton  # noqa: E402

from tests.compiling import SHARED_LIMIT, compile_by_hand, compile_decoding, compile_table  # noqa: E402

HEAD = """# What every kernel compiles to

Written by `make compiled` with Triton {version} on a CPU. Compiled is not run: of these GPUs only sm_90 has run the kernels. AMD's gfx942
(MI300) has not, nor has a T4 (sm_75). Shared memory in KiB of what one program may use, registers of a thread, and the bytes that a
thread spills to slow memory because registers ran out; `tests/library/test_compile.py` holds each to its limit. Causal calls, dq
where nothing is hidden, the gradient of a mask, and decoding with every feature from a cache that is whole, in pages, or in fp8.
By hand: what is scheduled by hand for Hopper GPUs (`flashlab/kernels/hopper`).

| GPU | dtype | head dim up to | call | kernel | shared | registers | spilled |
|---|---|---|---|---|---|---|---|
"""


def row(target, dtype, head_dim, variant, compiled):
    name, shared = str(dtype).removeprefix("torch."), f"{compiled.shared / 1024:.0f} of {SHARED_LIMIT[target]}"
    cells = (target, name, head_dim, variant, compiled.kernel, shared, compiled.registers, compiled.spilled)
    return f"| {' | '.join(map(str, cells))} |\n"


def decoding_rows(target):
    return [row(target, *found) for found in compile_decoding(target, everything=True) if found[-1].kernel == "decode"]


def main():
    lines = [HEAD.format(version=triton.__version__)]
    for target in SHARED_LIMIT:
        # without delta: one small tile, the same everywhere
        lines += [row(target, *found) for found in compile_table(target) if found[-1].kernel != "delta"]
        lines += decoding_rows(target)
        if target == "sm_90":
            lines += [
                row(target, dtype, head_dim, f"{variant}, by hand", found) for dtype, head_dim, variant, found in compile_by_hand(True)
            ]
        print(target, flush=True)
    path = ROOT / "benchmarks" / "compiled.md"
    path.write_text("".join(lines), encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
