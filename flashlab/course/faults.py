"""Plant a fault: a copy of a module with one place changed. What a check is worth shows when there is something to catch."""

import inspect
import itertools
import linecache
import types

_numbers = itertools.count(1)


def plant(module, right, wrong):
    """A copy of `module` in which the text `right`, found exactly once, reads `wrong`. The module itself stays as it is."""
    source = inspect.getsource(module)
    if source.count(right) != 1:
        raise ValueError(f"{right!r} stands {source.count(right)} times in {module.__name__}: give a piece of it that stands there once.")
    source = source.replace(right, wrong)
    filename = f"<fault {next(_numbers)} in {module.__name__}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)  # Triton reads the source of its kernels
    copy = types.ModuleType(module.__name__)
    exec(compile(source, filename, "exec"), vars(copy))
    return copy
