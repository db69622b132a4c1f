"""Exercise 09, real attention: a mask, the walk that skips its empty tiles, heads that share keys, rows that see no key."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.memory import HBM
from flashlab.course.steps.online import finish, start, update

# ------------------------------------------------------------------------------------------------------------- 9.1, visible


def visible(i, j, seqlen_q, seqlen_k, left, right, bottom_right):
    """The answer of task 9.1."""
    diagonal = seqlen_k - seqlen_q if bottom_right else 0
    return _band(i, j, seqlen_k, -np.inf if left < 0 else diagonal - left, np.inf if right < 0 else diagonal + right)


def _band(i, j, seqlen_k, lowest, highest):
    return (j < seqlen_k) & (j >= i + lowest) & (j <= i + highest)


def visible_cases(rng):
    def case(text, seqlen_q, seqlen_k, left, right, bottom_right, rows=None, keys=None):
        i, j = np.arange(*(rows or (0, seqlen_q)))[:, None], np.arange(*(keys or (0, seqlen_k)))[None, :]
        return Case(text, (i, j, seqlen_q, seqlen_k, left, right, bottom_right))

    more, fewer = int(rng.integers(7, 12)), int(rng.integers(3, 6))
    return [
        case("3 rows, 3 keys, causal (left -1, right 0)", 3, 3, -1, 0, False),
        case("5 rows, 5 keys, window (1, 0)", 5, 5, 1, 0, False),
        case("6 rows, 6 keys, window (1, 2)", 6, 6, 1, 2, False),
        case("6 rows, 6 keys, window (2, -1): no right edge", 6, 6, 2, -1, False),
        case(f"{fewer} rows, {more} keys, causal, top left", fewer, more, -1, 0, False),
        case(f"{fewer} rows, {more} keys, causal, bottom right", fewer, more, -1, 0, True),
        case(f"{more} rows, {fewer} keys, causal, bottom right: the first rows see nothing", more, fewer, -1, 0, True),
        case(f"{fewer} rows, {more} keys, window (2, 1), bottom right", fewer, more, 2, 1, True),
        case("full attention, a tile of keys 4 ... 11 of which only 6 exist", 6, 6, -1, -1, False, keys=(4, 12)),
        case("a tile from the middle: rows 16 ... 23, keys 8 ... 23, window (9, 0)", 40, 40, 9, 0, False, rows=(16, 24), keys=(8, 24)),
    ]


def compare_visible(answer, case):
    i, j, *_ = case.arguments
    got, want = np.asarray(answer), visible(*case.arguments)
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
    return np.broadcast_to(np.asarray(answer), visible(*case.arguments).shape)


def _visible_variant(diagonal=lambda q, k, bottom_right: k - q if bottom_right else 0, inner=0, swap=False, literal=False, ends=True):
    """visible with one thing changed. inner: (left, right), by how much an edge lies too far inside."""
    too_left, too_right = inner or (0, 0)

    def wrong(i, j, seqlen_q, seqlen_k, left, right, bottom_right):
        if swap:
            left, right = right, left
        d = diagonal(seqlen_q, seqlen_k, bottom_right)
        lowest = -np.inf if left < 0 and not literal else d - left + too_left
        highest = np.inf if right < 0 and not literal else d + right - too_right
        return _band(i, j, seqlen_k if ends else np.inf, lowest, highest)

    return wrong


VISIBLE_MISTAKES = (
    Mistake("always top left", "the diagonal always starts at key 0; bottom_right is not used.", 1, _visible_variant(lambda q, k, b: 0)),
    Mistake(
        "diagonal the wrong way",
        "the diagonal moves the wrong way: at the bottom right row 0 meets key seqlen_k - seqlen_q.",
        1,
        _visible_variant(lambda q, k, b: q - k if b else 0),
    ),
    Mistake(
        "always bottom right",
        "the diagonal always ends in the last corner; without bottom_right row 0 meets key 0.",
        1,
        _visible_variant(lambda q, k, b: k - q),
    ),
    Mistake("right edge off by one", "the last key that a row sees is left out: use <=, not <.", 2, _visible_variant(inner=(0, 1))),
    Mistake("left edge off by one", "the first key that a row sees is left out: use >=, not >.", 2, _visible_variant(inner=(1, 0))),
    Mistake("sides swapped", "left and right are swapped: left counts keys before the diagonal.", 2, _visible_variant(swap=True)),
    Mistake("-1 taken as a number", "-1 means that there is no such edge; it is not a number of keys.", 2, _visible_variant(literal=True)),
    Mistake("keys past the end", "keys with j >= seqlen_k do not exist: no row sees them.", 2, _visible_variant(ends=False)),
)  # fmt: skip

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
    if not isinstance(answer, tuple | list) or len(answer) != 4:
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
        (lambda n: n not in partial + full, visited, "the tile at key {} is visited, and no row sees a key of it"),
        (lambda n: visited.count(n) > 1, visited, "the tile at key {} is visited twice"),
        (lambda n: n in partial, unmasked, "the tile at key {} counts as full, and some of its pairs are hidden"),
        (lambda n: n in full, masked, "the tile at key {} is masked, and all of its pairs are visible"),
    )
    numbers = "begin {}, full_begin {}, full_end {}, end {}".format(*answer)
    for is_wrong, candidates, words in complaints:
        found = [n for n in sorted(candidates) if is_wrong(n)]
        if found:
            return f"{numbers}: {words.format(found[0])}"
    return ""


def walk(first, last, seqlen_k, lowest, highest, block):
    """The answer of task 9.2."""
    return _walk_variant()(first, last, seqlen_k, lowest, highest, block)


def _walk_variant(
    rounded=True, clamped=True, end_row="last", in_keys=True, nothing=True, early=False,
    full_begin_up=True, full_end_up=False, full_row="first", ragged=True, ordered=True,
):  # fmt: skip
    """walk with one thing changed."""

    def wrong(first, last, seqlen_k, lowest, highest, block):
        row = {"first": first, "last": last}
        lowest_key = max(0, first + lowest) if clamped else first + lowest
        past_key = row[end_row] + highest + 1
        past_key = min(seqlen_k, past_key) if in_keys else past_key
        begin = lowest_key // block * block if rounded else lowest_key
        end = (past_key if lowest_key < past_key else begin) if nothing else max(0, past_key)
        if early and lowest_key >= past_key:
            return 0, 0, 0, 0
        full_begin = max(0, last + lowest)
        full_begin = -(-full_begin // block) * block if full_begin_up else full_begin // block * block
        full_end = max(0, row[full_row] + highest + 1)
        full_end = min(seqlen_k, full_end) if ragged else full_end
        full_end = -(-full_end // block) * block if full_end_up else full_end // block * block
        full_begin = min(full_begin, end)
        return begin, full_begin, max(full_begin, full_end) if ordered else full_end, end

    return wrong


def _everything(first, last, seqlen_k, lowest, highest, block):
    return 0, 0, 0, seqlen_k


def _all_masked(*arguments):
    begin, _, _, end = walk(*arguments)
    return begin, end, end, end


def _walk_mistakes(*described):
    """Each mistake twice: as those make it who return at once where nothing is to be seen, and those who do not."""
    return tuple(
        Mistake(name, sentence, hint, _walk_variant(early=early, **changes))
        for name, hint, sentence, changes in described
        for early in (False, True)
    )


WALK_MISTAKES = (
    Mistake("nothing is skipped", "every tile is visited; begin and end leave out those that no row sees.", 1, _everything),
    Mistake("no tile is full", "every visited tile is masked; those that all rows see whole need no mask.", 2, _all_masked),
    *_walk_mistakes(
        ("begin not rounded", 1, "begin is a key, and must be rounded down to the tile that holds it.", dict(rounded=False)),
        ("begin below zero", 1, "first + lowest may be negative, and there are no keys before 0.", dict(clamped=False)),
        ("end asks the first row", 1, "end must reach as far as the last row sees, not the first.", dict(end_row="first")),
        ("end past the keys", 1, "end must not pass seqlen_k.", dict(in_keys=False)),
        ("full_begin rounded down", 2, "full_begin is rounded down: the tile that the left edge cuts is not full.",
         dict(full_begin_up=False)),
        ("full_end rounded up", 2, "full_end is rounded up: the tile that the right edge, or the end of the keys, cuts is not full.",
         dict(full_end_up=True)),
        ("full_end asks the last row", 2, "a tile is full when the first row, too, sees its last key: full_end asks the first row.",
         dict(full_row="last")),
        ("ragged end not noticed", 2, "full_end must not pass seqlen_k: a tile that reaches past the last key is not full.",
         dict(ragged=False)),
        ("stretches overlap", 2, "in a narrow window full_end comes out below full_begin, and tiles are visited twice: keep them in order.",
         dict(ordered=False)),
    ),
    Mistake("begins past the last key", "these rows see no key at all, and the tile that begin was rounded down to is visited.", 1,
            _walk_variant(nothing=False)),
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------- 9.3, grouped heads


def grouped_cases(rng):
    def case(heads, heads_kv, seqlen_q, seqlen_k, block_m, block_n, head_dim=4):
        text = f"{heads} heads over {heads_kv}, {seqlen_q} rows, {seqlen_k} keys, BLOCK_M {block_m}, BLOCK_N {block_n}"
        arrays = (rng.normal(size=(h, s, head_dim)) for h, s in ((heads, seqlen_q), (heads_kv, seqlen_k), (heads_kv, seqlen_k)))
        return Case(text, (*arrays, 0.7, block_m, block_n))

    return [
        case(1, 1, 2, 4, 2, 2),
        case(2, 1, 4, 4, 2, 2),
        case(4, 2, 4, 6, 2, 3),
        case(6, 3, 6, 8, 2, 4),
        case(6, 2, 5, 7, 2, 3),
        case(8, 2, 7, 10, 3, 4),
        case(4, 4, 6, 6, 4, 4),
    ]


def call_grouped(attempt, Q, K, V, scale, BLOCK_M, BLOCK_N):
    """(out, bytes of K and V that were read)."""
    hbm = HBM()
    out = attempt(Q, hbm.array(K), hbm.array(V), scale, BLOCK_M, BLOCK_N)
    return np.array(out), hbm.bytes_read


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
    if out.shape != want.shape:
        return f"out has shape {out.shape}, expected {want.shape}"
    wrong = np.argwhere(~np.isclose(out.astype(float), want, rtol=compare.TOLERANCE, atol=compare.TOLERANCE))
    if len(wrong):
        heads = sorted({int(head) for head, _, _ in wrong})
        where = tuple(int(n) for n in wrong[0])
        return f"head {where[0]}, row {where[1]}: out is {out[where]:.6g}, expected {want[where]:.6g} (wrong heads: {_listed(heads)})"
    needed = grouped_bytes(*case.arguments)
    if read == needed:
        return ""
    return f"out is right; {read:,} bytes of K and V were read, one pass over them for each tile of rows is {needed:,}"


def _listed(heads):
    return ", ".join(map(str, heads[:6])) + (", …" if len(heads) > 6 else "")


def _grouped_meaning(answer, case):
    """A wrong out says all; beside a right one it counts whether too much or too little was read."""
    out, read = answer
    want = grouped_truth(*case.arguments)
    right = out.shape == want.shape and np.allclose(out, want)
    return out, float(np.sign(read - grouped_bytes(*case.arguments))) if right else 0.0


def _neighbours(head, heads, heads_kv):
    return head // (heads // heads_kv)


def _grouped_variant(key_head=_neighbours, scaled=True, ragged=True, shared=False):
    """The tiled forward pass with one thing changed. shared: the heads of a group share what is read of K and V."""

    def wrong(Q, K, V, scale, BLOCK_M, BLOCK_N):
        out = np.zeros(Q.shape)
        length = K.shape[1] if ragged else K.shape[1] // BLOCK_N * BLOCK_N
        group = len(Q) // len(K) if shared else 1
        for head in range(0, len(Q), group):
            kv = key_head(head, len(Q), len(K))
            for begin in range(0, Q.shape[1], BLOCK_M):
                q = Q[head : head + group, begin : begin + BLOCK_M]
                state = start(group * q.shape[1], q.shape[2])
                for key in range(0, length, BLOCK_N):
                    k, v = K[kv, key : key + BLOCK_N], V[kv, key : key + BLOCK_N]
                    state = update(*state, (scale if scaled else 1.0) * q.reshape(-1, q.shape[2]) @ k.T, v)
                out[head : head + group, begin : begin + BLOCK_M] = finish(*state)[0].reshape(q.shape)
        return out

    return wrong


def _whole(Q, K, V, scale, BLOCK_M, BLOCK_N):
    return grouped_truth(Q, np.array(K[:]), np.array(V[:]), scale)


def _unstacked_wrongly(Q, K, V, scale, BLOCK_M, BLOCK_N):
    right, out, group = _grouped_variant(shared=True)(Q, K, V, scale, BLOCK_M, BLOCK_N), np.zeros(Q.shape), len(Q) // len(K)
    for first in range(0, len(Q), group):
        for begin in range(0, Q.shape[1], BLOCK_M):
            tile = right[first : first + group, begin : begin + BLOCK_M]
            out[first : first + group, begin : begin + BLOCK_M] = tile.reshape(tile.shape[1], group, -1).transpose(1, 0, 2)
    return out


GROUPED_MISTAKES = (
    Mistake(
        "heads dealt like cards", "query head h reads key head h % Hkv; neighbours share: it is h // (Hq // Hkv).", 1,
        _grouped_variant(lambda head, heads, heads_kv: head % heads_kv),
    ),
    Mistake(
        "divided by the wrong number", "query head h reads key head h // Hkv; the divisor is the size of a group, Hq // Hkv.", 1,
        _grouped_variant(lambda head, heads, heads_kv: head // heads_kv),
    ),
    Mistake("one key head for all", "every query head reads key head 0.", 1, _grouped_variant(lambda head, heads, heads_kv: 0)),
    Mistake("scale forgotten", "the scores are not multiplied by scale.", 2, _grouped_variant(scaled=False, shared=True)),
    Mistake("scale forgotten", "the scores are not multiplied by scale.", 2, _grouped_variant(scaled=False)),
    Mistake("ragged keys forgotten", "the last tile of keys is dropped when it is not whole.", 2,
            _grouped_variant(ragged=False, shared=True)),
    Mistake("ragged keys forgotten", "the last tile of keys is dropped when it is not whole.", 2, _grouped_variant(ragged=False)),
    Mistake(
        "rows unstacked in another order", "the rows of a group are stacked head by head and taken apart row by row.", 2, _unstacked_wrongly
    ),
    Mistake(
        "read again for every query head", "each query head reads K and V for itself; the heads of a group can share what was read.", 2,
        _grouped_variant(),
    ),
    Mistake("K and V read whole", "K and V are taken out of HBM whole; in SRAM there is room for one tile of each.", 2, _whole),
)  # fmt: skip

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
        case("2 rows, 3 keys, all visible", rng.normal(size=(2, 3))),
        case("4 rows, 6 keys, some hidden", some),
        case("1 row that sees no key", np.full((1, 3), -np.inf)),
        case("3 rows, the middle one sees no key", with_hidden(rng.normal(size=(3, 4)), 1)),
        case("scores around 1000, and a row that sees no key", with_hidden(1000 + rng.normal(size=(3, 4)), 0)),
        case("scores around -1000, and a row that sees no key", with_hidden(-1000 + rng.normal(size=(3, 4)), 2)),
    ]


def attend_rows(scores, values, grad_out):
    """The answer of task 9.4."""
    return _rows_variant()(scores, values, grad_out)


def _rows_variant(pivoted=True, divided=True, lse_of="m", hidden=-np.inf, delta=True, probabilities="kept"):
    def wrong(scores, values, grad_out):
        scores = np.maximum(scores, hidden)
        m = scores.max(axis=1)
        pivot = np.where(m == -np.inf, 0.0, m) if pivoted else m
        p = np.exp(scores - pivot[:, None])
        l = p.sum(axis=1)
        divisor = np.where(l == 0, 1.0, l) if divided else l
        lse = (m if lse_of == "m" else pivot) + np.log(divisor)
        p = p / divisor[:, None]
        out = p @ values
        if probabilities == "again":
            p = np.exp(scores - lse[:, None])
        grad_p = grad_out @ values.T
        return out, lse, p * (grad_p - ((p * grad_p).sum(axis=1) if delta else np.zeros(len(p)))[:, None])

    return wrong


def compare_rows(answer, case):
    empty = np.isneginf(case.arguments[0]).all(axis=1)
    names = ("out", "lse", "grad_scores")
    return compare.arrays(names, answer, attend_rows(*case.arguments), lambda index: ", which sees no key" if empty[index[0]] else "")


ROWS_MISTAKES = (
    Mistake("-inf minus -inf", "the maximum of a row that sees no key is -inf, and -inf - (-inf) is NaN.", 1,
            _rows_variant(pivoted=False, divided=False)),
    Mistake("-inf minus -inf", "the maximum of a row that sees no key is -inf, and -inf - (-inf) is NaN.", 1, _rows_variant(pivoted=False)),
    Mistake("0 / 0", "the sum of a row that sees no key is 0, and 0 / 0 is NaN: divide by 1 there.", 1, _rows_variant(divided=False)),
    Mistake(
        "a row that sees nothing sees everything", "-inf was replaced by a large number, so a row without keys averages all values.", 1,
        _rows_variant(hidden=-1e9),
    ),
    Mistake(
        "lse is not -inf", "lse of a row that sees no key is -inf, the logarithm of an empty sum; it is m + log, not pivot + log.", 2,
        _rows_variant(lse_of="pivot"),
    ),
    Mistake(
        "NaN in the gradient", "the gradient computes exp(scores - lse) again, and there -inf - (-inf) is NaN.", 2,
        _rows_variant(probabilities="again"),
    ),
    Mistake("no delta", "grad_scores is P * (dP - delta): the row sum of P * dP is not subtracted.", 2, _rows_variant(delta=False)),
)  # fmt: skip

TASKS = (
    Task("9.1", "which pairs see each other", "visible", 20, visible_cases, compare_visible, VISIBLE_MISTAKES, meaning=_spread),
    Task("9.2", "the walk", "walk", 30, walk_cases, compare_walk, WALK_MISTAKES, meaning=_visited),
    Task(
        "9.3", "heads that share keys", "grouped_forward", 30, grouped_cases, compare_grouped, GROUPED_MISTAKES,
        call=call_grouped, meaning=_grouped_meaning,
    ),
    Task("9.4", "rows that see no key", "attend_rows", 20, rows_cases, compare_rows, ROWS_MISTAKES),
)  # fmt: skip
