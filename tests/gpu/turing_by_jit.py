"""Runs what a T4 would run on a newer GPU: kernels compiled to PTX for sm_75, assembled by the driver, launched by the driver.

As a program it says how much faster the rewritten kernels are than those that Triton makes by itself: python -m tests.gpu.turing_by_jit

Code for an older GPU runs on a newer one, so what the rewritten instructions compute can be judged without a T4. How fast a T4 is cannot.
"""

import contextlib
import ctypes
import functools

import torch

from flashlab import attention
from flashlab.kernels import turing
from tests.compiling import as_if_on, compile_kernel, signature_of

DYNAMIC_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
C_TYPES = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


@contextlib.contextmanager
def on_a_t4():
    """`flashlab.attention` of CUDA tensors as on a T4."""
    torch.cuda.init()
    with as_if_on("sm_75", _launch):
        yield


def _launch(kernel, programs, *arguments, arch=None, num_warps=4, num_stages=3, **constants):
    _use_context_of_torch()
    compiled = compile_kernel("sm_75", kernel, arguments, constants, arch, num_warps=num_warps, num_stages=num_stages)
    function = _function(compiled.asm["ptx"], compiled.metadata.name, compiled.metadata.shared)
    signature, _, _ = signature_of(kernel, arguments, constants)
    values = [x for name, value in zip(kernel.arg_names, arguments, strict=False) for x in _flat(signature[name], value)]
    values += [ctypes.c_void_p(0), ctypes.c_void_p(0)]  # Triton's own scratch memory, which these kernels do not use
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.cast(ctypes.pointer(x), ctypes.c_void_p) for x in values))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    block = (32 * num_warps, 1, 1)
    _check(_driver().cuLaunchKernel(function, programs, 1, 1, *block, compiled.metadata.shared, stream, pointers, None))


def _flat(kind, value):
    """The arguments of a launch that are no constants, one after another, as C has them."""
    if kind == "constexpr":
        return
    if isinstance(kind, tuple):
        for part, x in zip(kind, value, strict=True):
            yield from _flat(part, x)
    elif kind.startswith("*"):
        assert value.data_ptr() % 16 == 0, "compiled for aligned tensors"
        yield ctypes.c_void_p(value.data_ptr())
    else:
        yield C_TYPES[kind](value)


@functools.cache
def _function(ptx, name, shared):
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    _check(_driver().cuModuleLoadData(ctypes.byref(module), ptx.encode()))
    _check(_driver().cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
    _check(_driver().cuFuncSetAttribute(function, DYNAMIC_SHARED_MEMORY, shared))
    return function


def _use_context_of_torch():
    """Every thread has its own current context, and the backward pass runs in a thread of its own."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _check(_driver().cuDeviceGet(ctypes.byref(device), torch.cuda.current_device()))
    _check(_driver().cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    _check(_driver().cuCtxSetCurrent(context))


@functools.cache
def _driver():
    return ctypes.CDLL("libcuda.so.1")


def _check(code):
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise RuntimeError(f"the CUDA driver says: {text.value.decode()}")


def main():
    from triton.testing import do_bench

    query, key, value, grad_out = (torch.randn(1, 8, 2048, 64, dtype=torch.float16, device="cuda", requires_grad=True) for _ in range(4))
    for name, refused in (("tensor cores", []), ("as Triton by itself", ["to compare"])):
        turing._refused[:] = refused
        with on_a_t4():
            torch.autograd.grad(attention(query, key, value), (query, key, value), grad_out)  # assemble before measuring
            graphs = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()  # replays leave the time of compiling and launching out
            with torch.cuda.graph(graphs[0]):
                out = attention(query, key, value)
            with torch.cuda.graph(graphs[1]):
                torch.autograd.grad(out, (query, key, value), grad_out)
        forward, backward = (do_bench(graph.replay, return_mode="median") for graph in graphs)
        print(f"{name}: forward {1e3 * forward:.0f} µs, backward {1e3 * backward:.0f} µs")


if __name__ == "__main__":
    main()
