"""Judges attempts: runs a task's cases, says what is different, and names the mistake that explains it.

Judging never raises for a wrong attempt: whatever it does, a `Result` comes back that says what happened.
"""

import importlib
import re
import traceback

import numpy as np

from flashlab.course.checks.compare import Wasteful
from flashlab.course.checks.own_work import answers_called, is_answer
from flashlab.course.checks.task import FAILED, NOT_ATTEMPTED, PASSED, Result, Task

LESSONS = ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10")  # those with an exercise


def tasks(lesson):
    """The tasks of a lesson such as "03", by their numbers."""
    if lesson not in LESSONS:
        raise ValueError(f"lesson {lesson!r} has no exercise to check. There are checks for: {', '.join(LESSONS)}.")
    module = importlib.import_module(f"flashlab.course.checks.lesson_{lesson}")
    return {task.number: task for task in module.TASKS}


def check(number, attempt, seed=0):
    """Judge `attempt`, a function, at the task `number` such as "3.1". Cases are drawn from `seed`."""
    head = str(number).split(".")[0]
    known = tasks(f"{int(head):02d}" if head.isdigit() else head)
    if number not in known:
        raise ValueError(f"there is no task {number!r}. This lesson has {', '.join(known)}.")
    return judge_work(known[number], attempt, seed)


def judge_namespace(task, namespace, seed=0):
    """The `Result` of the function that a notebook has defined for a task."""
    if task.function in namespace:
        return judge_work(task, namespace[task.function], seed)
    question = "is its cell there, does it run without an error, and has the function kept its name?"
    return _failed(task, 0, "", f"the notebook defines no {task.function}: {question}")


def judge_work(task, attempt, seed=0):
    """The `Result` of what a learner has written: right, and their own."""
    result = judge(task, attempt, seed)
    if result.status == PASSED:
        borrowed = _borrowed(task, attempt, task.cases(np.random.default_rng(seed))[:2])
        if borrowed:
            words = f"the answer is that of {borrowed}, which is flashlab's own: write yours, and compare the two in another cell."
            return _failed(task, 0, "", words)
    return result


def _borrowed(task, attempt, cases):
    """The name of flashlab's own answer, where an attempt is one or calls one; "" where it does the work itself."""
    written = getattr(attempt, "fn", attempt)  # a kernel's function
    if is_answer(getattr(written, "__module__", None) or "", int(task.number.split(".")[0])):
        return f"{written.__module__}.{written.__name__}"
    with answers_called(task, given=[argument for case in cases for argument in case.arguments]) as called:
        for case in cases:
            _judge_case(task, attempt, case)
    return called[0] if called else ""


def judge(task: Task, attempt, seed=0):
    """The `Result` of an attempt: points by case, the smallest failing case, and the likely mistake."""
    if not callable(attempt):
        return _failed(task, 0, "", f"{task.function} is a {type(attempt).__name__}: define it as a function, with def.")
    cases = task.cases(np.random.default_rng(seed))
    failures = []
    for case in cases:
        try:
            difference = _judge_case(task, attempt, case)
        except NotImplementedError as error:
            difference = _missing_helper(task, error)
            if not difference:
                return _not_attempted(task)
        if difference:
            failures.append((case, difference))
    if not failures:
        return Result(task.number, task.title, PASSED, task.points, task.points)
    case, difference = failures[0]
    heat = getattr(difference, "heat", ())
    return _failed(task, _points(task, cases, failures), case.text, str(difference), _likely_mistake(task, attempt, cases), heat)


def _missing_helper(task, error):
    """Which other task's function an attempt calls that is not written yet, in words; "" where it is the attempt itself."""
    others = {other.function: other.number for other in tasks(f"{int(task.number.split('.')[0]):02d}").values() if other is not task}
    last = traceback.extract_tb(error.__traceback__)[-1].name
    return f"it calls {last}, which is not written yet: do task {others[last]} first" if last in others else ""


def _points(task, cases, failures):
    """The share of the cases that passed, rounded down; of one that is right but wasteful, half."""
    if task.gated and failures[0][0] is cases[0]:
        return 0
    counted = len(cases) - task.gated
    lost = sum(1 if isinstance(difference, Wasteful) else 2 for _, difference in failures)
    return task.points * (2 * counted - lost) // (2 * counted)


def _judge_case(task, attempt, case):
    """ "" when the attempt is right on this case, or what is different."""
    arguments = _copied(case.arguments)
    try:
        with np.errstate(all="ignore"):
            answer = task.call(attempt, *arguments) if task.call else attempt(*arguments)
    except NotImplementedError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == task.function]
        line = f" in the line `{frames[-1].line}`" if frames and frames[-1].line else ""
        return f"{type(error).__name__}{line}: {error}"
    if not _equal(arguments, case.arguments):
        return f"{task.function} changed an array that it was given: compute a new one (a = a * b, not a *= b)."
    return task.compare(answer, case)


def _likely_mistake(task, attempt, cases):
    """The known mistake whose answers are the attempt's own on every case."""
    for mistake in task.mistakes:
        if all(_equal(_answer(task, attempt, case), _answer(task, mistake.wrong, case)) for case in cases):
            return mistake
    return None


def _answer(task, function, case):
    try:
        with np.errstate(all="ignore"):
            answer = task.call(function, *_copied(case.arguments)) if task.call else function(*_copied(case.arguments))
            return task.meaning(answer, case) if task.meaning else answer
    except Exception as error:
        return type(error)


def _equal(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    try:
        return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True))
    except (TypeError, ValueError):
        return a is b


def _copied(arguments):
    """Fresh arrays for every call: an attempt that changes its inputs spoils no other case."""
    return tuple(
        argument.copy() if isinstance(argument, np.ndarray) else _copied(argument) if isinstance(argument, tuple) else argument
        for argument in arguments
    )


def _not_attempted(task):
    return Result(task.number, task.title, NOT_ATTEMPTED, 0, task.points)


def _failed(task, points, case, difference, mistake=None, heat=()):
    case = re.sub(r"\b1 (row|key|number|head)s\b", r"1 \1", case).replace("1 queries", "1 query")
    advice = f"likely: {mistake.sentence} Hint {mistake.hint} is about this." if mistake else ""
    return Result(task.number, task.title, FAILED, points, task.points, case, difference, mistake.name if mistake else "", advice, heat)
