"""Examples in exercises: a call that a learner may change, and what comes of it."""

import inspect
import itertools
import traceback

import numpy as np

MOST_YIELDED = 100  # of a generator, which may never end


def example(function, *arguments, grid=None, **constants):
    """Print a call of your function, and what it gives. For a kernel, which is launched over `grid`, what it has stored.

    Lists become arrays (of a kernel, in float32; an array stays what it is). A tuple of ints stands for an output of that shape, full of
    NaN until your function has written it. Of a generator, what it yields is shown.
    Whatever goes wrong is said in a line, and nothing is raised.
    """
    written = getattr(function, "fn", function)  # a kernel's function
    name = getattr(written, "__name__", str(function))
    try:
        if grid is None:
            print(f"{name}({', '.join(map(_told, arguments))})")
            found = _call(function, arguments)
        else:
            print(f"{name}[{grid}]({', '.join(map(_told, arguments))})")
            found = _launch(function, grid, arguments, constants)
    except NotImplementedError as error:
        print(f"→ {_unfinished(error) or name} is not written yet")
    except Exception as error:
        print(f"→ {type(error).__name__}: {error}")
    else:
        for words, value in found:
            lead = f"→ {words} = " if words else "→ "
            print(lead + _shown(value).replace("\n", "\n" + " " * len(lead)))


def _call(function, arguments):
    """(name, value) of what a function returns, and of the outputs that it was given."""
    given = [_as_array(argument) for argument in arguments]
    outputs = [(name, x) for name, x, was in zip(_names(function), given, arguments, strict=False) if _is_shape(was)]
    returned = function(*given)
    if inspect.isgenerator(returned):
        returned = list(itertools.islice(returned, MOST_YIELDED))
    if returned is None and outputs:
        return outputs
    apart = isinstance(returned, tuple) and any(isinstance(part, np.ndarray) for part in returned)
    return [("", value) for value in (returned if apart else (returned,))] + outputs


def _launch(kernel, grid, arguments, constants):
    """(name, value) of a kernel's outputs: launched as its check does it, between guards."""
    from flashlab.course.checks import guarded

    inputs = [np.array(x, dtype=np.float32) if isinstance(x, list) else x for x in arguments if isinstance(x, (list, np.ndarray))]
    shapes = [x for x in arguments if _is_shape(x)]
    numbers = [x for x in arguments if not isinstance(x, (list, tuple, np.ndarray))]
    launched = guarded.launch(kernel, grid, inputs, shapes, *numbers, **constants)
    names = _names(getattr(kernel, "fn", kernel))[len(inputs) :]
    return list(zip(names, launched.outs, strict=False))


def _names(function):
    return list(inspect.signature(function).parameters)


def _unfinished(error):
    """The function in which an unwritten part was reached; "" where it is not a Python function of its own."""
    name = traceback.extract_tb(error.__traceback__)[-1].name
    return "" if name in ("launch", "<module>") else name


def _is_shape(x):
    return isinstance(x, tuple) and all(isinstance(length, int) for length in x)


def _as_array(x):
    if _is_shape(x):
        return np.full(x, np.nan)
    if isinstance(x, tuple) and isinstance(x[0], list):
        return tuple(map(_as_array, x))
    return np.array(x) if isinstance(x, list) and not any(isinstance(part, tuple) for part in x) else x


def _told(x):
    if callable(x):
        return getattr(x, "__name__", str(x))
    return "an output" if _is_shape(x) else str(x)


def _shown(x):
    if x is None:
        return "None: nothing is returned, and nothing is yielded"
    if isinstance(x, tuple):  # a number of NumPy's, within a tuple, would say its type as well
        x = tuple(part.item() if isinstance(part, np.generic) else part for part in x)
    return np.array2string(x, precision=4, suppress_small=True) if isinstance(x, np.ndarray) else str(x)
