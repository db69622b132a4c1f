"""Launches a learner's Triton kernel between guards, and counts what it loads and stores.

The judge launches in the interpreter, wherever it runs: so the same mistake is told in the same words on a laptop and on a GPU. Inputs
lie between bands of NaN: whoever reads past an end gets NaN into the result. Outputs lie between bands of a number that nobody computes:
whoever writes past an end leaves a trace, as does who writes into an input. Every load and store is counted, and those that reach even
past the bands never touch memory: there a wild load gives NaN too, and a wild store is not done, and told. What is right in the
interpreter is then shown to Triton's compiler, and on a GPU also compiled and launched: races, layouts and TF32 only show there.
"""

import ast
import contextlib
import functools
import inspect
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from flashlab.course.checks import compare
from flashlab.course.compiler import refusal
from flashlab.course.interpreter import interpreted

GUARD = 4096  # numbers on either side: an index that is off by a tile still lands in it
SENTINEL = -12345.0
NOWHERE = 2**30  # an index that leads out of every buffer
UNWRITTEN = torch.tensor(0x7FC0BEEF, dtype=torch.int32).view(torch.float32)  # of all NaNs one that nobody computes


@dataclass(frozen=True)
class Launched:
    """What became of a launch."""

    outs: tuple  # arrays
    outside: bool  # whether something was written outside of them
    loaded: dict | None  # numbers of each input, each as often as it was loaded; None with a Triton in which nobody can count
    stored: int | None
    past: str  # the input that was loaded past its ends, if one was
    no_other: bool  # whether a mask left something out that has no value, for want of other=
    added: bool  # whether an output was read or added to
    refused: Callable  # what the compiler does not take of the kernel, in words
    on_gpu: Callable | None  # launches once more, on the GPU, and gives its outs; None where there is none


