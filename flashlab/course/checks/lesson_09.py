"""Exercise 09, real attention: a mask, the walk that skips its empty tiles, heads that share keys, rows that see no key."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.lesson_09_mistakes import (
    GROUPED_MISTAKES,
    ROWS_MISTAKES,
    VISIBLE_MISTAKES,
    WALK_MISTAKES,
    attend_rows,
    visible,
)
from flashlab.course.checks.task import Case, Task
from flashlab.course.memory import HBM

# ------------------------------------------------------------------------------------------------------------- 9.1, visible


def visible_cases(rng):
    def case(text, seqlen_q, seqlen_k, left, right, bottom_right, rows=None, keys=None):
        i, j = np.arange(*(rows or (0, seqlen_q)))[:, None], np.arange(*(keys or (0, seqlen_k)))[None, :]
        return Case(text, (i, j, seqlen_q, seqlen_k, left, right, bottom_right))

    more, fewer = int(rng.integers(7, 12)), int(rng.integers(3, 6))
    return [
        case("3 rows, 3 keys, causal (left -1, right 0)", 3, 3, -1, 0, False),
        case("5 rows, 5 keys, window (1, 0)", 5, 5, 1, 0, False),
        case("6 rows, 6 keys, window (1, 2)", 6, 6, 1, 2, False),
        case("6 rows, 6 keys, window (0, 2)", 6, 6, 0, 2, False),
        case("6 rows, 6 keys, window (2, -1): no right edge", 6, 6, 2, -1, False),
        case(f"{fewer} rows, {more} keys, causal, top left", fewer, more, -1, 0, False),
        case(f"{more} rows, {fewer} keys, causal, top left", more, fewer, -1, 0, False),
        case(f"{fewer} rows, {more} keys, causal, bottom right", fewer, more, -1, 0, True),
        case(f"{more} rows, {fewer} keys, causal, bottom right: the first rows see nothing", more, fewer, -1, 0, True),
        case(f"{fewer} rows, {more} keys, window (2, 1), bottom right", fewer, more, 2, 1, True),
        case("3 rows, 9 keys, window (1, -1), bottom right", 3, 9, 1, -1, True),
        case("full attention, a tile of keys 4 ... 11 of which only 6 exist", 6, 6, -1, -1, False, keys=(4, 12)),
        case("a tile from the middle: rows 16 ... 23, keys 8 ... 23, window (9, 0)", 40, 40, 9, 0, False, rows=(16, 24), keys=(8, 24)),
    ]


def compare_visible(answer, case):
    i, j, *_ = case.arguments
    got, want = np.asarray(answer), _spread(visible(*case.arguments), case)
    if got.dtype != bool:
        return f"return an array of True and False; got {got.dtype if isinstance(answer, np.ndarray) else type(answer).__name__}"
    try:
        got = np.broadcast_to(got, want.shape)
    except ValueError:
        return f"the mask has shape {got.shape}; for i {i.shape} and j {j.shape} it is {want.shape}"
    wrong = np.argwhere(got != want)
    if not len(wrong):
        return ""
    row, key = wrong[0]
    return f"row {i[row, 0]}, key {j[0, key]}: {got[row, key]}, expected {want[row, key]} ({len(wrong)} of {want.size} pairs are wrong)"


def _spread(answer, case):
    i, j, *_ = case.arguments
    return np.broadcast_to(np.asarray(answer), np.broadcast_shapes(i.shape, j.shape))


# ---------------------------------------------------------------------------------------------------------------- 9.2, walk


def walk_cases(rng):
    def case(text, first, last, seqlen_k, lowest, highest, block):
        arguments = (first, last, seqlen_k, lowest, highest, block)
        return Case(f"{text}: walk{arguments}", arguments)

    def drawn(number):
        block, rows, seqlen_k = (int(n) for n in rng.integers((2, 1, 20), (8, 9, 50)))
        first = int(rng.integers(0, 30))
        left, right = (int(n) for n in rng.integers(0, 12, size=2))
        diagonal = int(rng.integers(-6, 7))
        return case(f"a drawn window, number {number}", first, first + rows, seqlen_k, diagonal - left, diagonal + right, block)

    return [
        case("full attention over 8 keys", 0, 3, 8, -4, 8, 4),
        case("causal, the first rows", 0, 3, 16, -16, 0, 4),
        case("causal, rows from the middle", 8, 11, 16, -16, 0, 4),
        case("causal, rows that begin and end with a tile's last and first key", 11, 12, 16, -16, 0, 4),
        case("full attention over 10 keys, a ragged end", 4, 7, 10, -8, 10, 4),
        case("causal with tall tiles of rows", 8, 15, 24, -24, 0, 4),
        case("causal with wide tiles of keys", 8, 11, 24, -24, 0, 8),
        case("a window with 5 keys to the left, causal", 16, 19, 24, -5, 0, 4),
        case("a window with 13 keys to the left, causal", 24, 27, 40, -13, 0, 4),
        case("a window to both sides", 16, 19, 40, -8, 9, 4),
        case("a window smaller than a tile", 10, 13, 32, -1, 1, 8),
        case("a window at the left end", 0, 3, 32, -6, 6, 4),
        case("bottom right, more rows than keys: the first rows see nothing at all", 0, 3, 10, -16, -6, 4),
        case("bottom right, more rows than keys: half of the rows see nothing", 4, 7, 10, -16, -6, 4),
        case("a window that has left the last key behind", 20, 23, 10, -3, 0, 4),
        case("a window that begins just past the last key", 14, 17, 10, -3, 0, 4),
        *(drawn(number) for number in range(1, 7)),
    ]


def _band(i, j, seqlen_k, lowest, highest):
    return (j < seqlen_k) & (j >= i + lowest) & (j <= i + highest)


def _kinds(first, last, seqlen_k, lowest, highest, block):
    """(partial tiles, full tiles) by their first keys, from the definition."""
    i, partial, full = np.arange(first, last + 1)[:, None], [], []
    for begin in range(0, seqlen_k, block):
        seen = _band(i, np.arange(begin, begin + block)[None, :], seqlen_k, lowest, highest)
        if seen.any():
            (full if seen.all() else partial).append(begin)
    return partial, full


def _stretches(answer, case):
    """(masked tiles, unmasked tiles) that a kernel visits between the four numbers; past 1,000 tiles it is cut."""
    block = case.arguments[-1]
    begin, full_begin, full_end, end = (int(number) for number in answer)
    masked = [*range(begin, full_begin, block)[:1000], *range(full_end, end, block)[:1000]]
    return masked, list(range(full_begin, full_end, block)[:1000])


def _visited(answer, case):
    masked, unmasked = _stretches(answer, case)
    return np.array(masked), np.array(unmasked)


def compare_walk(answer, case):
    if not isinstance(answer, tuple | list | np.ndarray) or np.shape(answer) != (4,):
        return "return four numbers: begin, full_begin, full_end, end"
    if not all(isinstance(number, int | np.integer) for number in answer):
        return f"the four numbers are whole: use //, not /; got {', '.join(type(number).__name__ for number in answer)}"
    *_, block = case.arguments
    partial, full = _kinds(*case.arguments)
    masked, unmasked = _stretches(answer, case)
    visited = masked + unmasked
    complaints = (
        (lambda n: n % block, visited, f"a visited tile begins at key {{}}, which is no multiple of the tile size {block}"),
        (lambda n: n not in visited, partial + full, "the tile at key {} holds visible pairs and is skipped"),
        (lambda n: n not in partial + full, visited, "no row sees a key of the tile at key {}"),
        (lambda n: visited.count(n) > 1, visited, "the tile at key {} is visited twice"),
        (lambda n: n in partial, unmasked, "the tile at key {} counts as full, and some of its pairs are hidden"),
        (lambda n: n in full, masked, "the tile at key {} is masked, and all of its pairs are visible"),
    )
    told = "begin {}, full_begin {}, full_end {}, end {}".format(*answer)
    told += f": masked are the tiles at {_listed(masked)}, unmasked those at {_listed(unmasked)}"
    for is_wrong, candidates, words in complaints:
        found = [n for n in sorted(candidates) if is_wrong(n)]
        if found:
            return f"{told}; {words.format(found[0])}"
    return ""


# ------------------------------------------------------------------------------------------------------- 9.3, grouped heads


def grouped_cases(rng):
    def case(heads, heads_kv, seqlen_q, seqlen_k, block_m, block_n, head_dim=4):
        text = f"{heads} heads over {heads_kv}, {seqlen_q} rows, {seqlen_k} keys, BLOCK_M {block_m}, BLOCK_N {block_n}"
        arrays = (rng.normal(size=(h, s, head_dim)) for h, s in ((heads, seqlen_q), (heads_kv, seqlen_k), (heads_kv, seqlen_k)))
        return Case(text, (*arrays, 0.7, block_m, block_n))

    return [
        case(1, 1, 2, 4, 2, 2),
        case(6, 3, 4, 4, 2, 2),  # the first with groups: no wrong way to deal out heads is right here
        case(2, 1, 4, 6, 2, 3),
        case(4, 2, 6, 8, 2, 4),
        case(6, 2, 5, 7, 2, 3),
        case(8, 2, 7, 10, 3, 4),
        case(4, 4, 6, 6, 4, 4),
    ]


def call_grouped(attempt, Q, K, V, scale, BLOCK_M, BLOCK_N):
    """(out, bytes of K and V that were read)."""
    hbm = HBM()
    out = attempt(Q, hbm.array(K), hbm.array(V), scale, BLOCK_M, BLOCK_N)
    return np.array(out) if isinstance(out, np.ndarray | list) else out, hbm.bytes_read


def grouped_truth(Q, K, V, scale, *_):
    K, V = (np.repeat(x, len(Q) // len(x), axis=0) for x in (K, V))
    scores = scale * Q @ K.transpose(0, 2, 1)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True) @ V


def grouped_bytes(Q, K, V, scale, BLOCK_M, BLOCK_N):
    """What must be read of K and V: each tile once for every tile of rows, whatever the number of query heads."""
    return -(-Q.shape[1] // BLOCK_M) * (K.nbytes + V.nbytes)


def compare_grouped(answer, case):
    out, read = answer
    want = grouped_truth(*case.arguments)
    difference = compare.arrays(("out",), out, want)
    if difference:
        fits = isinstance(out, np.ndarray) and out.shape == want.shape
        heads = [n for n, head in enumerate(want) if fits and not np.allclose(out[n], head, atol=compare.TOLERANCE)]
        return difference + (f" (wrong heads: {_listed(heads)})" if len(heads) > 1 else "")
    needed = grouped_bytes(*case.arguments)
    if read == needed:
        return ""
    return f"out is right; {read:,} bytes of K and V were read, one pass over them for each tile of rows is {needed:,}"


def _listed(numbers):
    return (", ".join(map(str, numbers[:6])) + (", …" if len(numbers) > 6 else "")) or "none"


def _grouped_meaning(answer, case):
    """A wrong out says all; beside a right one it counts how much was read."""
    out, read = answer
    return out, 0 if compare.arrays(("out",), out, grouped_truth(*case.arguments)) else read


# -------------------------------------------------------------------------------------------- 9.4, rows that see no key


def rows_cases(rng):
    def case(text, scores, head_dim=3):
        values, grad_out = rng.normal(size=(scores.shape[1], head_dim)), rng.normal(size=(len(scores), head_dim))
        return Case(text, (scores, values, grad_out))

    def with_hidden(scores, *rows):
        scores[list(rows)] = -np.inf
        return scores

    some = rng.normal(size=(4, 6))
    some[rng.random(size=(4, 6)) < 0.4] = -np.inf
    some[:, 2] = 0.3
    return [
        case("2 rows, 3 keys, all visible", rng.normal(size=(2, 3)), head_dim=4),
        case("4 rows, 6 keys, some hidden", some),
        case("1 row that sees no key", np.full((1, 3), -np.inf)),
        case("3 rows, the middle one sees no key", with_hidden(rng.normal(size=(3, 4)), 1)),
        case("scores around 1000 and around -1000, in turn", rng.normal(size=(4, 3)) + 1000 * np.array([[1], [-1], [1], [-1]])),
        case("scores around 1000, and a row that sees no key", with_hidden(1000 + rng.normal(size=(3, 4)), 0)),
        case("scores around -1000, and a row that sees no key", with_hidden(-1000 + rng.normal(size=(3, 4)), 2)),
    ]


def compare_rows(answer, case):
    empty = np.isneginf(case.arguments[0]).all(axis=1)
    names = ("out", "lse", "grad_scores")
    return compare.arrays(names, answer, attend_rows(*case.arguments), lambda index: ", which sees no key" if empty[index[0]] else "")


TASKS = (
    Task("9.1", "which pairs see each other", "visible", 20, visible_cases, compare_visible, VISIBLE_MISTAKES, meaning=_spread),
    Task("9.2", "the walk", "walk", 30, walk_cases, compare_walk, WALK_MISTAKES, meaning=_visited),
    Task(
        "9.3", "heads that share keys", "grouped_forward", 30, grouped_cases, compare_grouped, GROUPED_MISTAKES,
        call=call_grouped, meaning=_grouped_meaning,
    ),
    Task("9.4", "rows that see no key", "attend_rows", 20, rows_cases, compare_rows, ROWS_MISTAKES),
)  # fmt: skip
