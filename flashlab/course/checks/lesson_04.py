"""Exercise 04, tiled attention: slices, one tile's walk, the whole forward pass, judged by its bytes too, and the rows that fit an SRAM."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.lesson_04_mistakes import FORWARD_MISTAKES, ROWS_MISTAKES, TILES_MISTAKES, WALK_MISTAKES, rows_that_fit
from flashlab.course.checks.task import Case, Task
from flashlab.course.memory import HBM
from flashlab.course.steps import naive
from flashlab.course.steps.tiled import tiles

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
    sizes += ((400, 16, 4, 4, 4), (128, 400, 4, 128, 4))  # many rows; and tiles of rows that are much higher than those of keys
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
    if any(one.step not in (None, 1) for one in answer):
        return compare.Explained("a slice has a begin and an end here: a third number is its step, and leaves out what lies between")
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
