"""Exercise 03, online softmax: the state of a chunk, update, merge, and a test that a wrong merge fails."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import online


def first_state(scores, values):
    """The state after a first chunk: the answer of task 3.1."""
    return online.update(*online.start(scores.shape[0], values.shape[1]), scores, values)


def whole(*chunks):
    """The state of several chunks seen as one."""
    scores, values = zip(*chunks, strict=True)
    return first_state(np.concatenate(scores, axis=1), np.concatenate(values))


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
        Case("neither state has seen a key", (empty, empty)),
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


def compare_verdict(answer, case):
    right = case.arguments[0] is online.merge
    if not isinstance(answer, (bool, np.bool_)):
        return f"return True or False; got {type(answer).__name__}"
    if bool(answer) == right:
        return ""
    return "your test rejects the right merge" if right else "your test accepts it"


# ------------------------------------------------------------------------------------------------- the mistakes people make


def _chunk_variant(maximum=lambda scores: scores.max(axis=1), normalise=False, weigh=True):
    def wrong(scores, values):
        m = np.broadcast_to(maximum(scores), scores.shape[:1]).astype(float)
        p = np.exp(scores - m[:, None])
        l = p.sum(axis=1)
        acc = p @ values if weigh else np.ones_like(p) @ values
        return m, l, acc / l[:, None] if normalise else acc

    return wrong


def _update_variant(new_max=np.maximum, l_factor=None, acc_factor=None, old_pivot=False, guard=True):
    """update with one thing changed. A factor takes (m, pivot) and returns what the old sum is multiplied by."""
    right = lambda m, pivot: np.exp(m - pivot)  # noqa: E731

    def wrong(m, l, acc, scores, values):
        m_new = new_max(m, scores.max(axis=1))
        pivot = np.where(m_new == -np.inf, 0.0, m_new) if guard else m_new
        p = np.exp(scores - (m if old_pivot else pivot)[:, None])
        l = l * (l_factor or right)(m, pivot) + p.sum(axis=1)
        return m_new, l, acc * np.broadcast_to((acc_factor or right)(m, pivot), m.shape)[:, None] + p @ values

    return wrong


def _merge_variant(a_factor=None, b_factor=None, acc=True, guard=True, swap=False):
    right = lambda m, pivot: np.exp(m - pivot)  # noqa: E731

    def wrong(a, b):
        (m_a, l_a, acc_a), (m_b, l_b, acc_b) = a, b
        m = np.maximum(m_a, m_b)
        pivot = np.where(m == -np.inf, 0.0, m) if guard else m
        scale_a = np.broadcast_to((a_factor or right)(m_a, pivot), m.shape)
        scale_b = np.broadcast_to((b_factor or right)(m_b, pivot), m.shape)
        if swap:
            scale_a, scale_b = scale_b, scale_a
        merged = acc_a * scale_a[:, None] + acc_b * scale_b[:, None] if acc else acc_a + acc_b
        return m, l_a * scale_a + l_b * scale_b, merged

    return wrong


def _none(m, pivot):
    return np.ones_like(m)


def _inverted(m, pivot):
    return np.exp(pivot - m)


CHUNK_MISTAKES = (
    Mistake(
        "no maximum", "the maximum is not subtracted, so exp overflows for large scores.", 1, _chunk_variant(lambda s: np.zeros(len(s)))
    ),
    Mistake("one maximum for all rows", "one maximum is taken over all rows; each row needs its own (axis=1).", 1, _chunk_variant(np.max)),
    Mistake("divided too early", "acc is divided by l already; the division waits until the end.", 2, _chunk_variant(normalise=True)),
    Mistake(
        "a column for each row",
        "m and l have a second axis of length 1: each row has one maximum and one sum, so return them without keepdims.",
        1,
        lambda scores, values: tuple(x[:, None] if x.ndim == 1 else x for x in first_state(scores, values)),
    ),
    Mistake("values not weighted", "acc sums the values themselves; weigh each by exp(score - m).", 2, _chunk_variant(weigh=False)),
)
UPDATE_MISTAKES = (
    Mistake(
        "no rescale", "the old l and acc were not rescaled when the maximum moved.", 1, _update_variant(l_factor=_none, acc_factor=_none)
    ),
    Mistake("acc not rescaled", "l was rescaled when the maximum moved, acc was not.", 1, _update_variant(acc_factor=_none)),
    Mistake("l not rescaled", "acc was rescaled when the maximum moved, l was not.", 1, _update_variant(l_factor=_none)),
    Mistake(
        "rescale inverted",
        "the factor is upside down: it is exp(m_old - m_new), never above 1.",
        1,
        _update_variant(l_factor=_inverted, acc_factor=_inverted),
    ),  # fmt: skip
    Mistake("old maximum", "the new scores are measured against the old maximum.", 2, _update_variant(old_pivot=True)),
    Mistake(
        "forgets the old maximum",
        "the new m is the chunk's maximum; it must be the larger of old and new.",
        2,
        _update_variant(lambda m, new: new),
    ),
    Mistake(
        "NaN for rows that saw nothing",
        "-inf - (-inf) is NaN: a row that has seen no key needs another pivot.",
        2,
        _update_variant(guard=False),
    ),
)
MERGE_MISTAKES = (
    Mistake("no rescale", "neither side is rescaled to the common maximum.", 1, _merge_variant(_none, _none)),
    Mistake("only the first side rescaled", "the second state is not rescaled to the common maximum.", 1, _merge_variant(b_factor=_none)),
    Mistake("only the second side rescaled", "the first state is not rescaled to the common maximum.", 1, _merge_variant(a_factor=_none)),
    Mistake("factors swapped", "each side is multiplied by the other side's factor.", 1, _merge_variant(swap=True)),
    Mistake("acc not rescaled", "l is rescaled to the common maximum, acc is not.", 1, _merge_variant(acc=False)),
    Mistake(
        "rescale inverted", "the factor is upside down: it is exp(m_side - m), never above 1.", 1, _merge_variant(_inverted, _inverted)
    ),
    Mistake(
        "NaN for rows that saw nothing",
        "-inf - (-inf) is NaN: a row that has seen no key needs another pivot.",
        2,
        _merge_variant(guard=False),
    ),
)
PLANTED = ("no rescale", "only the first side rescaled", "factors swapped", "acc not rescaled")  # what the learner's test must catch


def merge_test(same_maximum=False, against_whole=True, parts=3, always_larger=False):
    """A test of merge: both groupings of three chunks agree, and agree with the whole row. Each option makes it weaker."""

    def test(merge):
        rng = np.random.default_rng(5)
        places = ((1, 0), (2, 40), (4, 80)) if always_larger else ((1, 0), (2, 4), (4, 2))
        chunks = [_chunk(rng, 2, keys, 3, around) for keys, around in places]
        if same_maximum:
            for scores, _ in chunks:
                scores[:, 0] = 9.0
        a, b, c = (first_state(*chunk) for chunk in chunks)
        left, right = (state[:parts] for state in (merge(merge(a, b), c), merge(a, merge(b, c))))
        return _close(left, right) and (not against_whole or _close(left, whole(*chunks)[:parts]))

    return test


def _close(a, b):
    return all(np.allclose(x, y) for x, y in zip(a, b, strict=True))


TEST_MISTAKES = (
    Mistake(
        "accepts every merge",
        "the test returns True whatever it is given; do all its chunks have the same maximum, so that no factor is ever needed?",
        2,
        merge_test(same_maximum=True),
    ),
    Mistake(
        "rejects every merge",
        "the test returns False for the right merge too. Groupings round differently: compare with np.allclose, not with ==.",
        2,
        lambda merge: False,
    ),
    Mistake(
        "associative is not enough", "a merge that never rescales is associative too: compare with the state of the whole row.", 1,
        merge_test(against_whole=False),
    ),
    Mistake(
        "acc is not compared", "only m and l are compared: a state has three parts, and acc can be wrong alone.", 1, merge_test(parts=2),
    ),
    Mistake(
        "the second side is always larger",
        "in all its chunks the second state has the larger maximum, so the second side never needs a factor: try the other order too.",
        2,
        merge_test(always_larger=True),
    ),
)  # fmt: skip

TASKS = (
    Task("3.1", "the state of a chunk", "chunk_state", 20, chunk_cases, compare_chunk, CHUNK_MISTAKES),
    Task("3.2", "update", "update", 30, update_cases, compare_update, UPDATE_MISTAKES),
    Task("3.3", "merge", "merge", 30, merge_cases, compare_merge, MERGE_MISTAKES),
    Task("3.4", "a test that a wrong merge fails", "merge_is_right", 20, merge_test_cases, compare_verdict, TEST_MISTAKES, gated=True),
)