def launch(kernel, grid, inputs, shapes, *numbers, **constants):
    """Run kernel[grid](*inputs, *outs, *numbers, **constants) for NumPy float32 (or int32) inputs, and float32 outputs of these shapes."""
    if not isinstance(kernel, (JITFunction, InterpretedFunction)):
        raise TypeError("write a kernel: a function with @triton.jit, and nothing else, above it")
    if _is_stub(kernel):
        raise NotImplementedError
    if _asks_for_one_truth(kernel):
        raise TypeError("`and` and `or` ask for one truth, and a mask has many: join masks with & and |, each comparison in parentheses")
    inputs = [torch.from_numpy(x) for x in inputs]
    bands, tensors = zip(*(_between(x, torch.nan if x.is_floating_point() else NOWHERE) for x in inputs), strict=True)
    buffers, outs = zip(*(_between(UNWRITTEN.expand(shape), SENTINEL) for shape in shapes), strict=True)
    before = [band.clone() for band in bands]
    named = {name: (band, x) for name, band, x in zip(kernel.arg_names, bands, tensors, strict=False)}
    with interpreted(kernel) as slow, _watched(named, buffers, outs) as seen, _explained(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which the judge puts everywhere
        slow[grid](*tensors, *outs, *numbers, **constants)
    results = tuple(out.numpy().copy() for out in outs)
    for out in outs:
        out.fill_(SENTINEL)
    spoiled = any(not torch.equal(band.view(torch.int32), was.view(torch.int32)) for band, was in zip(bands, before, strict=True))
    outside = seen.wild_stores > 0 or spoiled or any(bool((buffer != SENTINEL).any()) for buffer in buffers)
    counts = (dict(seen.loaded), seen.stored) if seen.counts else (None, None)
    refused = functools.partial(refusal, kernel, (*tensors, *outs, *numbers), constants)
    compiled = isinstance(kernel, JITFunction) and torch.cuda.is_available()
    on_gpu = functools.partial(_launch_on_gpu, kernel, grid, inputs, shapes, numbers, constants) if compiled else None
    return Launched(results, outside, *counts, seen.past, seen.no_other, seen.added, refused, on_gpu)


def _launch_on_gpu(kernel, grid, inputs, shapes, numbers, constants):
    outs = [UNWRITTEN.expand(shape).cuda() for shape in shapes]
    kernel[grid](*(x.cuda() for x in inputs), *outs, *numbers, **constants)
    return tuple(out.cpu().numpy() for out in outs)


@contextlib.contextmanager
def _explained():
    """Says what to do where Triton's own words are of its inside."""
    try:
        yield
    except Exception as error:
        told = next((advice for words, advice in ADVICE.items() if any(part in str(error) for part in words)), None)
        if told is None:
            raise
        raise TypeError(f"{error.__cause__ or error}. {told}") from error


TILES = (
    "A tile is no list and no array: use Triton's functions of it, such as tl.max(x, axis=0) and tl.where. And if you wrote X[…]: X is a "
    "pointer. Read with tl.load(X + offsets, mask=…), write with tl.store(Out + offsets, …)"
)
ADVICE = {
    ("is not iterable", "item assignment", "unsupported tensor index", "not subscriptable"): TILES,
    (
        "to a Python scalar",
    ): "A tile is no number: use Triton's functions, such as tl.exp. In place of x[mask] = y, write x = tl.where(mask, y, x)",
    ("truth value",): "A tile is no single truth: in place of `if`, mask the load and the store, or write x = tl.where(mask, y, x)",
    ("attribute 'to_tensor'", "attribute 'scalar'", "__array__", "argument 'out'", "attribute 'type'", "ufunc", "must be Tensor"): (
        "A function of NumPy or torch takes no tile: use Triton's, such as tl.exp and tl.arange"
    ),
    ("invalid operands of type pointer",): (
        "A pointer is an address, and not the numbers there: read them first, x = tl.load(X + offsets, mask=…)"
    ),
    ("arange's arguments",): (
        "Both bounds of tl.arange must be constants: tl.arange(0, BLOCK). Add where the block begins, and mask what is too much"
    ),
    ("if pointer argument is not a block",): "One address cannot take many numbers: store at Out + offsets, an address for each",
    ("must have equal ranks",): (
        "tl.dot takes tiles, with rows and columns: a tile of addresses is A + rows[:, None] * … + columns[None, :]"
    ),
    ("accumulator shape is incompatible",): (
        "What tl.dot adds to is a tile from the beginning, and has the shape of the product: tl.zeros([…, …], tl.float32)"
    ),
    ("required positional argument", "unexpected keyword argument"): (
        "A kernel keeps the arguments that its task gives, in their order. And functions of Triton are called as in "
        "tl.zeros([BLOCK_M, BLOCK_D], tl.float32) and tl.sum(x, axis=1)"
    ),
    ("for @:",): "Number by number is x * y, and a product of matrices tl.dot(x, y)",
    ("must be a power of 2",): "The sides of a tile are powers of two: BLOCK_D, not D, and a mask for what is too much",
    ("must have equal reduction dimensions", "equal reduction"): (
        "The inner sides of a product must agree: (M, K) with (K, N). Which tile is rows × dims, which keys × dims, and which needs .T?"
    ),
    ("make_shape_compatible",): (
        "Shapes that do not fit have met. A number for each row needs a second axis to meet a tile: x[:, None]; one for each column, "
        "x[None, :]. Where both have two axes: is it the tile, the mask or the axis=… that you meant?"
    ),
}


def compare_launched(answer, names, wanted, tolerance, loaded, axes=None):
    """What is different: the numbers first, then what was written outside, then how much was loaded and stored, then the compiler's word.

    names and wanted: the outputs and what belongs into them; loaded: how many numbers of each input are needed, in their order.
    axes: by name, what an output's axes are called, where they are not rows and columns.
    """
    if answer.stored == 0:
        return f"nothing was stored: a kernel returns nothing, and ends with tl.store({names[0]} + …, …, mask=…)"
    difference = _compare_outs(answer, names, wanted, tolerance, axes)
    if difference:
        return difference
    are = f"{names[0]} is right" if len(names) == 1 else "the results are right"
    if answer.outside:
        return f"{are}, but something was written beside: does every edge have its mask in the store?"
    needed = sum(want.size for want in wanted)
    if answer.past:
        words = f"{are}, but {answer.past} is loaded past its end, where anything may lie: which mask is missing in that load?"
        return compare.Wasteful(words)
    counts = []  # (what, how many of them, how many are needed)
    if answer.loaded is not None:
        counts = [
            (f"numbers of {name} were loaded", got, enough) for (name, got), enough in zip(answer.loaded.items(), loaded, strict=True)
        ]
        counts.append(("numbers were stored", answer.stored, needed))
    for words, got, enough in counts:
        if got > enough:
            return compare.Wasteful(f"{are}; {got:,} {words}, and {enough:,} are needed; the ratio is {got / enough:.3g}")
    refused = answer.refused()
    if refused:
        return compare.Explained(f"right in the interpreter, and Triton's compiler refuses it, so that no GPU runs it: {refused}")
    difference = answer.on_gpu and _compare_outs(replace(answer, outs=answer.on_gpu()), names, wanted, tolerance, axes)
    if difference:
        causes = 'a tl.dot without input_precision="ieee", or two programs that write to one place'
        words = f"right in the interpreter, and not when compiled for this GPU: {difference}. What a GPU alone shows: {causes}"
        return compare.Explained(words)
    return ""


def _compare_outs(answer, names, wanted, tolerance, axes):
    for name, out, want in zip(names, answer.outs, wanted, strict=True):
        missing = np.argwhere(np.isnan(out))
        if len(missing):
            first = tuple(missing[0])
            called = (axes or {}).get(name) or (("position",) if want.ndim == 1 else ("row", "column"))
            where = ", ".join(f"{axis} {n}" for axis, n in zip(called, first, strict=True))
            return f"{where}: {name} {_why_nan(out[first], answer)}"
        difference = compare.arrays((name,), out, want, tolerance=tolerance, axes=axes)
        if difference and np.allclose(out, want, rtol=NEARLY, atol=NEARLY):
            return f"{difference}. All of {name} is nearly right: is something float16 or bfloat16 on the way, or was a small number added?"
        if difference:
            return difference if want.ndim > 1 else difference.replace("row ", "position ", 1)
    return ""


NEARLY = 3e-3


def _why_nan(number, answer):
    if number.view(np.int32) == UNWRITTEN.view(torch.int32).item():
        if answer.added:
            return (
                "is NaN: something was added to what lay there before, which is no number. Add up in a tile of your own, and store it once"
            )
        return "was never written: does no program own it, does the store's mask leave it out, or does it step by the wrong number?"
    if answer.past:
        return f"is NaN: {answer.past} is loaded past its end, where NaN lies. Is a mask missing in that load, or the step wrong?"
    if answer.no_other:
        return "is NaN: a load has a mask and no other=, so what the mask leaves out has no value: other=0.0, or what suits"
    return "is NaN, of inf − inf, 0 · inf, or 0 / 0"


def meaning(answer, case):
    """What counts of a launch, to recognise a mistake."""
    told = answer.past, str(answer.no_other), str(answer.added)  # so that of two NaN each has its own cause
    return (*answer.outs, answer.outside, *(answer.loaded or {}).values(), answer.stored or 0, *told)


def _between(x, filling):
    """(the whole buffer, a copy of x in its middle)."""
    buffer = torch.full((x.numel() + 2 * GUARD,), filling, dtype=x.dtype, device=x.device)
    inside = buffer[GUARD : GUARD + x.numel()].view(x.shape)
    return buffer, inside.copy_(x)


@functools.lru_cache(maxsize=256)
def _is_stub(kernel):
    """Whether a kernel is still to be written. Tells who has left that line in."""
    try:
        source = inspect.getsource(kernel.fn)
    except (OSError, TypeError):
        return False
    [function] = ast.parse(textwrap.dedent(source)).body
    body = [statement for statement in function.body if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))]
    raises = [isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node) for node in body]
    if any(raises) and len(body) > 1:
        raise TypeError("the line `raise NotImplementedError` is still in the kernel: delete it")
    return any(raises)


