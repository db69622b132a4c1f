"""What a kernel needs of a multiprocessor: asked of Triton's compiler, for any NVIDIA GPU, also on a machine without one.

In lessons on a CPU Triton runs in its interpreter and compiles nothing, so the compiler works in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from flashlab.course.steps.fast_forward import Choices


@dataclass(frozen=True)
class Resources:
    """What one program of a compiled kernel takes."""

    shared: int  # bytes of shared memory
    registers: int  # of each thread, 32 bits each
    spilled: int  # bytes of each thread that did not fit its registers, and went to slow memory
    instructions: int  # of the whole kernel
    threads: int

    def programs_at_once(self, gpu):
        """How many fit a multiprocessor of a `flashlab.course.memory.GPU`, and what it is that ends first."""
        limits = {
            "shared memory": (gpu.sram_kib + 1) * 1024 // max(1, self.shared + 1024),  # a GPU keeps 1 KiB a program for itself
            "registers": 65536 // (-(-32 * self.registers // 256) * 256) // (self.threads // 32),  # a warp gets multiples of 256
            "threads": gpu.threads // self.threads,
        }
        first = min(limits, key=limits.get)
        return limits[first], first


@lru_cache
def resources(*choices: Choices, head_dim=64, capability=90, is_causal=False, dtype="fp16"):
    """The Resources of lesson 10's kernel, one for each Choices. capability: 75 for a T4, 80 for an A100, 90 for an H100."""
    call = dict(head_dim=head_dim, capability=capability, is_causal=is_causal, dtype=dtype)
    orders = json.dumps([asdict(one) | call for one in choices])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    answer = subprocess.run([sys.executable, "-m", __name__, orders], capture_output=True, text=True, env=environment, check=False)
    if answer.returncode:
        raise RuntimeError(f"Triton could not compile this for capability {capability}:\n{answer.stderr.strip()[-600:]}")
    return [Resources(**one) for one in json.loads(answer.stdout.splitlines()[-1])]


def _compile(order):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flashlab.course.steps.fast_forward import forward_kernel

    head_dim, capability, is_causal, dtype = (order.pop(name) for name in ("head_dim", "capability", "is_causal", "dtype"))
    options = {name: order.pop(name) for name in ("num_warps", "num_stages")}
    constants = order | dict(IS_CAUSAL=is_causal, D=head_dim, BLOCK_D=max(16, triton.next_power_of_2(head_dim)))
    types = dict.fromkeys(("Q", "K", "V", "Out"), f"*{dtype}") | dict(Lse="*fp32", seqlen_q="i32", seqlen_k="i32", scale="fp32")
    signature = {name: types.get(name, "constexpr") for name in forward_kernel.arg_names}
    numbers = {name: (n,) for n, name in enumerate(forward_kernel.arg_names)}
    aligned = {numbers[name]: [["tt.divisibility", 16]] for name in types if name != "scale"}
    constants = {numbers[name]: value for name, value in constants.items()}
    return triton.compile(
        ASTSource(forward_kernel, signature, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )


def _examine(compiled, threads):
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", "--dump-sass", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"{name}:(\d+)", text).group(1)) for name in ("REG", "STACK", "LOCAL"))
    instructions = len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?!NOP|BRA )[@A-Z]", text))
    return Resources(compiled.metadata.shared, registers, stack + local, instructions, threads)


if __name__ == "__main__":
    print(json.dumps([asdict(_examine(_compile(dict(order)), 32 * order["num_warps"])) for order in json.loads(sys.argv[1])]))
