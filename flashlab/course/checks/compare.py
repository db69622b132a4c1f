"""How answers are compared, and what is said of the first place where they differ."""

import numbers

import numpy as np

TOLERANCE = 1e-9  # float64 sums of a few dozen terms are good to about 1e-14


class Difference(str):
    """What is different, in words; and for a matrix, where: `heat` holds the errors, 0 to 1, in at most 16 × 16 fields."""

    heat = ()


class Explained(str):
    """What is wrong in words that leave nothing to guess: no likely mistake is looked for."""


class Wasteful(str):
    """What was loaded or stored too often for a result that is right: half of the case's points."""


def arrays(names, answer, wanted, note=lambda index: "", tolerance=TOLERANCE, axes=None):
    """ "" when every array of an answer is right, or which is not, where, and by what ratio. One name: the answer is that array itself.

    axes: by name, what an array's axes are called, where they are not rows and columns.
    """
    forgotten = ": is a return missing?" if answer is None else ""
    if len(names) == 1:
        if answer is None or isinstance(answer, tuple):
            return f"return {names[0]} alone; got {f'a tuple of {len(answer)}' if answer else 'None'}{forgotten}"
        answer, wanted = (answer,), (wanted,)
    elif not isinstance(answer, tuple | list) or len(answer) != len(names):
        words = f"{', '.join(names[:-1])} and {names[-1]}"
        got = f"{type(answer).__name__}" + (f" of {len(answer)}" if isinstance(answer, tuple | list) else forgotten)
        return f"return {NUMBERS[len(names)]} things, {words}; got {got}"
    for name, got, want in zip(names, answer, wanted, strict=True):
        difference = _array(name, got, want, note, tolerance, (axes or {}).get(name))
        if difference:
            return difference
    return ""


def number(answer, want, unit=""):
    """ "" when a number is right, or both and their ratio."""
    if getattr(answer, "ndim", None) == 0:  # of NumPy or torch
        answer = answer.item()
    if not isinstance(answer, numbers.Real) or isinstance(answer, bool):
        return f"return a number; got {type(answer).__name__}"
    if np.isclose(answer, want, rtol=TOLERANCE, atol=0):
        return ""
    whole = isinstance(want, int) and float(answer).is_integer()
    answer, digits = (int(answer), ",") if whole else (answer, ".6g")
    text = f"you have {answer:{digits}}{unit}, expected {want:{digits}}{unit}"
    ratio = f"{answer / want:.4g}" if want and answer / want > 0 else "1"
    return text + (f"; the ratio is {ratio}" if ratio != "1" else "")


NUMBERS = {2: "two", 3: "three", 4: "four"}


def _array(name, got, want, note, tolerance, axes=None):
    try:
        kind = np.asarray(got).dtype
        if kind.kind not in "fiub":
            return f"{name} is made of {kind.name}, expected numbers"
        got = np.asarray(got, dtype=float)
    except (TypeError, ValueError, RuntimeError):
        return f"{name} is a {type(got).__name__}, expected an array of numbers"
    if got.shape != want.shape:
        return f"{name} has shape {got.shape}, expected {want.shape}"
    wrong = np.argwhere(~np.isclose(got, want, rtol=tolerance, atol=tolerance))
    if not len(wrong):
        return ""
    index = tuple(int(n) for n in wrong[0])
    axes = axes or (("row", "column") if len(index) < 3 else ("head", "row", "column"))
    place = ", ".join(f"{axis} {n}" for axis, n in zip(axes, index, strict=False))
    right = want[index] if abs(want[index]) > tolerance else 0.0
    told = f"{got[index] + 0.0:.6g}", f"{right:.6g}"
    text = f"{place}{note(index)}: {name} is {told[0]}, expected {told[1]}"
    if told[0] == told[1]:
        text += f"; they differ by {abs(got[index] - right):.1g}, and at most {tolerance * (1 + abs(right)):.1g} is rounding"
    if kind.itemsize < 8 and tolerance == TOLERANCE and np.allclose(got, want, rtol=1e-4, atol=1e-4):
        return f"{text}. It is {kind.name}, and what came in is float64: stay there"
    with np.errstate(over="ignore"):
        ratio = got[index] / right if right else np.nan
    difference = Difference(text + (f"; the ratio is {ratio:.4g}" if np.isfinite(ratio) and ratio > 0 and abs(ratio - 1) > 1e-3 else ""))
    if got.ndim == 2 and min(got.shape) > 1:
        difference.heat = _heat(got, want, tolerance)
    return difference


def _heat(got, want, tolerance):
    """The largest error of each field of a matrix, on a scale from 0 (right) to 1 (as wrong as anything, or NaN)."""
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        error = np.abs(got - want)
    error[np.isclose(got, want, rtol=tolerance, atol=tolerance)] = 0.0
    largest = error[np.isfinite(error)].max(initial=0.0) or 1.0
    error = np.where(np.isfinite(error), error / largest, 1.0)
    rows, cols = (np.array_split(np.arange(n), min(n, 16)) for n in error.shape)
    return tuple(tuple(float(error[np.ix_(r, c)].max().round(3)) for c in cols) for r in rows)
