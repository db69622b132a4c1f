"""Whether Triton's compiler would take a kernel, asked of its front end alone, which needs no GPU.

The interpreter runs what is Python: `break`, an `m` that begins as a number and becomes a tile, a function of NumPy. The compiler does not.
So who writes kernels on a CPU hears of it there.
"""

import functools
import inspect
import re

import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from flashlab.course.interpreter import all_as, as_imported

TARGET = GPUTarget("cuda", 80, 32)  # which one makes no difference to the front end
TYPES = {torch.float32: "*fp32", torch.int32: "*i32", int: "i32", float: "fp32"}


def refusal(kernel, arguments, constants):
    """What the compiler does not take of kernel[grid](*arguments, **constants), in one line; "" where it takes everything."""
    types = tuple(TYPES[getattr(x, "dtype", type(x))] for x in arguments)
    further = inspect.signature(kernel.fn).parameters
    defaults = {name: x.default for name, x in further.items() if name not in constants and x.default is not inspect.Parameter.empty}
    return _refusal(kernel, types, tuple(sorted((defaults | constants).items())))


@functools.lru_cache(maxsize=64)
def _refusal(kernel, types, constants):
    if not isinstance(kernel, InterpretedFunction):
        return _front_end(kernel, types, constants)
    with as_imported(), all_as(JITFunction, kernel):
        free = vars(tl)
        methods = {name: free[name] for name, _ in inspect.getmembers(tl.tensor) if isinstance(free.get(name), JITFunction)}
        for name, function in methods.items():  # x.sum(…) and the like
            setattr(tl.tensor, name, function)
        return _front_end(JITFunction(kernel.fn), types, constants)


def _front_end(kernel, types, constants):
    signature = dict(zip(kernel.arg_names, types, strict=False)) | {name: "constexpr" for name, _ in constants}
    backend = make_backend(TARGET)
    options, context = backend.parse_options({}), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    try:
        source = ASTSource(kernel, signature, dict(constants))
        source.make_ir(TARGET, options, backend.get_codegen_implementation(options), backend.get_module_map(), context)
    except Exception as error:
        return _in_a_line(error)
    return ""


def _in_a_line(error):
    """The learner's line, and the compiler's reason."""
    while error.__cause__ is not None:  # within a function that the kernel calls
        error = error.__cause__
    told = re.search(r"([^\n]*)\n\s*\^\n(.*)", str(error), re.DOTALL)
    line, reason = told.groups() if told else ("", f"{type(error).__name__}: {error}")
    reason = re.sub(r"""^\w+\((['"])(.*)\1\)$""", r"\2", " ".join(reason.split()))
    advice = next((f". {words}" for part, words in ADVICE.items() if part in reason), "")
    return (f"`{line.strip()}`: {reason}" if line else reason) + advice


ADVICE = {
    "multiple comparison": "`&` binds more tightly than `<`: put each comparison in parentheses",
    "Boolean value of Tensor": "A tile has many truths: in place of `if`, give them to tl.load and tl.store as mask=…",
    "Loop-carried variable": "What a loop carries keeps its shape: begin with a tile, such as tl.full([BLOCK_M], …, tl.float32)",
    "Cannot access global variable": "A constant outside of a kernel is made with tl.constexpr(…); or write it in the kernel",
    "type: Continue": "No round of a loop ends early: mask what is not to count",
    "type: Break": "There is no way out of a loop: let it end where nothing is left to do",
}
