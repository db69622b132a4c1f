"""Known mistakes, each written as it is made: some words of the right answer in place of others."""

import inspect
import linecache

from flashlab.course.checks.task import Mistake


def mistake(answer, name, sentence, hint, *changes, common=False):
    """A `Mistake` in the right answer: some words of it in place of others, see `edited`."""
    return Mistake(name, sentence, hint, edited(answer, *changes), common)


def edited(answer, *changes):
    """The answer, a function or a kernel, as it would be with other words in its source.

    changes: old words and new, in turn. Wherever the old ones are found, the new ones are put.
    """
    function = getattr(answer, "fn", answer)
    source = inspect.getsource(function)
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        if old not in source:
            raise ValueError(f"changes: {old!r} is not in {function.__name__}: a mistake is made where the right answer has these words.")
        source = source.replace(old, new)
    file = f"<{function.__name__} {len(linecache.cache)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)  # Triton asks for a kernel's source
    namespace = dict(function.__globals__)
    exec(compile(source, file, "exec"), namespace)
    return namespace[function.__name__]