@functools.lru_cache(maxsize=256)
def _asks_for_one_truth(kernel):
    """Whether a kernel joins masks with `and`: the interpreter would drop the first of them, and say nothing."""
    try:
        function = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn)))
    except (OSError, TypeError):
        return False
    in_conditions = {
        id(part) for node in ast.walk(function) if isinstance(node, (ast.If, ast.While, ast.IfExp)) for part in ast.walk(node.test)
    }
    return any(isinstance(node, ast.BoolOp) and id(node) not in in_conditions for node in ast.walk(function))


@dataclass
class _Seen:
    """What the interpreter's loads and stores did."""

    loaded: Counter = field(default_factory=Counter)
    stored: int = 0
    wild_stores: int = 0
    past: str = ""
    no_other: bool = False
    added: bool = False
    counts: bool = True


def _within(pointers, *tensors):
    """Which of the addresses lie in one of these contiguous tensors."""
    size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
    addresses = pointers.data.astype(np.int64)
    ranges = [(x.data_ptr(), x.data_ptr() + x.nbytes) for x in tensors]
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
    """What is `_Seen` while Triton's interpreter runs. No load leaves inputs, their bands and outs; no store outputs, bands included.

    inputs: by name, (bands and all, the tensor between them).
    """
    inside = _inside_of_triton()
    if inside is None:
        yield _Seen(counts=False)
        return
    builder, load, store, add, TensorHandle, np_dtype = inside

    seen = _Seen(loaded=Counter(dict.fromkeys(inputs, 0)))

    def only(mask, where):
        return TensorHandle(mask.data & where, mask.dtype)

    def watched_load(pointers, mask, other, *rest, **named):
        ours = _within(pointers, *outs)
        seen.added |= bool(np.any(mask.data & ours))
        for name, (bands, tensor) in inputs.items():
            here = _within(pointers, bands)
            seen.loaded[name] += int(np.count_nonzero(mask.data & here))
            if not seen.past and np.any(mask.data & here & ~_within(pointers, tensor)):
                seen.past = name
            ours = ours | here
        kind = pointers.get_element_ty()
        nothing = np.zeros(pointers.data.shape, np_dtype(kind))
        if nothing.dtype.kind == "f":
            nothing[:] = np.nan
        if other is None:  # then Triton promises nothing: the interpreter would give 0, and this gives NaN
            other = TensorHandle(nothing, kind)
            seen.no_other |= not bool(np.all(mask.data))
        values = load(pointers, only(mask, ours), other, *rest, **named)
        values.data = np.where(mask.data & ~ours, nothing, values.data)
        return values

    def watched_store(pointers, value, mask, *rest, **named):
        ours = _within(pointers, *outputs)
        seen.stored += int(np.count_nonzero(mask.data))
        seen.wild_stores += int(np.count_nonzero(mask.data & ~ours))
        return store(pointers, value, only(mask, ours), *rest, **named)

    def watched_atomic(operation, pointers, value, mask, *rest, **named):
        seen.stored += int(np.count_nonzero(mask.data))
        seen.added = True
        seen.wild_stores += int(np.count_nonzero(mask.data & ~_within(pointers, *outputs)))
        return add(operation, pointers, value, only(mask, _within(pointers, *outputs)), *rest, **named)

    watched = dict(create_masked_load=watched_load, create_masked_store=watched_store, create_atomic_rmw=watched_atomic)
    vars(builder).update(watched)
    try:
        yield seen
    finally:
        for name in watched:
            delattr(builder, name)
