"""The right answers of exercise 03, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import numpy as np

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.task import Mistake

EXP2 = "exp2(x) is 2 to the x; the formula has e to the x, np.exp."
SECOND_AXIS = "to meet a matrix (rows, n), a number for each row needs a second axis: m[:, None]."
BY_SCORES = "values are weighed by exp(score - m), not by the scores themselves."
DIVIDED = "acc is divided by l already; the division waits until the end."
ONE_FOR_ALL = "one maximum is taken over all rows; each row needs its own (axis=1)."
EMPTY_ROW = "-inf - (-inf) is NaN: a row that has seen no key needs another pivot."

# ------------------------------------------------------------------------------------------------- 3.1, the state of a chunk


def chunk_state(scores, values):
    m = scores.max(axis=1)
    p = np.exp(scores - m[:, None])
    l = p.sum(axis=1)
    acc = p @ values
    return m, l, acc


MAXIMUM = "scores.max(axis=1)"
_of_chunk = functools.partial(mistake, chunk_state)
NO_MAXIMUM = "the maximum is not subtracted, so exp overflows for large scores."
COLUMNS = "m and l have a second axis of length 1: each row has one maximum and one sum, so return them without keepdims."
CHUNK_MISTAKES = (
    _of_chunk("no maximum", NO_MAXIMUM, 1, MAXIMUM, "np.zeros(len(scores))"),
    _of_chunk("no maximum", NO_MAXIMUM, 1, "scores - m[:, None]", "scores"),
    _of_chunk("one maximum for all rows", ONE_FOR_ALL, 1, MAXIMUM, "np.full(len(scores), scores.max())"),
    _of_chunk("divided too early", DIVIDED, 2, "p @ values", "p @ values / l[:, None]"),
    _of_chunk("divided too early", DIVIDED, 2, "    l = ", "    p = p / p.sum(axis=1, keepdims=True)\n    l = "),
    _of_chunk("a column for each row", COLUMNS, 1, "return m, l", "return m[:, None], l[:, None]"),
    _of_chunk("a column for each row", COLUMNS, 1, "return m, l", "return m[:, None], l"),
    _of_chunk("a column for each row", COLUMNS, 1, "return m, l", "return m, l[:, None]"),
    _of_chunk(
        "values not weighted", "acc sums the values themselves; weigh each by exp(score - m).", 2, "p @ values", "np.ones_like(p) @ values"
    ),
    _of_chunk("values weighed by scores", BY_SCORES, 2, "p @ values", "scores @ values"),
    _of_chunk("values not summed", "a weighted sum of values is a product of matrices: p @ values.", 2, "p @ values", "p * values"),
    _of_chunk(
        "l is a logarithm", "l is the sum itself: no logarithm of it, and m is not added.", 1, "return m, l", "return m, m + np.log(l)"
    ),
    _of_chunk("exp2", EXP2, 2, "np.exp(", "np.exp2("),
    _of_chunk("no second axis", SECOND_AXIS, 1, "m[:, None]", "m"),
)

# ---------------------------------------------------------------------------------------------------------------- 3.2, update


def update(m, l, acc, scores, values):
    m_new = np.maximum(m, scores.max(axis=1))
    pivot = np.where(m_new == -np.inf, 0.0, m_new)
    rescale = np.exp(m - pivot)
    p = np.exp(scores - pivot[:, None])
    l = l * rescale + p.sum(axis=1)
    acc = acc * rescale[:, None] + p @ values
    return m_new, l, acc


NO_PIVOT = ("np.where(m_new == -np.inf, 0.0, m_new)", "m_new")
OWN = "    own = scores.max(axis=1)\n    p = np.exp(scores - np.where(own == -np.inf, 0.0, own)[:, None])"
OWN_MAXIMUM = "the chunk is measured against its own maximum: old and new, all is measured against m_new, the larger of the two."
LOST = "what {} held before is lost: add the chunk to it."
_of_update = functools.partial(mistake, update)
UPDATE_MISTAKES = (
    _of_update(
        "no rescale",
        "the old l and acc were not rescaled when the maximum moved.",
        1,
        *("l * rescale", "l", "acc * rescale[:, None]", "acc"),
    ),
    _of_update("acc not rescaled", "l was rescaled when the maximum moved, acc was not.", 1, "acc * rescale[:, None]", "acc"),
    _of_update("l not rescaled", "acc was rescaled when the maximum moved, l was not.", 1, "l * rescale", "l"),
    _of_update(
        "rescale inverted",
        "the factor is upside down: it is exp(m_old - m_new), never above 1.",
        1,
        "np.exp(m - pivot)",
        "np.exp(pivot - m)",
    ),
    _of_update(
        "the chunk is rescaled too",
        "the factor belongs to the old sums alone: what the chunk adds is measured against m_new already.",
        1,
        *(
            "l * rescale + p.sum(axis=1)",
            "(l + p.sum(axis=1)) * rescale",
            "acc * rescale[:, None] + p @ values",
            "(acc + p @ values) * rescale[:, None]",
        ),
    ),
    _of_update("rescaled twice", "the old sums are multiplied by the factor twice.", 1, "np.exp(m - pivot)", "np.exp(m - pivot) ** 2"),
    _of_update("old maximum", "the new scores are measured against the old maximum.", 2, "scores - pivot", "scores - m"),
    _of_update(
        "old maximum",
        "the new scores are measured against the old maximum.",
        2,
        "scores - pivot",
        "scores - np.where(m == -np.inf, 0.0, m)",
    ),
    _of_update(
        "another pivot for the first chunk",
        "where the old m is -inf but the chunk has keys, the pivot is m_new, not 0: ask whether m_new is -inf.",
        2,
        *("np.where(m_new == -np.inf, 0.0, m_new)", "np.where(m == -np.inf, 0.0, m_new)"),
    ),
    _of_update("values weighed by scores", BY_SCORES, 2, "p @ values", "scores @ values"),
    _of_update("the chunk's own maximum", OWN_MAXIMUM, 2, "    p = np.exp(scores - pivot[:, None])", OWN),
    _of_update(
        "the chunk's own maximum",
        OWN_MAXIMUM,
        2,
        *("    p = np.exp(scores - pivot[:, None])", OWN, "l * rescale", "l", "acc * rescale[:, None]", "acc"),
    ),
    _of_update(
        "forgets the old maximum",
        "the new m is the chunk's maximum; it must be the larger of old and new.",
        2,
        *("np.maximum(m, scores.max(axis=1))", "scores.max(axis=1)"),
    ),
    _of_update("returns the old maximum", "m was not brought up to date: return the new maximum.", 2, "return m_new", "return m"),
    _of_update(
        "returns the pivot",
        "m of a row that has seen no key stays -inf: the pivot is for the exponents alone.",
        2,
        "return m_new",
        "return pivot",
    ),
    _of_update(
        "one maximum for all rows", ONE_FOR_ALL, 2, "np.maximum(m, scores.max(axis=1))", "np.full(len(m), max(m.max(), scores.max()))"
    ),
    _of_update("acc is lost", LOST.format("acc"), 1, "acc * rescale[:, None] + p", "p"),
    _of_update("l is lost", LOST.format("l"), 1, "l * rescale + p", "p"),
    _of_update("both are lost", LOST.format("l and acc"), 1, "acc * rescale[:, None] + p", "p", "l * rescale + p", "p"),
    _of_update("divided too early", DIVIDED, 1, "return m_new, l, acc", "return m_new, l, acc / l[:, None]"),
    _of_update("NaN for rows that saw nothing", EMPTY_ROW, 2, *NO_PIVOT),
    _of_update(
        "one row decides for all",
        "where one row has seen nothing, others may have: decide row by row, with np.where.",
        2,
        *("np.where(m_new == -np.inf, 0.0, m_new)", "np.zeros_like(m_new) if (m_new == -np.inf).any() else m_new"),
    ),
    _of_update("exp2", EXP2, 1, "np.exp(", "np.exp2("),
    _of_update("no second axis", SECOND_AXIS, 1, "rescale[:, None]", "rescale"),
    _of_update("no second axis", SECOND_AXIS, 1, "pivot[:, None]", "pivot"),
)

# ----------------------------------------------------------------------------------------------------------------- 3.3, merge


def merge(a, b):
    (m_a, l_a, acc_a), (m_b, l_b, acc_b) = a, b
    m = np.maximum(m_a, m_b)
    pivot = np.where(m == -np.inf, 0.0, m)
    scale_a = np.exp(m_a - pivot)
    scale_b = np.exp(m_b - pivot)
    l = l_a * scale_a + l_b * scale_b
    acc = acc_a * scale_a[:, None] + acc_b * scale_b[:, None]
    return m, l, acc


NONE_A, NONE_B = (
    ("scale_a = np.exp(m_a - pivot)", "scale_a = np.ones_like(m)"),
    ("scale_b = np.exp(m_b - pivot)", "scale_b = np.ones_like(m)"),
)
ONE_SIDE = "for a row that only one side has seen, that side's state is right; but row by row, not for all rows at once."
_of_merge = functools.partial(mistake, merge)
MERGE_MISTAKES = (
    _of_merge("no rescale", "neither side is rescaled to the common maximum.", 1, *NONE_A, *NONE_B),
    _of_merge("only the first side rescaled", "the second state is not rescaled to the common maximum.", 1, *NONE_B),
    _of_merge("only the second side rescaled", "the first state is not rescaled to the common maximum.", 1, *NONE_A),
    _of_merge(
        "factors swapped",
        "each side is multiplied by the other side's factor.",
        1,
        *("scale_a = np.exp(m_a", "scale_a = np.exp(m_x", "scale_b = np.exp(m_b", "scale_b = np.exp(m_a", "m_x", "m_b"),
    ),
    _of_merge(
        "acc not rescaled",
        "l is rescaled to the common maximum, acc is not.",
        1,
        *("acc_a * scale_a[:, None] + acc_b * scale_b[:, None]", "acc_a + acc_b"),
    ),
    _of_merge("l not rescaled", "acc is rescaled to the common maximum, l is not.", 1, "l_a * scale_a + l_b * scale_b", "l_a + l_b"),
    _of_merge(
        "rescale inverted",
        "the factor is upside down: it is exp(m_side - m), never above 1.",
        1,
        *("m_a - pivot", "pivot - m_a", "m_b - pivot", "pivot - m_b"),
    ),
    _of_merge(
        "m of the first side", "the common maximum is the larger of the two: m is that of the first side.", 1, "np.maximum(m_a, m_b)", "m_a"
    ),
    _of_merge(
        "returns another m",
        "m of the joined state is the larger of the two; that of the first side is returned.",
        1,
        "return m,",
        "return m_a,",
    ),
    _of_merge(
        "measured against the second side",
        "everything is measured against the second side's m: the common maximum is the larger of the two, so each side needs its factor.",
        1,
        *("np.exp(m_a - pivot)", "np.exp(m_a - m_b)", *NONE_B),
    ),
    _of_merge(
        "returns the pivot",
        "m of a row that neither side has seen stays -inf: the pivot is for the exponents alone.",
        2,
        "return m,",
        "return pivot,",
    ),
    _of_merge("divided too early", DIVIDED, 1, "return m, l, acc", "return m, l, acc / l[:, None]"),
    _of_merge("NaN for rows that saw nothing", EMPTY_ROW, 2, "np.where(m == -np.inf, 0.0, m)", "m"),
    _of_merge(
        "one row decides for all",
        "where one row has seen nothing, others may have: decide row by row, with np.where.",
        2,
        *("np.where(m == -np.inf, 0.0, m)", "np.zeros_like(m) if (m == -np.inf).any() else m"),
    ),
    _of_merge(
        "one side for all rows",
        ONE_SIDE,
        2,
        *("    m = ", "    if (m_a == -np.inf).any():\n        return b\n    if (m_b == -np.inf).any():\n        return a\n    m = "),
    ),
    _of_merge("exp2", EXP2, 1, "np.exp(", "np.exp2("),
    _of_merge("no second axis", SECOND_AXIS, 1, "scale_a[:, None]", "scale_a", "scale_b[:, None]", "scale_b"),
    _of_merge(
        "float16",
        "it is computed in float16, of which 11 bits are left.",
        1,
        *("return m, l, acc", "return m, l.astype(np.float16), acc.astype(np.float16)"),
    ),
)
# What the learner's test must catch.
PLANTED = (
    "no rescale", "only the first side rescaled", "only the second side rescaled", "factors swapped", "acc not rescaled", "l not rescaled",
    "float16",
)  # fmt: skip

# ---------------------------------------------------------------------------------- 3.4, a test that a wrong merge fails


def merge_is_right(merge):
    rng = np.random.default_rng(5)
    chunks = [(center + rng.normal(size=(2, n)), rng.normal(size=(n, 3))) for n, center in ((1, 0), (2, 4), (4, 2))]
    a, b, c = (chunk_state(*chunk) for chunk in chunks)
    scores, values = zip(*chunks, strict=True)
    whole = chunk_state(np.concatenate(scores, axis=1), np.concatenate(values))
    right = True
    for grouping in (merge(merge(a, b), c), merge(a, merge(b, c))):
        right = right and all(np.allclose(x, y) for x, y in zip(grouping, whole, strict=True))
    return right


SAME_MAXIMUM = "    for scores, _ in chunks:\n        scores[:, 0] = 90.0\n    a, b, c ="
_of_test = functools.partial(mistake, merge_is_right)
TEST_MISTAKES = (
    _of_test(
        "accepts every merge",
        "the test returns True whatever it is given. Does it call the merge that it was given, and compare m, l and acc? And do the "
        "maxima of its chunks differ, so that factors are needed?",
        2,
        *("right = right and", "right = True or"),
    ),
    Mistake(
        "rejects every merge",
        "the test returns False for the right merge too. Do your chunks together hold each key once, with its own value? And groupings "
        "round differently: compare with np.allclose, not with ==.",
        2,
        lambda merge: False,
    ),
    *(
        _of_test(
            "associative is not enough",
            "a merge that never rescales is associative too: compare with the state of the whole row.",
            1,
            *("zip(grouping, whole, strict=True)", "zip(grouping, merge(merge(a, b), c), strict=True)"),
            *("(1, 0), (2, 4), (4, 2)", chunks),
        )
        for chunks in ("(1, 0), (2, 4), (4, 2)", "(1, 0), (2, 9), (4, 4)", "(1, 0), (2, 40), (4, 20)", "(1, 4), (2, 0), (4, 8)")
    ),
    _of_test(
        "acc is not compared",
        "only m and l are compared: a state has three parts, and acc can be wrong alone.",
        1,
        "(grouping, whole, strict=True)",
        "(grouping[:2], whole[:2], strict=True)",
    ),
    _of_test(
        "only acc is compared",
        "only acc is compared: a state has three parts, and l can be wrong alone.",
        1,
        "(grouping, whole, strict=True)",
        "(grouping[2:], whole[2:], strict=True)",
    ),
    _of_test(
        "compared too roughly",
        "it accepts a merge in float16: np.allclose's own tolerances are right for float64, larger ones hide mistakes.",
        2,
        *("np.allclose(x, y)", "np.allclose(x, y, rtol=0.01, atol=0.01)"),
    ),
    _of_test(
        "the second side is always larger",
        "in all its chunks the second state has the larger maximum, so the second side never needs a factor: try the other order too.",
        2,
        *("(1, 0), (2, 4), (4, 2)", "(1, 0), (2, 40), (4, 80)"),
    ),
    _of_test(
        "the first side is always larger",
        "in all its chunks the first state has the larger maximum, so the first side never needs a factor: try the other order too.",
        2,
        *("(1, 0), (2, 4), (4, 2)", "(1, 80), (2, 40), (4, 0)"),
    ),
)
