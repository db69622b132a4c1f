"""Exercise 04, tiled attention: slices, one tile's walk, the whole forward pass, judged by its bytes too, and the rows that fit an SRAM."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.memory import HBM
from flashlab.course.steps import naive
from flashlab.course.steps.online import finish, start, update
from flashlab.course.steps.tiled import tiles

# ------------------------------------------------------------------------------------------------------------ what is right


def attend_tile(q, K, V, scale, BLOCK_N):
    return _walk_variant()(q, K, V, scale, BLOCK_N)


def tiled_forward(Q, K, V, Out, BLOCK_M, BLOCK_N):
    return _forward_variant()(Q, K, V, Out, BLOCK_M, BLOCK_N)


def rows_that_fit(sram_bytes, D, BLOCK_N, itemsize):
    """The most rows M with itemsize · (q and acc, k and v, the scores, m and l) ≤ sram_bytes; 0 if not even one fits."""
    return _rows_variant()(sram_bytes, D, BLOCK_N, itemsize)


# -------------------------------------------------------------------------------------------------------------------- cases


def tiles_cases(rng):
    sizes = [(4, 4), (8, 4), (3, 4), (10, 4), (1, 1), (100, 32), (int(rng.integers(20, 90)), int(rng.integers(5, 19)))]
    return [Case(f"length {length}, tiles of {block}", (length, block)) for length, block in sizes]


def _arrays(rng, rows, keys, D):
    return tuple(rng.normal(size=(n, D)) for n in (rows, keys, keys))


def walk_cases(rng):
    sizes = ((1, 4, 3, 4), (2, 8, 4, 4), (3, 7, 2, 4), (4, 4, 4, 4), (4, 64, 8, 8), (5, 100, 8, 16), (4, 400, 4, 4))
    cases = [
        Case(f"{rows} rows, {keys} keys, BLOCK_N {block}", (*_arrays(rng, rows, keys, D), 0.7 * D**-0.5, block))
        for rows, keys, D, block in sizes
    ]
    q, K, V = _arrays(rng, 2, 12, 4)
    growing = Case("scores that grow from tile to tile", (q, K * np.arange(1, 13)[:, None] * 5, V, 1.0, 4))
    return [*cases, growing, Case("scores of a thousand and more", (50 * abs(q), 50 * abs(K), V, 1.0, 4))]


def forward_cases(rng):
    sizes = ((4, 4, 3, 4, 4), (8, 8, 4, 4, 4), (6, 10, 2, 4, 4), (64, 64, 8, 8, 8), (50, 100, 8, 16, 8), (16, 400, 4, 4, 4))
    cases = [Case(f"{rows} rows, {keys} keys, tiles of {m} × {n}", (*_arrays(rng, rows, keys, D), m, n)) for rows, keys, D, m, n in sizes]
    Q, K, V = _arrays(rng, 6, 10, 4)
    return [*cases, Case("scores of a thousand and more", (50 * abs(Q), 50 * abs(K), V, 4, 4))]


def rows_cases(rng):
    sizes = [(1000, 4, 4, 4), (100 * 1024, 64, 32, 4), (100 * 1024, 64, 64, 2), (64 * 1024, 128, 64, 2), (300, 64, 64, 4)]
    sizes.append((1024 * int(rng.integers(20, 200)), 8 * int(rng.integers(2, 17)), 16 * int(rng.integers(1, 6)), 2))
    cases = [Case(f"{s:,} bytes, head dim {d}, BLOCK_N {n}, {b} bytes a number", (s, d, n, b)) for s, d, n, b in sizes]
    exact = 4 * (10 * (2 * 16 + 8 + 2) + 2 * 8 * 16)
    return [*cases, Case("ten rows fit to the byte", (exact, 16, 8, 4))]


# ---------------------------------------------------------------------------------------------- calls in counted memory


def call_walk(attempt, q, K, V, scale, BLOCK_N):
    """(out, bytes read, the most that lay in SRAM at once)."""
    hbm = HBM()
    out = attempt(q, hbm.array(K), hbm.array(V), scale, BLOCK_N)
    return (np.array(out) if isinstance(out, np.ndarray) else out), hbm.bytes_read, hbm.sram_peak


def call_forward(attempt, Q, K, V, BLOCK_M, BLOCK_N):
    """(Out, bytes read of Q, K, V and Out, bytes written, the most that lay in SRAM at once)."""
    hbm = HBM()
    arrays = (*map(hbm.array, (Q, K, V)), hbm.empty(Q.shape, Q.dtype))
    attempt(*arrays, BLOCK_M, BLOCK_N)
    return arrays[-1].numpy(), tuple(x.bytes_read for x in arrays), hbm.bytes_written, hbm.sram_peak


def _budget(rows, keys, D):
    """Bytes that a careful walk never needs at once, and one that holds a whole row of K or of scores does where there are many tiles."""
    return 8 * (8 * rows * D + 4 * keys * D + 6 * rows * keys + 8 * rows)


def _truth(Q, K, V, scale=None):
    return naive.forward(Q, K, V, scale=scale)[0]


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_slices(answer, case):
    want = tiles(*case.arguments)
    if not isinstance(answer, list | tuple) or not all(isinstance(one, slice) for one in answer):
        return "return a list of slices, as slice(0, 4)"
    if not all(isinstance(n, int | np.integer) for one in answer for n in (one.start, one.stop)):
        return "begin and end of a slice are whole numbers"
    pairs = [(one.start, one.stop) for one in answer]
    expected = [(one.start, one.stop) for one in want]
    return "" if pairs == expected else f"you have {_listed(pairs)}, expected {_listed(expected)}"


def _listed(pairs):
    return ", ".join(f"{a}:{b}" for a, b in pairs[:5]) + (", …" if len(pairs) > 5 else "") if pairs else "none"


def compare_walk(answer, case):
    out, read, peak = answer
    q, K, V, scale, BLOCK_N = case.arguments
    return (
        compare.arrays(("out",), out, _truth(q, K, V, scale))
        or _traffic("read", read, K.nbytes + V.nbytes)
        or _peak(peak, _budget(len(q), BLOCK_N, q.shape[1]))
    )


def compare_forward(answer, case):
    out, read, written, peak = answer
    Q, K, V, BLOCK_M, BLOCK_N = case.arguments
    if np.isnan(out).all() and not written:
        return "nothing was written to Out: Out[rows] = …"
    if np.isnan(out).any() and read[-1]:
        return "Out was read before it was written, and holds NaN until then: sum in SRAM, and write Out[rows] = … once"
    passes = -(-len(Q) // BLOCK_M)
    needed = (Q.nbytes, passes * K.nbytes, passes * V.nbytes, 0)
    return (
        compare.arrays(("Out",), out, _truth(Q, K, V))
        or next(
            filter(None, (_traffic("read", got, want, f" of {name}") for name, got, want in zip("QKV", read, needed, strict=False))), ""
        )
        or _traffic("read", read[-1], 0, " of Out")
        or _traffic("written", written, Q.nbytes)
        or _peak(peak, _budget(BLOCK_M, BLOCK_N, Q.shape[1]))
    )


def _traffic(word, got, want, of=""):
    if got == want:
        return ""
    kept = " (fewer than tile by tile: more than a tile was kept)" if got < want else ""
    ratio = f"; the ratio is {got / want:.3g}" if want else ""
    return f"the result is right; {got:,} bytes{of} were {word}, and {want:,} are needed{kept}{ratio}"


def _peak(peak, budget):
    return (
        ""
        if peak <= budget
        else f"the result is right, and so are the bytes; but {peak:,} bytes lay in SRAM at once, and the budget is {budget:,}"
    )


def walk_meaning(answer, case):
    out, read, peak = answer
    q, _, _, _, BLOCK_N = case.arguments
    return out, read, peak <= _budget(len(q), BLOCK_N, q.shape[1])


def forward_meaning(answer, case):
    out, read, written, peak = answer
    Q, _, _, BLOCK_M, BLOCK_N = case.arguments
    return out, read, written, peak <= _budget(BLOCK_M, BLOCK_N, Q.shape[1])


def slices_meaning(answer, case):
    return tuple(n for one in answer for n in (one.start, one.stop))


def compare_rows(answer, case):
    return compare.number(answer, rows_that_fit(*case.arguments), " rows")


# ------------------------------------------------------------------------------------------------- the mistakes people make


def _slices(begins, ends):
    return lambda length, block: [slice(n, ends(n, length, block)) for n in begins(length, block)]


def _walk_variant(
    scaled=True, kept=True, divided=True, rescaled=True, cut=tiles, whole=False, again=False, same_values=False, turned=True, dropped=False
):
    def wrong(q, K, V, scale, BLOCK_N):
        state = start(len(q), V.shape[1])
        everything = (K[:], V[:]) if whole else None
        for cols in cut(K.shape[0], BLOCK_N):
            k, v = (x[cols] for x in everything) if whole else (K[cols], V[slice(0, cols.stop - cols.start) if same_values else cols])
            if again:
                k = K[cols]
            scores = (scale if scaled else 1.0) * q @ (k.T if turned else k)
            if dropped:
                update(*state, scores, v)
            elif rescaled:
                state = update(*(state if kept else start(len(q), V.shape[1])), scores, v)
            else:
                p = np.exp(scores - scores.max(axis=1)[:, None])
                state = np.maximum(state[0], scores.max(axis=1)), state[1] + p.sum(axis=1), state[2] + p @ v
        return finish(*state)[0] if divided else state[2]

    return wrong


def _softmax_of_each_tile(q, K, V, scale, BLOCK_N):
    """Each tile's own softmax, summed."""
    return sum(naive.softmax(scale * q @ K[cols].T) @ V[cols] for cols in tiles(K.shape[0], BLOCK_N))


