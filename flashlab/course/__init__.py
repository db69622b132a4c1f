"""The course: what only lessons need. It stands on the library; the library never imports it.

A lesson begins with `device = setup()`; an exercise ends each task with `check("3.1", my_function)`.
"""

from flashlab.course.environment import setup
from flashlab.course.example import example

__all__ = ["check", "example", "setup"]


def check(task, attempt):
    """Judge one attempt at a task such as "3.1": points, what failed, and the likely mistake by name. The best result is remembered."""
    from flashlab.course import grading, progress  # needed by exercises alone

    result = grading.check(task, attempt)
    progress.record(result)
    return result
