"""Exercise 03, online softmax: the state of a chunk, update, merge, and a test that a wrong merge fails."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.lesson_03_mistakes import CHUNK_MISTAKES, MERGE_MISTAKES, PLANTED, TEST_MISTAKES, UPDATE_MISTAKES
from flashlab.course.checks.task import Case, Task
from flashlab.course.steps import online


def first_state(scores, values):
    """The state after a first chunk: the answer of task 3.1."""
    return online.update(*online.start(scores.shape[0], values.shape[1]), scores, values)


# ---------------------------------------------------------------------------------------------------------------------- cases


def _chunk(rng, rows, keys, head_dim, around=0.0):
    return around + rng.normal(size=(rows, keys)), rng.normal(size=(keys, head_dim))


def _hidden(rng, rows, keys, head_dim):
    return np.full((rows, keys), -np.inf), rng.normal(size=(keys, head_dim))


def chunk_cases(rng):
    return [
        Case("1 row, 1 score", _chunk(rng, 1, 1, 2)),
        Case("1 row, 4 scores", _chunk(rng, 1, 4, 3)),
        Case("3 rows of 5 scores, each with its own maximum", _chunk(rng, 3, 5, 2)),
        Case("scores around 1000", _chunk(rng, 2, 4, 3, around=1000)),
        Case("scores around -1000", _chunk(rng, 2, 4, 3, around=-1000)),
    ]


def _first_hidden(rng, rows, keys, head_dim):
    """A chunk of which the first row sees nothing."""
    scores, values = _chunk(rng, rows, keys, head_dim, around=2)
    scores[0] = -np.inf
    return scores, values


def _last_hidden(rng, rows, keys, head_dim):
    scores, values = _first_hidden(rng, rows, keys, head_dim)
    return scores[::-1].copy(), values


def update_cases(rng):
    def case(text, first, second):
        return Case(text, (*first_state(*first), *second))

    empty = online.start(2, 3)
    return [
        case("1 row, then 1 larger score", _chunk(rng, 1, 1, 2), _chunk(rng, 1, 1, 2, around=4)),
        case("1 row, then 1 smaller score", _chunk(rng, 1, 1, 2), _chunk(rng, 1, 1, 2, around=-4)),
        case("2 rows, chunks of 1 and 3, the maximum rises", _chunk(rng, 2, 1, 3), _chunk(rng, 2, 3, 3, around=2)),
        case("5 rows, chunks of 7 and 3", _chunk(rng, 5, 7, 6), _chunk(rng, 5, 3, 6)),
        case("scores around 1000", _chunk(rng, 2, 3, 2, around=1000), _chunk(rng, 2, 3, 2, around=1000)),
        Case("the first chunk of all: m = -inf, l = 0, acc = 0", (*empty, *_chunk(rng, 2, 4, 3))),
        case("a chunk that the rows do not see: every score is -inf", _chunk(rng, 2, 3, 3), _hidden(rng, 2, 2, 3)),
        Case("nothing seen before and nothing now: every score is -inf", (*empty, *_hidden(rng, 2, 2, 3))),
        case("2 rows, of which the first sees nothing, before and now", _first_hidden(rng, 2, 3, 3), _first_hidden(rng, 2, 2, 3)),
    ]


def merge_cases(rng):
    def case(text, first, second):
        return Case(text, (first_state(*first), first_state(*second)))

    empty = online.start(2, 3)
    return [
        case("1 row, the second state has the larger maximum", _chunk(rng, 1, 1, 2), _chunk(rng, 1, 1, 2, around=4)),
        case("1 row, the first state has the larger maximum", _chunk(rng, 1, 1, 2, around=4), _chunk(rng, 1, 1, 2)),
        case("4 rows, chunks of 5 and 2", _chunk(rng, 4, 5, 3), _chunk(rng, 4, 2, 3)),
        case("scores around 1000 and around -1000", _chunk(rng, 2, 3, 2, around=1000), _chunk(rng, 2, 3, 2, around=-1000)),
        Case("the first state has seen no key", (empty, first_state(*_chunk(rng, 2, 4, 3)))),
        Case("the second state has seen no key", (first_state(*_chunk(rng, 2, 4, 3)), empty)),
        Case("neither state has seen a key", (empty, empty)),
        case("the first row is in neither state", _first_hidden(rng, 2, 3, 3), _first_hidden(rng, 2, 2, 3)),
        case("the first row is in the second state alone, the last in the first", _first_hidden(rng, 2, 3, 3), _last_hidden(rng, 2, 2, 3)),
    ]


def merge_test_cases(_):
    wrong = [Case(f"a merge that is wrong: {mistake.sentence}", (mistake.wrong,)) for mistake in MERGE_MISTAKES if mistake.name in PLANTED]
    return [Case("the right merge", (online.merge,)), *wrong]


# ----------------------------------------------------------------------------------------------------------------- comparison


def compare_state(answer, expected):
    """ "" when the three parts of a state are right, or the first that is not, with the row and the ratio."""
    return compare.arrays(("m", "l", "acc"), answer, expected)


def compare_chunk(answer, case):
    return compare_state(answer, first_state(*case.arguments))


def compare_update(answer, case):
    return compare_state(answer, online.update(*case.arguments))


def compare_merge(answer, case):
    return compare_state(answer, online.merge(*case.arguments))


def call_test(attempt, merge):
    try:
        return attempt(merge)
    except AssertionError:
        return AssertionError


def compare_verdict(answer, case):
    right = case.arguments[0] is online.merge
    if answer is AssertionError:
        return "your test rejects the right merge" if right else "your test noticed it, and raised an error: return False instead"
    if not isinstance(answer, (bool, np.bool_)):
        return f"return True or False; got {type(answer).__name__}"
    if bool(answer) == right:
        return ""
    return "your test rejects the right merge" if right else "your test accepts it"


TASKS = (
    Task("3.1", "the state of a chunk", "chunk_state", 20, chunk_cases, compare_chunk, CHUNK_MISTAKES),
    Task("3.2", "update", "update", 30, update_cases, compare_update, UPDATE_MISTAKES),
    Task("3.3", "merge", "merge", 30, merge_cases, compare_merge, MERGE_MISTAKES),
    Task(
        "3.4",
        "a test that a wrong merge fails",
        "merge_is_right",
        20,
        merge_test_cases,
        compare_verdict,
        TEST_MISTAKES,
        gated=True,
        call=call_test,
    ),
)