def _all_scores_first(q, K, V, scale, BLOCK_N):
    """A row of scores, put together from tiles."""
    columns = tiles(K.shape[0], BLOCK_N)
    p = naive.softmax(np.concatenate([scale * q @ K[cols].T for cols in columns], axis=1))
    return sum(p[:, cols] @ V[cols] for cols in columns)


def _forward_variant(
    keys_outside=False, q_again=False, whole_keys=False, rows=tiles, through_hbm=False, columns=tiles,
    scale_of=lambda D, BLOCK_M: D**-0.5, kept_keys=False,
):  # fmt: skip
    def wrong(Q, K, V, Out, BLOCK_M, BLOCK_N):
        scale = scale_of(Q.shape[1], BLOCK_M)
        if kept_keys:
            K, V = K[:], V[:]
        if keys_outside:
            return _keys_outside(Q, K, V, Out, BLOCK_M, BLOCK_N)
        for at in rows(Q.shape[0], BLOCK_M):
            q = Q[at]
            state = start(len(q), V.shape[1])
            everything = (K[:], V[:]) if whole_keys else None
            for cols in columns(K.shape[0], BLOCK_N):
                if q_again:
                    q = Q[at]
                k, v = (x[cols] for x in everything) if whole_keys else (K[cols], V[cols])
                state = update(*state, scale * q @ k.T, v)
                if through_hbm:
                    Out[at] = finish(*state)[0]
            Out[at] = finish(*state)[0]
        return None

    return wrong


