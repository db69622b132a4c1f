"""Every kernel compiles for GPUs that are not here, and its tiles fit their shared memory. Runs without the interpreter."""

import os
import subprocess
import sys

import pytest

SHARED_LIMIT = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KiB one program may use
GRIDS = {  # head dims, dtypes, causal
    "short": ((128,), ("float16",), (True,)),
    "whole": ((64, 128), ("float16", "bfloat16", "float32"), (False, True)),
}

COMPILE = """
import itertools, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from flashlab.kernels import backward, configs, forward

capability, limit, (head_dims, dtypes, causals) = int(sys.argv[1]), int(sys.argv[2]) * 1024, eval(sys.argv[3])
TYPES = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32"}
KERNELS = {
    "forward": (forward.forward_kernel, ["Q", "K", "V", "Out"], ["Lse"]),
    "dkdv": (backward.dkdv_kernel, ["Q", "K", "V", "GradOut", "GradK", "GradV"], ["Lse", "Delta"]),
    "dq": (backward.dq_kernel, ["Q", "K", "V", "GradOut", "GradQ"], ["Lse", "Delta"]),
}
STRIDES = ("i64", "i64", "i32", "constexpr")

def signature_of(kernel, tensors, float32s, dtype, constants):
    signature, values = {}, {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name], values[name] = "constexpr", constants[name]
        elif name in tensors:
            signature[name] = TYPES[dtype]
        elif name in float32s:
            signature[name] = "*fp32"
        elif name.endswith("strides"):
            signature[name] = STRIDES
            values[name] = (None, None, None, 1)
        elif name == "shape":
            signature[name] = ("i32", "i32", "i32")
        else:
            signature[name] = "fp32"
    return signature, values

for (name, (kernel, tensors, float32s)), head_dim, dtype, causal in itertools.product(
    KERNELS.items(), head_dims, [getattr(torch, name) for name in dtypes], causals
):
    if capability < 80 and dtype == torch.bfloat16:
        continue
    config = configs.lookup(name, (capability // 10, capability % 10), dtype, head_dim)
    options = config.launch_arguments(head_dim)
    launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
    constants = dict(options, IS_CAUSAL=causal, GROUP=1, HEAD_DIM=head_dim, PRECISION="ieee")
    signature, values = signature_of(kernel, tensors, float32s, dtype, constants)
    flat = {}
    for position, argument in enumerate(kernel.arg_names):
        value = values.get(argument)
        if isinstance(value, tuple):
            flat.update({(position, n): v for n, v in enumerate(value) if v is not None})
        elif argument in values:
            flat[(position,)] = value
    compiled = triton.compile(ASTSource(kernel, signature, flat), target=GPUTarget("cuda", capability, 32), options=launch)
    used = compiled.metadata.shared
    assert used <= limit, f"{name} D={head_dim} {dtype} causal={causal}: {used} bytes of shared memory, sm_{capability} has {limit}"
    if capability == 90 and dtype != torch.float32:
        assert "wgmma" in compiled.asm["ptx"], f"{name} D={head_dim} {dtype}: no warpgroup matrix products"
    print(name, head_dim, dtype, causal, used)
"""


def compile_grid(capability, grid):
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    arguments = [sys.executable, "-c", COMPILE, str(capability), str(SHARED_LIMIT[capability]), repr(GRIDS[grid])]
    result = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-500:]


@pytest.mark.parametrize("capability", (75, 80, 89, 90))
def test_kernels_compile_and_fit(capability):
    compile_grid(capability, "short")


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capability", SHARED_LIMIT)
def test_every_kernel_compiles_for_every_gpu(capability):
    compile_grid(capability, "whole")
