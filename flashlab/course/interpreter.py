"""Triton's interpreter: mended where it stumbles, and for kernels that Triton would compile, too.

In the interpreter loads and stores can be watched, also on a machine with a GPU. Triton decides between compiler and interpreter once,
when a function is decorated. Where it has chosen the compiler, a kernel and every jitted function that it may call, Triton's own too, are
replaced by interpreted ones for as long as a launch lasts.
"""

import contextlib
import functools
import inspect

import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, mangle_type

MENDED = "_takes_one_number_out_of_an_array"


def mend():
    """Make `range(0, n, BLOCK)` run with Triton 3.6 and NumPy 2.4 or newer, which no longer takes an array of one number for a number."""
    patch = getattr(interpreter, "_patch_lang_tensor", None)
    if patch is None or hasattr(patch, MENDED):
        return

    def mended(tensor, *scope):
        patch(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    setattr(mended, MENDED, True)
    interpreter._patch_lang_tensor = mended


@contextlib.contextmanager
def interpreted(kernel):
    """The kernel, to be launched in the interpreter with tensors on the CPU. One that is interpreted anyway comes back as it is."""
    mend()
    if not isinstance(kernel, JITFunction):
        yield kernel
        return
    mangle_type(0)  # at its first call Triton imports more of itself, which wants to find compiled functions
    namespaces = {}
    _collect(vars(tl), namespaces)
    _collect(kernel.fn.__globals__, namespaces)
    with _as_it_was(namespaces.values()):
        for names in namespaces.values():
            names.update({name: _interpreted(function) for name, function in _jitted(names)})
        for name, method in _jitted(dict(inspect.getmembers(tl.tensor))):  # x.sum(…) and the like
            setattr(tl.tensor, name, functools.partialmethod(_interpreted(method)))
        yield _interpreted(kernel)


def _interpreted(function):
    return InterpretedFunction(function.fn)


def _jitted(names):
    return [(name, function) for name, function in names.items() if isinstance(function, JITFunction)]


def _collect(names, namespaces):
    """The namespaces, by their identity, in which functions are found that may be called from this one."""
    if id(names) in namespaces:
        return
    namespaces[id(names)] = names
    for _, function in _jitted(names):
        _collect(function.fn.__globals__, namespaces)


@contextlib.contextmanager
def _as_it_was(namespaces):
    """Afterwards every name means what it did: the interpreter forgets to put back what it changes for a function within a function."""
    spaces = [(names, dict(names)) for names in (*namespaces, vars(tl.core), vars(tl.math))]
    classes = [(kind, dict(vars(kind))) for kind in vars(tl.core).values() if inspect.isclass(kind) and kind.__module__ == tl.core.__name__]
    try:
        yield
    finally:
        for names, before in spaces:  # what it added for itself stays: functions that it has rewritten look for it there
            names.update(before)
        for kind, before in classes:
            for name, now in dict(vars(kind)).items():
                if name not in before:
                    delattr(kind, name)
                elif now is not before[name]:
                    setattr(kind, name, before[name])