def _keys_outside(Q, K, V, Out, BLOCK_M, BLOCK_N):
    """The loops the other way round: every tile of K visits every tile of Q, whose state lies in a list."""
    states = [start(at.stop - at.start, V.shape[1]) for at in tiles(Q.shape[0], BLOCK_M)]
    for cols in tiles(K.shape[0], BLOCK_N):
        k, v = K[cols], V[cols]
        for n, at in enumerate(tiles(Q.shape[0], BLOCK_M)):
            states[n] = update(*states[n], Q.shape[1] ** -0.5 * Q[at] @ k.T, v)
    for n, at in enumerate(tiles(Q.shape[0], BLOCK_M)):
        Out[at] = finish(*states[n])[0]


def _whole_row(Q, K, V, Out, BLOCK_M, BLOCK_N):
    for at in tiles(Q.shape[0], BLOCK_M):
        Out[at] = _all_scores_first(Q[at], K, V, Q.shape[1] ** -0.5, BLOCK_N)


def _rows_variant(rows=2, keys=2, keys_a_row=0, scores=True, sums=2, sized=True, up=0):
    def count(sram_bytes, D, BLOCK_N, itemsize):
        room = sram_bytes // (itemsize if sized else 1) - keys * BLOCK_N * D
        return max(0, room // (rows * D + keys_a_row * BLOCK_N * D + (BLOCK_N if scores else 0) + sums) + up)

    return count


def _floor(length, block):
    return [slice(n * block, (n + 1) * block) for n in range(length // block)]


TILES_MISTAKES = (
    Mistake("the rest is lost", "only whole tiles are there: the last one may be shorter.", 1, _floor),
    Mistake(
        "past the end",
        "the last slice ends past the length: min(begin + block, length).",
        2,
        _slices(lambda length, block: range(0, length, block), lambda n, length, block: n + block),
    ),
    Mistake(
        "an empty last tile",
        "there is an empty slice where the length is a multiple of the tile: range ends *before* length.",
        1,
        _slices(lambda length, block: range(0, length + 1, block), lambda n, length, block: min(n + block, length)),
    ),
    Mistake(
        "one apart",
        "a slice ends one too early: its stop is not part of it, so it is the next one's start.",
        2,
        _slices(lambda length, block: range(0, length, block), lambda n, length, block: min(n + block, length) - 1),
    ),
    Mistake(
        "a step of one",
        "a slice begins at every position: step by block.",
        1,
        _slices(lambda length, block: range(length), lambda n, length, block: min(n + block, length)),
    ),
)
WALK_MISTAKES = (
    Mistake("no scale", "the scores are not scaled.", 1, _walk_variant(scaled=False)),
    Mistake("the state starts anew", "each tile starts with an empty state, so only the last one counts.", 1, _walk_variant(kept=False)),
    Mistake("not divided", "acc is not divided by l at the end.", 1, _walk_variant(divided=False)),
    Mistake(
        "no rescale",
        "each tile is measured against its own maximum: what was summed before needs exp(m − m_new).",
        1,
        _walk_variant(rescaled=False),
    ),
    Mistake("the rest is lost", "the keys of the last, shorter tile are not visited.", 1, _walk_variant(cut=_floor)),
    Mistake(
        "always the first values",
        "every tile of K meets the first tile of V: both take the same slice.",
        1,
        _walk_variant(same_values=True),
    ),
    Mistake(
        "the whole of K at once", "K and V were loaded whole and then cut: an SRAM holds a tile of them.", 2, _walk_variant(whole=True)
    ),
    Mistake("not transposed", "k is (keys, D): the scores are q @ k.T.", 1, _walk_variant(turned=False)),
    Mistake("the new state is dropped", "update returns the new state: state = update(*state, scores, v).", 1, _walk_variant(dropped=True)),
    Mistake(
        "a softmax of each tile",
        "each tile has a softmax of its own, so each counts as if it were all: one (m, l, acc) lives through the walk.",
        1,
        _softmax_of_each_tile,
    ),
    Mistake(
        "all scores first",
        "the scores of all tiles are collected, and lie in SRAM at once: fold each tile into (m, l, acc) and let it go.",
        2,
        _all_scores_first,
    ),
    Mistake("loaded twice", "a tile of K is read from HBM twice: give what you read a name.", 2, _walk_variant(again=True)),
)
FORWARD_MISTAKES = (
    Mistake(
        "keys outside",
        "the loop over keys is outside, so Q is read again for every tile of keys: rows outside, keys inside.",
        2,
        _forward_variant(keys_outside=True),
    ),
    Mistake(
        "Q again and again",
        "the tile of Q is read again for every tile of keys: read it once, before the walk.",
        2,
        _forward_variant(q_again=True),
    ),
    Mistake("the whole of K at once", "K and V were loaded whole: they do not fit an SRAM.", 1, _forward_variant(whole_keys=True)),
    Mistake(
        "a whole row of scores", "all scores of a row lie in SRAM at once: fold each tile into (m, l, acc) and let it go.", 1, _whole_row
    ),
    Mistake(
        "K and V once for all",
        "K and V were read once, before the loop, and kept: they do not fit an SRAM. Each tile of rows reads them anew.",
        1,
        _forward_variant(kept_keys=True),
    ),
    Mistake("no scale", "the scores are not scaled: by D ** -0.5.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: 1.0)),
    Mistake("scale 1/D", "the scale is the root of that: D ** -0.5.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: 1 / D)),
    Mistake("scale √D", "the scores are to be divided by the root of D.", 1, _forward_variant(scale_of=lambda D, BLOCK_M: D**0.5)),
    Mistake(
        "scale of BLOCK_M",
        "the scale comes of the head dim, Q.shape[1], not of the rows of a tile.",
        1,
        _forward_variant(scale_of=lambda D, BLOCK_M: BLOCK_M**-0.5),
    ),
    Mistake("the last rows are lost", "the rows of the last, shorter tile are never written.", 1, _forward_variant(rows=_floor)),
    Mistake("the last keys are lost", "the keys of the last, shorter tile are not visited.", 1, _forward_variant(columns=_floor)),
    Mistake(
        "Out in every step",
        "Out is written after every tile of keys: write once, when the walk is over.",
        2,
        _forward_variant(through_hbm=True),
    ),
)
ROWS_MISTAKES = (
    Mistake("no acc", "acc lies in SRAM beside q, as large as it.", 1, _rows_variant(rows=1)),
    Mistake("no V", "a tile of V lies beside the tile of K.", 1, _rows_variant(keys=1)),
    Mistake("no scores", "the scores of the tile are missing: M × BLOCK_N numbers.", 1, _rows_variant(scores=False)),
    Mistake("no m and l", "m and l are missing: a number each for every row.", 1, _rows_variant(sums=0)),
    Mistake("m and l once", "m and l are two numbers for every row, not one.", 1, _rows_variant(sums=1)),
    Mistake(
        "K and V for each row", "the tiles of K and V are there once, however many rows there are.", 1, _rows_variant(keys=0, keys_a_row=2)
    ),
    Mistake("numbers, not bytes", "the SRAM is counted in bytes: a number takes itemsize of them.", 2, _rows_variant(sized=False)),
    Mistake("rounded up", "the last row does not fit: round down.", 2, _rows_variant(up=1)),
)

TASKS = (
    Task("4.1", "cut into tiles", "tiles", 15, tiles_cases, compare_slices, TILES_MISTAKES, meaning=slices_meaning),
    Task("4.2", "the walk of one tile", "attend_tile", 30, walk_cases, compare_walk, WALK_MISTAKES, call=call_walk, meaning=walk_meaning),
    Task(
        "4.3",
        "all tiles",
        "tiled_forward",
        30,
        forward_cases,
        compare_forward,
        FORWARD_MISTAKES,
        call=call_forward,
        meaning=forward_meaning,
    ),
    Task("4.4", "the rows that fit", "rows_that_fit", 25, rows_cases, compare_rows, ROWS_MISTAKES),
)
