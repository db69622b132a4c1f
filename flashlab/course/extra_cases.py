"""More cases than the course's own, from a Python file that only the instructor has.

For task 3.1 such a file defines `cases_3_1(rng)`, which returns a list of `flashlab.course.checks.task.Case`.
"""

import re
import runpy
from dataclasses import replace

from flashlab.course.grading import LESSONS, tasks

NAME = re.compile(r"cases_(\d+)_(\d+)")


def added(task, path):
    """The task with the file's cases after its own, if the file has any for it."""
    more = runpy.run_path(str(path)).get("cases_" + task.number.replace(".", "_"))
    return replace(task, cases=lambda rng: [*task.cases(rng), *more(rng)]) if more else task


def examine(path):
    """The numbers of the tasks that the file at `path` has cases for.

    Raises:
        ValueError: it cannot be run, has no cases, or some for a task that does not exist.
    """
    how = "Define, for task 3.1, cases_3_1(rng), which returns a list of Case."
    try:
        found = [NAME.fullmatch(name).groups() for name in runpy.run_path(str(path)) if NAME.fullmatch(name)]
    except Exception as error:
        raise ValueError(f"{path} cannot be run ({type(error).__name__}: {error}). {how}") from error
    if not found:
        raise ValueError(f"{path} has no cases. {how}")
    for lesson, task in found:
        if f"{int(lesson):02d}" not in LESSONS or f"{lesson}.{task}" not in tasks(f"{int(lesson):02d}"):
            raise ValueError(f"{path} has cases for task {lesson}.{task}, which does not exist. {how}")
    return [f"{lesson}.{task}" for lesson, task in found]
