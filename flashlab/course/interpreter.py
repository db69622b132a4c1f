"""Triton's interpreter: mended where it stumbles, and for kernels that Triton would compile, too; and the way back.

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
    """The kernel, to be launched once in the interpreter with tensors on the CPU. One that is interpreted anyway comes back as it is."""
    mend()
    if not isinstance(kernel, JITFunction):
        with _patched_once():
            yield kernel
        return
    mangle_type(0)  # at its first call Triton imports more of itself, which wants to find compiled functions
    with all_as(InterpretedFunction, kernel), _patched_once():
        for name, method in _of(JITFunction, dict(inspect.getmembers(tl.tensor))):  # x.sum(…) and the like
            setattr(tl.tensor, name, functools.partialmethod(InterpretedFunction(method.fn)))
        yield InterpretedFunction(kernel.fn)


@contextlib.contextmanager
def _patched_once():
    """Triton prepares its language anew for every call within a kernel, such as each tl.sum: here once a launch."""
    patch, prepared = getattr(interpreter, "_patch_lang", None), set()

    def once(function):
        if id(function.__globals__) not in prepared:
            prepared.add(id(function.__globals__))
            return patch(function)

    if patch is None:
        yield
        return
    interpreter._patch_lang = once
    try:
        yield
    finally:
        interpreter._patch_lang = patch


@contextlib.contextmanager
def all_as(kind, kernel):
    """Every function that the kernel may call, Triton's own too, is of this kind: `InterpretedFunction` or `JITFunction`."""
    other = JITFunction if kind is InterpretedFunction else InterpretedFunction
    namespaces = {}
    for names in (vars(tl), kernel.fn.__globals__):
        _collect(other, names, namespaces)
    with _as_it_was(namespaces.values()):
        for names in namespaces.values():
            names.update({name: kind(function.fn) for name, function in _of(other, names)})
        yield


def _of(kind, names):
    return [(name, function) for name, function in names.items() if isinstance(function, kind)]


def _collect(kind, names, namespaces):
    """The namespaces, by their identity, in which functions of this kind are found that may be called from this one."""
    if id(names) in namespaces:
        return
    namespaces[id(names)] = names
    for _, function in _of(kind, names):
        _collect(kind, function.fn.__globals__, namespaces)


@contextlib.contextmanager
def _as_it_was(namespaces):
    """Afterwards every name means what it did: the interpreter forgets to put back what it changes for a function within a function."""
    before = _snapshot(namespaces)
    try:
        yield
    finally:
        _put_back(*before)


@contextlib.contextmanager
def as_imported():
    """Triton's language as it was before any kernel has run in the interpreter."""
    with _as_it_was(()):
        _put_back(*AS_IMPORTED)
        yield


def _snapshot(namespaces=()):
    spaces = [(names, dict(names)) for names in (*namespaces, vars(tl), vars(tl.core), vars(tl.math))]
    classes = [(kind, dict(vars(kind))) for kind in vars(tl.core).values() if inspect.isclass(kind) and kind.__module__ == tl.core.__name__]
    return spaces, classes


def _put_back(spaces, classes):
    for names, before in spaces:  # what the interpreter added for itself stays: functions that it has rewritten look for it there
        names.update(before)
    for kind, before in classes:
        for name, now in dict(vars(kind)).items():
            if name not in before:
                delattr(kind, name)
            elif now is not before[name]:
                setattr(kind, name, before[name])


AS_IMPORTED = _snapshot()
