"""Judges attempts: runs a task's cases, says what is different, and names the mistake that explains it.

Judging never raises for a wrong attempt: whatever it does, a `Result` comes back that says what happened.
"""

import copy
import functools
import importlib
import re
import traceback

import numpy as np

from flashlab.course.checks.compare import Explained, Wasteful
from flashlab.course.checks.own_work import answers_called, is_answer
from flashlab.course.checks.task import FAILED, NOT_ATTEMPTED, PASSED, Result, Task

LESSONS = ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "12", "14", "15")  # those with an exercise


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
        borrowed = _borrowed(task, attempt, _cases(task, seed)[:2])
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
    cases = _cases(task, seed)
    answers, failures = {}, {}
    for n, case in enumerate(cases):
        try:
            answers[n], difference = _judge_case(task, attempt, case)
        except NotImplementedError as error:
            difference = _missing_helper(task, error)
            if not difference:
                return _not_attempted(task)
            answers[n] = difference
        if difference:
            failures[n] = difference
    if not failures:
        return Result(task.number, task.title, PASSED, task.points, task.points)
    first = min(failures)
    mistake, alone = (None, True) if isinstance(failures[first], Explained) else _likely_mistake(task, seed, answers, failures)
    right = len(cases) - len(failures)
    where = cases[first].text + (f" ({right} of the {len(cases)} cases {'is' if right == 1 else 'are'} right)" if right else "")
    points, difference = _points(task, cases, failures), failures[first]
    return _failed(task, points, where, str(difference), mistake, alone, getattr(difference, "heat", ()))


def _missing_helper(task, error):
    """Which other task's function an attempt calls that is not written yet, in words; "" where it is the attempt itself."""
    others = {other.function: other.number for other in tasks(f"{int(task.number.split('.')[0]):02d}").values() if other is not task}
    last = traceback.extract_tb(error.__traceback__)[-1].name
    return f"it calls {last}, which is not written yet: do task {others[last]} first" if last in others else ""


def _points(task, cases, failures):
    """The share of the cases that passed, rounded down; of one that is right but wasteful, half."""
    if task.gated and 0 in failures:
        return 0
    counted = len(cases) - task.gated
    lost = sum(1 if isinstance(difference, Wasteful) else 2 for difference in failures.values())
    return task.points * (2 * counted - lost) // (2 * counted)


def _judge_case(task, attempt, case):
    """What counts of the attempt's answer on this case, and "" when it is right, or what is different."""
    arguments = _copied(case.arguments)
    try:
        with np.errstate(all="ignore"):
            answer = _called(task, attempt, arguments)
    except NotImplementedError:
        raise
    except Exception as error:
        return str(error), _told(error, task.function)
    meant = _meant(task, answer, case)
    if not _equal(arguments, case.arguments):
        return meant, Explained(f"{task.function} changed what it was given: compute something new (a = a * b, not a *= b).")
    return meant, task.compare(answer, case)


def _told(error, function):
    """An error in a line: what it is, and in which of the function's lines."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    frames = [frame for link in chain for frame in traceback.extract_tb(link.__traceback__) if frame.name == function]
    line = f" in the line `{frames[-1].line}`" if frames and frames[-1].line else ""
    said = next((link for link in chain if type(link).__name__ != "InterpreterError"), error)  # which wraps what a kernel raises
    advice = next((f" {words}" for part, words in ADVICE.items() if part in str(said)), "")
    return f"{type(said).__name__}{line}: {said}{advice}"


ADVICE = {  # on what NumPy says
    "truth value of an array": (
        "`and`, `or`, `if` and a chain such as a <= b <= c ask for one truth: join masks with & and |, each comparison in parentheses. "
        "Python's own max(a, b) asks too: np.maximum(a, b) goes number by number. And == of tuples: compare their parts one by one."
    ),
    "only integer scalar arrays": "np.max and np.min look along an axis of one array: the larger of two is np.maximum(a, b).",
    "inhomogeneous shape": "Arrays of different shapes were put into one: take them one at a time.",
}


def _likely_mistake(task, seed, answers, failures):
    """(the known mistake whose answers are the attempt's own, whether they are on every case).

    Where no mistake explains every case, there may be two in one: then it is the one that explains the smallest failing case and most
    of the others, if one does.
    """

    def explains(mistake, n):
        return _equal(answers[n], _mistaken(task, mistake, n, seed))

    first, *others = [*failures, *(n for n in answers if n not in failures)]  # what failed first: there most mistakes part
    candidates = [mistake for mistake in task.mistakes if explains(mistake, first)]
    for mistake in candidates:
        if all(explains(mistake, n) for n in others):
            return mistake, True
    ranked = sorted(candidates, key=lambda mistake: -sum(explains(mistake, n) for n in others))
    counts = {mistake.sentence: sum(explains(mistake, n) for n in others) for mistake in reversed(ranked)}
    if not ranked or 2 * counts[ranked[0].sentence] < len(others) or sum(count == max(counts.values()) for count in counts.values()) > 1:
        return None, True
    return ranked[0], False


@functools.lru_cache(maxsize=16)
def _cases(task, seed):
    return task.cases(np.random.default_rng(seed))


@functools.lru_cache(maxsize=4096)  # whoever checks again waits less
def _mistaken(task, mistake, n, seed):
    """What counts of a known mistake's answer on case n."""
    return _answer(task, mistake.wrong, _cases(task, seed)[n])


def _answer(task, function, case):
    """What counts of a function's answer on this case."""
    try:
        with np.errstate(all="ignore"):
            return _meant(task, _called(task, function, _copied(case.arguments)), case)
    except Exception as error:
        return str(error)  # of two ways to raise, each has its own words


def _called(task, function, arguments):
    return task.call(function, *arguments) if task.call else function(*arguments)


def _meant(task, answer, case):
    try:
        return task.meaning(answer, case) if task.meaning else answer
    except Exception:  # an answer of another kind than was asked for means itself
        return answer


def _equal(a, b):
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    try:
        tolerance = SINGLE if np.float32 in (np.asarray(a).dtype, np.asarray(b).dtype) else DOUBLE
        return np.shape(a) == np.shape(b) and bool(np.allclose(a, b, **tolerance, equal_nan=True))
    except (TypeError, ValueError):
        return a is b


DOUBLE, SINGLE = dict(rtol=1e-6, atol=1e-9), dict(rtol=1e-4, atol=1e-5)  # the same mistake, made in another order, rounds differently


def _copied(arguments):
    """Fresh arrays, lists and dicts for every call: an attempt that changes its inputs spoils no other case."""
    return tuple(
        _copied(argument) if isinstance(argument, tuple) else argument if callable(argument) else copy.deepcopy(argument)
        for argument in arguments
    )


def _not_attempted(task):
    return Result(task.number, task.title, NOT_ATTEMPTED, 0, task.points)


def _failed(task, points, case, difference, mistake=None, alone=True, heat=()):
    case = re.sub(r"\b1 (row|key|number|head|token)s\b", r"1 \1", case).replace("1 queries", "1 query")
    advice = f"likely: {mistake.sentence} Hint {mistake.hint} is about this." if mistake else ""
    advice += "" if alone else " (Something else is wrong as well.)"
    return Result(task.number, task.title, FAILED, points, task.points, case, difference, mistake.name if mistake else "", advice, heat)
