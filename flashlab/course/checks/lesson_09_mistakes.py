"""The right answers of exercise 09, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import numpy as np

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.task import Mistake
from flashlab.course.steps.online import finish, start, update

# ------------------------------------------------------------------------------------------------------------- 9.1, visible


def visible(i, j, seqlen_q, seqlen_k, left, right, bottom_right):
    diagonal = seqlen_k - seqlen_q if bottom_right else 0
    seen = j < seqlen_k
    if left >= 0:
        seen = seen & (j >= i + diagonal - left)
    if right >= 0:
        seen = seen & (j <= i + diagonal + right)
    return seen


DIAGONAL = "seqlen_k - seqlen_q if bottom_right else 0"
NO_SUCH_EDGE = "-1 means that there is no such edge; it is not a number of keys."
EDGE_OF_0 = "an edge at 0 is an edge, too, right at the diagonal: ask {}, not > 0."
NO_SUCH_KEY = "keys with j >= seqlen_k do not exist: no row sees them."
_of_visible = functools.partial(mistake, visible)
VISIBLE_MISTAKES = (
    _of_visible("always top left", "the diagonal always starts at key 0; bottom_right is not used.", 1, DIAGONAL, "0"),
    _of_visible(
        "always bottom right",
        "the diagonal always ends in the last corner; without bottom_right row 0 meets key 0.",
        1,
        DIAGONAL,
        "seqlen_k - seqlen_q",
    ),
    _of_visible(
        "diagonal the wrong way",
        "the diagonal moves the wrong way: at the bottom right row 0 meets key seqlen_k - seqlen_q.",
        1,
        "seqlen_k - seqlen_q",
        "seqlen_q - seqlen_k",
    ),
    _of_visible(
        "bottom right and top left swapped",
        "top left and bottom right are swapped: with bottom_right row 0 meets key seqlen_k - seqlen_q, else key 0.",
        1,
        DIAGONAL,
        "0 if bottom_right else seqlen_k - seqlen_q",
    ),
    _of_visible("left edge without diagonal", "the left edge lies left of the diagonal, not of i.", 1, "i + diagonal - left", "i - left"),
    _of_visible(
        "right edge without diagonal", "the right edge lies right of the diagonal, not of i.", 1, "i + diagonal + right", "i + right"
    ),
    _of_visible(
        "right edge off by one", "the last key that a row sees is left out: use <=, not <.", 2, "j <= i + diagonal", "j < i + diagonal"
    ),
    _of_visible(
        "left edge off by one", "the first key that a row sees is left out: use >=, not >.", 2, "j >= i + diagonal", "j > i + diagonal"
    ),
    _of_visible(
        "sides swapped",
        "left and right are swapped: left counts keys before the diagonal.",
        2,
        *("seqlen_k, left, right", "seqlen_k, right, left"),
    ),
    _of_visible("-1 taken as a number", NO_SUCH_EDGE, 2, "left >= 0", "True", "right >= 0", "True"),
    _of_visible("-1 on the left taken as a number", NO_SUCH_EDGE, 2, "left >= 0", "True"),
    _of_visible("-1 on the right taken as a number", NO_SUCH_EDGE, 2, "right >= 0", "True"),
    _of_visible(
        "if left, if right",
        "`if left` is true for -1, which is no edge, and false for 0, which is one: ask left >= 0.",
        2,
        *("left >= 0", "left", "right >= 0", "right"),
    ),
    _of_visible("no edge at 0", EDGE_OF_0.format("left >= 0 and right >= 0"), 2, "left >= 0", "left > 0", "right >= 0", "right > 0"),
    _of_visible("no left edge at 0", EDGE_OF_0.format("left >= 0"), 2, "left >= 0", "left > 0"),
    _of_visible("no right edge at 0", EDGE_OF_0.format("right >= 0"), 2, "right >= 0", "right > 0"),
    _of_visible(
        "no edge is an edge seqlen_k away",
        "in place of a missing edge there is one seqlen_k keys away, and a row further down feels it: leave the comparison out.",
        2,
        *("if left >= 0:", "left = seqlen_k if left < 0 else left\n    if True:"),
    ),
    _of_visible("keys past the end", NO_SUCH_KEY, 2, "seen = j < seqlen_k", "seen = j >= 0"),
    _of_visible(
        "one key past the end", "the last key is seqlen_k - 1: j < seqlen_k, not <=.", 2, "seen = j < seqlen_k", "seen = j <= seqlen_k"
    ),
    _of_visible(
        "keys past the end, as in the lesson",
        f"the lesson's seen_by asks for existing keys alone; here tiles reach past the end: {NO_SUCH_KEY}",
        2,
        *("seen = j < seqlen_k", "seen = (j >= i - seqlen_q) & (j <= i + seqlen_k)"),
    ),
    _of_visible(
        "& before the comparison",
        "& binds more tightly than >= and <=: put each comparison in parentheses.",
        2,
        *("& (j >= i + diagonal - left)", "& j >= i + diagonal - left", "& (j <= i + diagonal + right)", "& j <= i + diagonal + right"),
    ),
    _of_visible("inverted", "True where row i sees key j: this mask is True where it does not.", 1, "return seen", "return ~seen"),
)

# ---------------------------------------------------------------------------------------------------------------- 9.2, walk


def walk(first, last, seqlen_k, lowest, highest, block):
    lowest_key, past_key = max(0, first + lowest), min(seqlen_k, last + highest + 1)
    begin = lowest_key // block * block
    end = past_key if lowest_key < past_key else begin
    full_begin = -(-max(0, last + lowest) // block) * block
    full_end = max(0, min(seqlen_k, first + highest + 1)) // block * block
    full_begin = min(full_begin, end)
    full_end = max(full_begin, full_end)
    return begin, full_begin, full_end, end


BEGIN = "    begin = lowest_key"
AT_ONCE = (BEGIN, f"    if lowest_key >= past_key:\n        return 0, 0, 0, 0\n{BEGIN}")


def _of_walk(name, sentence, hint, *changes):
    """Each mistake twice: as those make it who return at once where nothing is to be seen, and those who do not."""
    return mistake(walk, name, sentence, hint, *changes), mistake(walk, name, sentence, hint, *changes, *AT_ONCE)


def _everything(first, last, seqlen_k, lowest, highest, block):
    return 0, 0, 0, seqlen_k


WALK_MISTAKES = (
    Mistake("nothing is skipped", "every tile is visited; begin and end leave out those that no row sees.", 1, _everything),
    *_of_walk(
        "no tile is full",
        "every visited tile is masked; those that all rows see whole need no mask.",
        2,
        *("return begin, full_begin, full_end, end", "return begin, end, end, end"),
    ),
    *_of_walk(
        "begin not rounded",
        "begin is a key, and must be rounded down to the tile that holds it.",
        1,
        "lowest_key // block * block",
        "lowest_key",
    ),
    *_of_walk(
        "begin below zero", "first + lowest may be negative, and there are no keys before 0.", 1, "max(0, first + lowest)", "first + lowest"
    ),
    *_of_walk(
        "begin asks the last row",
        "begin asks the row that sees furthest to the left: that is the first row, not the last.",
        1,
        *("max(0, first + lowest)", "max(0, last + lowest)"),
    ),
    *_of_walk(
        "end asks the first row",
        "end must reach as far as the last row sees, not the first.",
        1,
        "min(seqlen_k, last",
        "min(seqlen_k, first",
    ),
    *_of_walk(
        "end misses the last key",
        "end is the first key that is not seen any more, so one past the last: last + highest + 1.",
        1,
        *("last + highest + 1", "last + highest"),
    ),
    *_of_walk("end past the keys", "end must not pass seqlen_k.", 1, "min(seqlen_k, last + highest + 1)", "last + highest + 1"),
    *_of_walk(
        "full_begin rounded down",
        "full_begin is rounded down: the tile that the left edge cuts is not full.",
        2,
        *("-(-max(0, last + lowest) // block)", "max(0, last + lowest) // block"),
    ),
    *_of_walk(
        "full_begin asks the first row",
        "a tile is full when the last row, too, sees its first key: full_begin asks the last row.",
        2,
        *("max(0, last + lowest)", "max(0, first + lowest)"),
    ),
    *_of_walk(
        "full_end rounded up",
        "full_end is rounded up: the tile that the right edge, or the end of the keys, cuts is not full.",
        2,
        *("max(0, min(seqlen_k, first + highest + 1)) // block", "-(-max(0, min(seqlen_k, first + highest + 1)) // block)"),
    ),
    *_of_walk(
        "full_end asks the last row",
        "a tile is full when the first row, too, sees its last key: full_end asks the first row.",
        2,
        *("min(seqlen_k, first", "min(seqlen_k, last"),
    ),
    *_of_walk(
        "full_end misses a key",
        "the first row sees key first + highest, too: one past it is first + highest + 1, and that is what is rounded down.",
        2,
        *("first + highest + 1", "first + highest"),
    ),
    *_of_walk(
        "ragged end not noticed",
        "full_end must not pass seqlen_k: a tile that reaches past the last key is not full.",
        2,
        *("min(seqlen_k, first + highest + 1)", "first + highest + 1"),
    ),
    *_of_walk(
        "stretches overlap",
        "in a narrow window full_end comes out below full_begin, and tiles are visited twice: keep them in order.",
        2,
        *("max(full_begin, full_end)", "full_end"),
    ),
    *_of_walk(
        "numbers of tiles",
        "these are numbers of tiles; the loops count keys: multiply by block.",
        1,
        *("return begin, full_begin, full_end, end", "return begin // block, full_begin // block, full_end // block, -(-end // block)"),
    ),
    mistake(
        walk,
        "begins past the last key",
        "these rows see no key at all, and the tile that begin was rounded down to is visited.",
        1,
        *("past_key if lowest_key < past_key else begin", "max(0, past_key)"),
    ),
)

# ------------------------------------------------------------------------------------------------------- 9.3, grouped heads


def grouped_forward(Q, K, V, scale, BLOCK_M, BLOCK_N):
    heads, seqlen_q, head_dim = Q.shape
    heads_kv, seqlen_k, _ = K.shape
    group = heads // heads_kv
    out = np.zeros(Q.shape)
    for head in range(heads_kv):
        mine = slice(head * group, (head + 1) * group)
        for begin in range(0, seqlen_q, BLOCK_M):
            rows = slice(begin, begin + BLOCK_M)
            q = Q[mine, rows].reshape(-1, head_dim)
            state = start(*q.shape)
            for key in range(0, seqlen_k, BLOCK_N):
                k, v = K[head, key : key + BLOCK_N], V[head, key : key + BLOCK_N]
                state = update(*state, scale * q @ k.T, v)
            out[mine, rows] = finish(*state)[0].reshape(group, -1, head_dim)
    return out


def _head_by_head(Q, K, V, scale, BLOCK_M, BLOCK_N):
    """grouped_forward in which each query head reads K and V for itself."""
    group = len(Q) // len(K)
    out = np.zeros(Q.shape)
    for head in range(len(Q)):
        key_head = head // group
        for begin in range(0, Q.shape[1], BLOCK_M):
            rows = slice(begin, begin + BLOCK_M)
            state = start(*Q[head, rows].shape)
            for key in range(0, K.shape[1], BLOCK_N):
                k, v = K[key_head, key : key + BLOCK_N], V[key_head, key : key + BLOCK_N]
                state = update(*state, scale * Q[head, rows] @ k.T, v)
            out[head, rows] = finish(*state)[0]
    return out


CARDS = "query head h reads key head h % Hkv; neighbours share: it is h // (Hq // Hkv)."
NO_SCALE, NO_LAST = "the scores are not multiplied by scale.", "the last tile of keys is dropped when it is not whole."
ALL_AND_CUT = "K[head][a:b] reads all keys of the head, and cuts then: K[head, a:b] reads the tile alone."
_of_grouped, _of_each = functools.partial(mistake, grouped_forward), functools.partial(mistake, _head_by_head)
GROUPED_MISTAKES = (
    _of_each("heads dealt like cards", CARDS, 1, "head // group", "head % len(K)"),
    _of_grouped("heads dealt like cards", CARDS, 1, "slice(head * group, (head + 1) * group)", "slice(head, None, heads_kv)"),
    _of_each(
        "divided by the wrong number",
        "query head h reads key head h // Hkv; the divisor is the size of a group, Hq // Hkv.",
        1,
        *("head // group", "head // len(K)"),
    ),
    _of_each("one key head for all", "every query head reads key head 0.", 1, "head // group", "0"),
    _of_grouped("scale forgotten", NO_SCALE, 2, "scale * q", "q"),
    _of_each("scale forgotten", NO_SCALE, 2, "scale * Q", "Q"),
    _of_grouped("ragged keys forgotten", NO_LAST, 2, "range(0, seqlen_k,", "range(0, seqlen_k // BLOCK_N * BLOCK_N,"),
    _of_each("ragged keys forgotten", NO_LAST, 2, "range(0, K.shape[1],", "range(0, K.shape[1] // BLOCK_N * BLOCK_N,"),
    _of_grouped(
        "rows unstacked in another order",
        "the rows of a group are stacked head by head and taken apart row by row.",
        2,
        *("reshape(group, -1, head_dim)", "reshape(-1, group, head_dim).transpose(1, 0, 2)"),
    ),
    Mistake(
        "read again for every query head",
        "each query head reads K and V for itself; the heads of a group can share what was read.",
        2,
        _head_by_head,
    ),
    _of_grouped(
        "one pass for all rows",
        "K and V are read once for all rows together: either both are taken out whole, or BLOCK_M is not used. In SRAM there is room "
        "for one tile of each, so every tile of BLOCK_M rows makes its own pass.",
        2,
        *("BLOCK_M", "seqlen_q"),
        *("Q, K, V, scale, seqlen_q, BLOCK_N", "Q, K, V, scale, BLOCK_M, BLOCK_N"),
    ),
    _of_grouped("all keys of a head", ALL_AND_CUT, 2, "[head, key : key + BLOCK_N]", "[head][key : key + BLOCK_N]"),
    _of_each("all keys of a head", ALL_AND_CUT, 2, "[key_head, key : key + BLOCK_N]", "[key_head][key : key + BLOCK_N]"),
)

# -------------------------------------------------------------------------------------------- 9.4, rows that see no key


def attend_rows(scores, values, grad_out):
    m = scores.max(axis=1)
    pivot = np.where(m == -np.inf, 0.0, m)
    p = np.exp(scores - pivot[:, None])
    l = p.sum(axis=1)
    divisor = np.where(l == 0, 1.0, l)
    p = p / divisor[:, None]
    out, lse = p @ values, m + np.log(divisor)
    grad_p = grad_out @ values.T
    delta = (p * grad_p).sum(axis=1)
    return out, lse, p * (grad_p - delta[:, None])


INF_MINUS_INF = "the maximum of a row that sees no key is -inf, and -inf - (-inf) is NaN."
NO_PIVOT, NO_DIVISOR = ("np.where(m == -np.inf, 0.0, m)", "m"), ("np.where(l == 0, 1.0, l)", "l")
SMALL = "a small number was added to the sum, and every row's result is a little too small: replace a sum of 0 by 1, and no other."
ONE_MAXIMUM = "one maximum serves all rows, and a row far below it sums to 0: each row needs its own, scores.max(axis=1)."
_of_rows = functools.partial(mistake, attend_rows)
ROWS_MISTAKES = (
    _of_rows("-inf minus -inf", INF_MINUS_INF, 1, *NO_PIVOT, *NO_DIVISOR),
    _of_rows("-inf minus -inf", INF_MINUS_INF, 1, *NO_PIVOT),
    _of_rows("0 / 0", "the sum of a row that sees no key is 0, and 0 / 0 is NaN: divide by 1 there.", 1, *NO_DIVISOR),
    _of_rows(
        "a row that sees nothing sees everything",
        "-inf was replaced by a large number, so a row without keys averages all values.",
        1,
        *("    m =", "    scores = np.maximum(scores, -1e9)\n    m ="),
    ),
    *(_of_rows("a small number added", SMALL, 1, NO_DIVISOR[0], f"l + {epsilon}") for epsilon in ("1e-6", "1e-8", "1e-9")),
    _of_rows("one maximum for all rows", ONE_MAXIMUM, 1, "scores.max(axis=1)", "np.full(len(scores), scores.max())"),
    _of_rows("one maximum for all rows", ONE_MAXIMUM, 1, "scores.max(axis=1)", "np.full(len(scores), scores.max())", *NO_DIVISOR),
    _of_rows(
        "lse is not -inf",
        "lse of a row that sees no key is -inf, the logarithm of an empty sum; it is m + log, not pivot + log.",
        2,
        *("m + np.log", "pivot + np.log"),
    ),
    _of_rows(
        "NaN in the gradient",
        "the gradient computes exp(scores - lse) again, and there -inf - (-inf) is NaN.",
        2,
        *("    grad_p =", "    p = np.exp(scores - lse[:, None])\n    grad_p ="),
    ),
    _of_rows(
        "no delta", "grad_scores is P * (dP - delta): the row sum of P * dP is not subtracted.", 2, "grad_p - delta[:, None]", "grad_p"
    ),
    _of_rows(
        "delta without P",
        "delta is the row sum of P * dP: here it is the sum of dP alone.",
        2,
        *("(p * grad_p).sum(axis=1)", "grad_p.sum(axis=1)"),
    ),
    _of_rows("the mean", "delta is the row sum of P * dP, not the mean.", 2, "(p * grad_p).sum(axis=1)", "(p * grad_p).mean(axis=1)"),
    _of_rows(
        "delta outside of the bracket",
        "delta belongs into the bracket: P * (dP - delta), not P * dP - delta.",
        2,
        *("p * (grad_p - delta[:, None])", "p * grad_p - delta[:, None]"),
    ),
    _of_rows("delta added", "delta is subtracted.", 2, "grad_p - delta", "grad_p + delta"),
    _of_rows("P forgotten", "grad_scores is P * (dP - delta): the factor P is missing.", 2, "p * (grad_p - delta", "(grad_p - delta"),
    _of_rows(
        "P not divided",
        "the gradient takes P before it is divided by its sum: P is the softmax.",
        2,
        *("p = p / divisor[:, None]", "P = p / divisor[:, None]", "p @ values", "P @ values"),
    ),
)
