"""Launches a learner's Triton kernel between guards, and counts what it loads and stores.

The judge launches in the interpreter, wherever it runs: so the same mistake is told in the same words on a laptop and on a GPU. Inputs
lie between bands of NaN: whoever reads past an end gets NaN into the result. Outputs lie between bands of a number that nobody computes:
whoever writes past an end leaves a trace, as does who writes into an input. Every load and store is counted, and those that reach even
past the bands never touch memory: there a wild load gives NaN too, and a wild store is not done, and told. On a GPU, what is right in
the interpreter is then compiled and launched there as well: races, layouts and TF32 only show there.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from flashlab.course.checks import compare
from flashlab.course.interpreter import interpreted

GUARD = 4096  # numbers on either side: an index that is off by a tile still lands in it
SENTINEL = -12345.0


@dataclass(frozen=True)
class Launched:
    """What became of a launch."""

    outs: tuple  # arrays
    outside: bool  # whether something was written outside of them
    loaded: int | None  # numbers, each as often as it was loaded; None with a Triton in which nobody can count
    stored: int | None
    on_gpu: Callable | None  # launches once more, on the GPU, and gives its outs; None where there is none


class Variant:
    """A kernel with some of its constants chosen: launched as the kernel is."""

    def __init__(self, kernel, **constants):
        self.kernel, self.constants = kernel, constants

    def __call__(self, *arguments):
        raise TypeError("a kernel is launched over a grid: kernel[grid](…)")


def launch(kernel, grid, inputs, shapes, *numbers, **constants):
    """Run kernel[grid](*inputs, *outs, *numbers, **constants) for NumPy float32 inputs and outputs of these shapes."""
    if isinstance(kernel, Variant):
        kernel, constants = kernel.kernel, constants | kernel.constants
    if not isinstance(kernel, (JITFunction, InterpretedFunction)):
        raise TypeError("write a kernel: a function with @triton.jit, and nothing else, above it")
    if "raise NotImplementedError" in _source(kernel):
        raise NotImplementedError
    inputs = [torch.from_numpy(x) for x in inputs]
    bands, tensors = zip(*(_between(x, torch.nan) for x in inputs), strict=True)
    buffers, outs = zip(*(_between(torch.full(shape, torch.nan), SENTINEL) for shape in shapes), strict=True)
    before = [band.clone() for band in bands]
    with interpreted(kernel) as slow, _watched(bands, buffers, outs) as seen, _pointers_explained():
        slow[grid](*tensors, *outs, *numbers, **constants)
    results = tuple(out.numpy().copy() for out in outs)
    for out in outs:
        out.fill_(SENTINEL)
    spoiled = any(not torch.equal(band.view(torch.int32), was.view(torch.int32)) for band, was in zip(bands, before, strict=True))
    outside = seen.wild_stores > 0 or spoiled or any(bool((buffer != SENTINEL).any()) for buffer in buffers)
    compiled = isinstance(kernel, JITFunction) and torch.cuda.is_available()
    on_gpu = functools.partial(_launch_on_gpu, kernel, grid, inputs, shapes, numbers, constants) if compiled else None
    return Launched(results, outside, *((seen.loaded, seen.stored) if seen.counts else (None, None)), on_gpu)


def _launch_on_gpu(kernel, grid, inputs, shapes, numbers, constants):
    outs = [torch.full(shape, torch.nan, device="cuda") for shape in shapes]
    kernel[grid](*(x.cuda() for x in inputs), *outs, *numbers, **constants)
    return tuple(out.cpu().numpy() for out in outs)


@contextlib.contextmanager
def _pointers_explained():
    """Says what to do in place of X[offsets], where Triton's own words are of its inside."""
    try:
        yield
    except Exception as error:
        if not any(
            words in str(error) for words in ("is not iterable", "item assignment", "unsupported tensor index", "not subscriptable")
        ):
            raise
        raise TypeError(
            f"{error}. If you wrote X[…]: X is a pointer. Read with tl.load(X + offsets, mask=…), write with tl.store(Out + offsets, …)"
        ) from error


def compare_launched(answer, names, wanted, tolerance, loaded, stored):
    """What is different: the numbers first, then what was written outside, then how much was loaded and stored, then a GPU's numbers."""
    if answer.stored == 0:
        return f"nothing was stored: a kernel returns nothing, and ends with tl.store({names[0]} + …, …, mask=…)"
    difference = _compare_outs(answer.outs, names, wanted, tolerance)
    if difference:
        return difference
    are = f"{names[0]} is right" if len(names) == 1 else "the results are right"
    if answer.outside:
        return f"{are}, but something was written beside: does every edge have its mask in the store?"
    for word, got, needed in (("loaded", answer.loaded, loaded), ("stored", answer.stored, stored)):
        if got is not None and got > needed:
            return compare.Wasteful(f"{are}; {got:,} numbers were {word}, and {needed:,} are needed; the ratio is {got / needed:.3g}")
    difference = answer.on_gpu and _compare_outs(answer.on_gpu(), names, wanted, tolerance)
    if difference:
        causes = 'a tl.dot without input_precision="ieee", or two programs that write to one place'
        return f"right in the interpreter, and not when compiled for this GPU: {difference}. What a GPU alone shows: {causes}"
    return ""


