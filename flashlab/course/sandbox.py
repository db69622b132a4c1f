"""What happens inside of a submission's own process: limits before its first cell, and the judge after its last.

A submission is a program of somebody else. It may fill the memory, write without end, start processes, or put functions of its own in the
place of NumPy's or the judge's. What is limited here costs nobody else; what was replaced is put back before the judge begins, and told.
This is not a prison: who must grade people that mean harm puts the whole of `flashlab grade` into a container.
"""

import contextlib
import io
import os
import sys

GIBIBYTES = 16  # of address space: torch alone reserves several
MOST_WRITTEN = 2**28  # bytes of a file
MOST_THREADS = 512  # of all new processes, beside those that this user has already; a process of root is not held by this
WATCHED = ("builtins", "math", "numpy", "numpy.linalg", "torch", "triton", "triton.language", "flashlab")
CHANGING = ("__builtins__", "input")  # Jupyter gives every cell an `input` of its own

_before = {}  # (name of a module or class, name) -> what stood there before the first cell


def enter(lesson):
    """Called before the first cell of a submission."""
    import flashlab.course
    from flashlab.course import grading, progress

    with contextlib.redirect_stdout(io.StringIO()):
        flashlab.course.setup()
    grading.tasks(lesson)  # all that judging needs is imported now, and cannot be replaced unseen
    flashlab.course.check = flashlab.course.example = lambda *_, **__: None  # judged once, afterwards
    progress.show = progress.download = progress.restore = lambda *_: None  # that is a learner's, and lies elsewhere
    _limit()
    for place, names in _places():
        _before.update({(place, name): value for name, value in names.items()})
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (as long as the process lives)


def leave(number, namespace, seed, token, cases):
    """Judge the task `number` among the functions that a submission has defined, and hand the result to `grade_notebook`."""
    replaced = _put_back()
    from IPython.display import display

    from flashlab.course import extra_cases, grading
    from flashlab.course.checks.task import MIME

    task = grading.tasks(f"{int(number.split('.')[0]):02d}")[number]
    if cases:
        task = extra_cases.added(task, cases)
    result = grading.judge_namespace(task, namespace, seed)
    display({MIME: {"token": token, "result": result.as_dict(), "replaced": replaced}, "text/plain": number}, raw=True)


def _limit():
    _forbid_forks()
    try:
        import resource

        import psutil
        import torch
    except ImportError:  # Windows has no such limits; the time limit holds there too
        return
    limits = {"RLIMIT_FSIZE": MOST_WRITTEN, "RLIMIT_CORE": 0}
    if os.getuid():
        mine = [p.info for p in psutil.process_iter(["uids", "num_threads"]) if p.info["uids"] and p.info["uids"].real == os.getuid()]
        limits["RLIMIT_NPROC"] = sum(info["num_threads"] or 1 for info in mine) + MOST_THREADS
    if not torch.cuda.is_available():  # a GPU's memory is mapped into the same address space
        limits["RLIMIT_AS"] = GIBIBYTES * 2**30
    for name, most in limits.items():
        kind = getattr(resource, name)
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _forbid_forks():
    def hook(event, _):
        if event in ("os.fork", "os.forkpty"):
            raise RuntimeError("a submission may not fork")

    sys.addaudithook(hook)


def _places():
    """(name, {name: value}) of the modules that are watched, and of the course's own classes."""
    for place, module in list(sys.modules.items()):
        if module is None or not (place in WATCHED or place.startswith("flashlab.")):
            continue
        names = {name: value for name, value in vars(module).items() if not name.startswith("_") or place.startswith("flashlab.")}
        yield place, {name: value for name, value in names.items() if name not in CHANGING}
        for name, value in names.items():
            if isinstance(value, type) and value.__module__.startswith("flashlab.course"):
                yield f"{place}.{name}", dict(vars(value))


def _put_back():
    """Put back what a submission has replaced; returns the names."""
    now, replaced = dict(_places()), []
    for (place, name), value in _before.items():
        if place in now and now[place].get(name) is not value:
            module, _, kind = (place, "", "") if place in sys.modules else place.rpartition(".")
            target = getattr(sys.modules[module], kind) if kind else sys.modules[module]
            setattr(target, name, value)
            replaced.append(f"{place}.{name}")
    return replaced