def _compare_outs(outs, names, wanted, tolerance):
    for name, out, want in zip(names, outs, wanted, strict=True):
        missing = np.argwhere(np.isnan(out))
        place = "position" if want.ndim == 1 else "row"
        if len(missing):
            where = f"{place} {missing[0][-want.ndim :][0]}" + (f", column {missing[0][-1]}" if want.ndim > 1 else "")
            return f"{where}: {name} is NaN. Never written? Made of what lies outside of the inputs (NaN)? Or of inf − inf, or 0 / 0?"
        difference = compare.arrays((name,), out, want, tolerance=tolerance)
        if difference:
            return difference if want.ndim > 1 else difference.replace("row ", "position ", 1)
    return ""


def meaning(answer, case):
    """What counts of a launch, to recognise a mistake."""
    return (*answer.outs, answer.outside, answer.loaded or 0, answer.stored or 0)


def _between(x, filling):
    """(the whole buffer, a copy of x in its middle)."""
    buffer = torch.full((x.numel() + 2 * GUARD,), filling, dtype=x.dtype, device=x.device)
    inside = buffer[GUARD : GUARD + x.numel()].view(x.shape)
    return buffer, inside.copy_(x)


def _source(kernel):
    function = getattr(kernel, "fn", kernel)
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return ""


class _Seen:
    """What the interpreter's loads and stores did."""

    def __init__(self, counts=True):
        self.counts, self.loaded, self.stored, self.wild_stores = counts, 0, 0, 0


def _within(pointers, buffers):
    """Which of the addresses lie in one of the buffers."""
    size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    addresses = pointers.data.astype(np.int64)
    ranges = [(buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes) for buffer in buffers]
    return np.logical_or.reduce([(begin <= addresses) & (addresses <= end - size) for begin, end in ranges])


def _inside_of_triton():
    """What watching takes of the interpreter, of which nothing is promised. None where it looks otherwise: the bands remain."""
    try:
        from triton.runtime.interpreter import TensorHandle, _get_np_dtype, interpreter_builder

        ways = [getattr(interpreter_builder, f"create_{name}") for name in ("masked_load", "masked_store", "atomic_rmw")]
    except (ImportError, AttributeError):
        return None
    return interpreter_builder, *ways, TensorHandle, _get_np_dtype


@contextlib.contextmanager
def _watched(inputs, outputs, outs):
    """What is `_Seen` while Triton's interpreter runs. No load leaves inputs, their bands and outs; no store outputs, bands included."""
    inside = _inside_of_triton()
    if inside is None:
        yield _Seen(counts=False)
        return
    builder, load, store, add, TensorHandle, np_dtype = inside

    seen = _Seen()

    def only(mask, where):
        return TensorHandle(mask.data & where, mask.dtype)

    def watched_load(pointers, mask, other, *rest, **named):
        seen.loaded += int(np.count_nonzero(mask.data))
        kind, ours = pointers.get_element_ty(), _within(pointers, (*inputs, *outs))
        nothing = np.zeros(pointers.data.shape, np_dtype(kind))
        if nothing.dtype.kind == "f":
            nothing[:] = np.nan
        if other is None:  # then Triton promises nothing: the interpreter would give 0, and this gives NaN
            other = TensorHandle(nothing, kind)
        values = load(pointers, only(mask, ours), other, *rest, **named)
        values.data = np.where(mask.data & ~ours, nothing, values.data)
        return values

    def watched_store(pointers, value, mask, *rest, **named):
        ours = _within(pointers, outputs)
        seen.stored += int(np.count_nonzero(mask.data))
        seen.wild_stores += int(np.count_nonzero(mask.data & ~ours))
        return store(pointers, value, only(mask, ours), *rest, **named)

    def watched_atomic(operation, pointers, value, mask, *rest, **named):
        ours = _within(pointers, outputs)
        seen.loaded += int(np.count_nonzero(mask.data))
        seen.stored += int(np.count_nonzero(mask.data))
        seen.wild_stores += int(np.count_nonzero(mask.data & ~ours))
        return add(operation, pointers, value, only(mask, ours), *rest, **named)

    watched = dict(create_masked_load=watched_load, create_masked_store=watched_store, create_atomic_rmw=watched_atomic)
    vars(builder).update(watched)
    try:
        yield seen
    finally:
        for name in watched:
            delattr(builder, name)
