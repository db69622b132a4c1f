"""Exercise 06, first Triton kernels: numbers in blocks, a row's softmax, and a product of matrices, each launched between guards."""

import numpy as np
import triton
import triton.language as tl

from flashlab.course.checks.guarded import Launched, Variant, compare_launched, launch, meaning
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def axpy_cases(rng):
    sizes = ((4, 4), (8, 4), (6, 4), (1, 16), (100, 32), (int(rng.integers(130, 200)), 64))
    return [Case(f"{n} numbers, blocks of {block}", (_floats(rng, n), _floats(rng, n), 1.5, block)) for n, block in sizes]


def softmax_cases(rng):
    sizes = ((1, 4), (3, 4), (2, 3), (4, 13), (5, int(rng.integers(17, 31))))
    cases = [Case(f"{rows} rows of {columns}", (_floats(rng, rows, columns),)) for rows, columns in sizes]
    below = Case("scores around -1000, rows of 5", (_floats(rng, 2, 5) - 1000,))
    return [*cases, Case("scores around 1000, rows of 5", (_floats(rng, 2, 5) + 1000,)), below]


def matmul_cases(rng):
    sizes = ((16, 16, 16, 16), (16, 16, 48, 16), (32, 48, 16, 16), (16, 16, 20, 16), (20, 16, 16, 16), (16, 20, 16, 16), (37, 21, 50, 16))
    cases = [Case(f"({m}, {k}) times ({k}, {n}), tiles of {b}", (_floats(rng, m, k), _floats(rng, k, n), b, b, b)) for m, n, k, b in sizes]
    for m, n, k, *tiles in ((64, 48, 300, 32, 16, 16), (48, 64, 90, 16, 32, 64)):
        text = f"({m}, {k}) times ({k}, {n}), BLOCK_M, BLOCK_N, BLOCK_K = {', '.join(map(str, tiles))}"
        cases.append(Case(text, (_floats(rng, m, k), _floats(rng, k, n), *tiles)))
    return cases


# -------------------------------------------------------------------------------------------------------------------- calls


def call_axpy(kernel, x, y, a, block):
    return launch(kernel, (triton.cdiv(len(x), block),), (x, y), [x.shape], a, len(x), BLOCK=block)


def call_softmax(kernel, x):
    return launch(kernel, (len(x),), (x,), [x.shape], x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))


def call_matmul(kernel, a, b, BLOCK_M, BLOCK_N, BLOCK_K):
    (m, k), n = a.shape, b.shape[1]
    grid = (triton.cdiv(m, BLOCK_M), triton.cdiv(n, BLOCK_N))
    return launch(kernel, grid, (a, b), [(m, n)], m, n, k, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_axpy(answer: Launched, case):
    x, y, a, _ = case.arguments
    return compare_launched(answer, ("Out",), (np.float64(a) * x + y,), 4 * EPSILON, 2 * x.size, x.size)


def compare_softmax(answer: Launched, case):
    [x] = case.arguments
    tolerance = 4 * EPSILON * max(x.shape[1], np.abs(x).max())  # a score's own rounding becomes its exponential's
    return compare_launched(answer, ("Out",), (naive.softmax(x.astype(np.float64)),), tolerance, x.size, x.size)


def compare_matmul(answer: Launched, case):
    a, b, BLOCK_M, BLOCK_N, _ = case.arguments
    loaded = a.size * triton.cdiv(b.shape[1], BLOCK_N) + b.size * triton.cdiv(a.shape[0], BLOCK_M)
    return compare_launched(answer, ("Out",), (a.astype(np.float64) @ b,), 4 * EPSILON * a.shape[1], loaded, a.shape[0] * b.shape[1])


# ------------------------------------------------------------------------------------------------- the mistakes people make


@triton.jit
def _axpy(
    X, Y, Out, a, n, BLOCK: tl.constexpr,
    MASK_LOAD: tl.constexpr, MASK_STORE: tl.constexpr, ONE_MORE: tl.constexpr, STEP: tl.constexpr, SCALE_Y: tl.constexpr,
):  # fmt: skip
    offsets = tl.program_id(0) * (STEP if STEP else BLOCK) + tl.arange(0, BLOCK)
    inside = offsets < n + ONE_MORE
    everywhere = offsets >= 0
    x = tl.load(X + offsets, mask=inside if MASK_LOAD else everywhere)
    y = tl.load(Y + offsets, mask=inside if MASK_LOAD else everywhere)
    out = x + a * y if SCALE_Y else a * x + y
    tl.store(Out + offsets, out, mask=inside if MASK_STORE else everywhere)


@triton.jit
def _softmax(
    X, Out, columns, BLOCK: tl.constexpr,
    OTHER: tl.constexpr, MAXIMUM: tl.constexpr, MASK_LOAD: tl.constexpr, MASK_STORE: tl.constexpr, STRIDE: tl.constexpr,
    DIVIDE: tl.constexpr, AGAIN: tl.constexpr, FLAT_MASK: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    inside, everywhere = offsets < columns, offsets >= 0
    begin = tl.program_id(0) * (columns if STRIDE == "columns" else BLOCK)
    store_begin = begin if STRIDE == "block everywhere" else tl.program_id(0) * columns
    if FLAT_MASK:
        inside = begin + offsets < columns
    x = tl.load(X + begin + offsets, mask=inside if MASK_LOAD else everywhere, other=OTHER)
    p = tl.exp(x - tl.max(x, axis=0)) if MAXIMUM else tl.exp(x)
    if AGAIN:
        x = tl.load(X + begin + offsets, mask=inside, other=OTHER)
    out = p / tl.sum(p, axis=0) if DIVIDE else p
    tl.store(Out + store_begin + offsets, out, mask=inside if MASK_STORE else everywhere)


@triton.jit
def _matmul(
    A, B, Out, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    MASK_K: tl.constexpr, ADD: tl.constexpr, B_STRIDE: tl.constexpr, MASK_STORE: tl.constexpr, WHOLE_STEPS: tl.constexpr,
    SWAPPED: tl.constexpr, MASK_ROWS: tl.constexpr, MASK_COLS: tl.constexpr, MASK_K_OF_B: tl.constexpr, TRANSPOSED: tl.constexpr,
    A_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(1 if SWAPPED else 0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(0 if SWAPPED else 1) * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows, in_cols = (rows < M)[:, None], (cols < N)[None, :]
    if not MASK_ROWS:
        in_rows = (rows >= 0)[:, None]
    if not MASK_COLS:
        in_cols = (cols >= 0)[None, :]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    end = K // BLOCK_K * BLOCK_K if WHOLE_STEPS else K
    for start in range(0, end, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        in_k = inner < K if MASK_K else inner >= 0
        in_k_of_b = in_k if MASK_K_OF_B else inner >= 0
        a = tl.load(A + rows[:, None] * (M if A_STRIDE == "M" else K) + inner[None, :], mask=in_rows & in_k[None, :], other=0.0)
        b = tl.load(B + inner[:, None] * (K if B_STRIDE == "K" else N) + cols[None, :], mask=in_k_of_b[:, None] & in_cols, other=0.0)
        product = tl.dot(a, b, input_precision="ieee")
        acc = acc + product if ADD else product
    if TRANSPOSED:
        tl.store(Out + rows[:, None] + cols[None, :] * M, acc, mask=(rows < M)[:, None] & (cols < N)[None, :])
    else:
        inside = (rows < M)[:, None] & (cols < N)[None, :] if MASK_STORE else (rows >= 0)[:, None] & (cols >= 0)[None, :]
        tl.store(Out + rows[:, None] * (M if OUT_STRIDE == "M" else N) + cols[None, :], acc, mask=inside)


def _variant(kernel, right):
    return lambda **changes: Variant(kernel, **right | changes)


_axpy_variant = _variant(_axpy, dict(MASK_LOAD=True, MASK_STORE=True, ONE_MORE=0, STEP=0, SCALE_Y=False))
_softmax_variant = _variant(
    _softmax,
    dict(OTHER=-float("inf"), MAXIMUM=True, MASK_LOAD=True, MASK_STORE=True, STRIDE="columns", DIVIDE=True, AGAIN=False, FLAT_MASK=False),
)
_matmul_variant = _variant(
    _matmul,
    dict(
        MASK_K=True,
        ADD=True,
        A_STRIDE="K",
        B_STRIDE="N",
        OUT_STRIDE="N",
        MASK_STORE=True,
        WHOLE_STEPS=False,
        SWAPPED=False,
        MASK_ROWS=True,
        MASK_COLS=True,
        MASK_K_OF_B=True,
        TRANSPOSED=False,
    ),
)

AXPY_MISTAKES = (
    Mistake("no mask on the load", "the last block loads past the end of X and Y.", 2, _axpy_variant(MASK_LOAD=False)),
    Mistake("no mask on the store", "the last block stores past the end of Out.", 2, _axpy_variant(MASK_STORE=False)),
    Mistake("no masks", "nothing is masked: the last block reaches past the end.", 2, _axpy_variant(MASK_LOAD=False, MASK_STORE=False)),
    Mistake("one too many", "position n is no longer inside: offsets < n, not <=.", 2, _axpy_variant(ONE_MORE=1)),
    Mistake(
        "every program the first block",
        "every program works near the first block: it begins at program_id · BLOCK.",
        1,
        _axpy_variant(STEP=1),
    ),
    Mistake("a meets Y", "a belongs to X: a · X + Y.", 1, _axpy_variant(SCALE_Y=True)),
)
SOFTMAX_MISTAKES = (
    Mistake(
        "missing scores count as 0",
        "what the mask leaves out has the score 0, and exp(0 − m) is not 0: other=-inf.",
        2,
        _softmax_variant(OTHER=0.0),
    ),
    Mistake("no maximum", "exp of a large score overflows: subtract the row's maximum.", 1, _softmax_variant(MAXIMUM=False)),
    Mistake("no mask on the load", "the row is read past its end: into the next row, or out of X.", 2, _softmax_variant(MASK_LOAD=False)),
    Mistake(
        "no mask on the store", "the row is written past its end: into the next row, or out of Out.", 2, _softmax_variant(MASK_STORE=False)
    ),
    Mistake(
        "rows begin at BLOCK",
        "a row begins at row · columns: BLOCK is the length of the tile, not of the row.",
        1,
        _softmax_variant(STRIDE="block"),
    ),
    Mistake(
        "rows begin at BLOCK, in Out too",
        "a row begins at row · columns, in X and in Out: BLOCK is the length of the tile, not of the row.",
        1,
        _softmax_variant(STRIDE="block everywhere"),
    ),
    Mistake(
        "no other",
        "what the mask leaves out has no value unless the load gives it one: other=-inf.",
        2,
        _softmax_variant(OTHER=None),
    ),
    Mistake(
        "the mask counts from X",
        "the mask asks where in X a number lies, so only the first row is inside: ask where in its row, offsets < columns.",
        2,
        _softmax_variant(FLAT_MASK=True),
    ),
    Mistake("not divided", "divide by the sum of the row.", 1, _softmax_variant(DIVIDE=False)),
    Mistake("read twice", "the row is loaded twice: keep what you have loaded.", 2, _softmax_variant(AGAIN=True)),
)
MATMUL_MISTAKES = (
    Mistake(
        "no mask along K",
        "the last step along K reads past the end: into the next row, or out of the matrix.",
        2,
        _matmul_variant(MASK_K=False),
    ),
    Mistake(
        "no mask along K of B",
        "A is masked along K and B is not: 0 times what lies past B is no 0 where that is NaN.",
        2,
        _matmul_variant(MASK_K_OF_B=False),
    ),
    Mistake(
        "no mask on A's rows",
        "A is loaded without the mask of its rows. (With `and` in place of `&`, only one of two masks counts.)",
        2,
        _matmul_variant(MASK_ROWS=False),
    ),
    Mistake(
        "no mask on B's columns",
        "B is loaded without the mask of its columns. (With `and` in place of `&`, only one of two masks counts.)",
        2,
        _matmul_variant(MASK_COLS=False),
    ),
    Mistake("A's rows begin at M", "a row of A has K numbers: A + rows · K + inner.", 1, _matmul_variant(A_STRIDE="M")),
    Mistake("Out's rows begin at M", "a row of Out has N numbers: Out + rows · N + cols.", 1, _matmul_variant(OUT_STRIDE="M")),
    Mistake("replaced, not added", "each step replaces acc: add.", 1, _matmul_variant(ADD=False)),
    Mistake("B's rows begin at K", "a row of B has N numbers: B + inner · N + cols.", 1, _matmul_variant(B_STRIDE="K")),
    Mistake("no mask on the store", "tiles at the edge are written past it.", 2, _matmul_variant(MASK_STORE=False)),
    Mistake("the last step is missing", "the loop ends before the last, shorter step along K.", 1, _matmul_variant(WHOLE_STEPS=True)),
    Mistake(
        "rows and columns swapped",
        "program_id(0) is the tile of rows, and program_id(1) that of columns.",
        1,
        _matmul_variant(SWAPPED=True),
    ),
    Mistake(
        "no mask at the edges",
        "tiles at the edge load rows of A and columns of B that do not exist.",
        2,
        _matmul_variant(MASK_ROWS=False, MASK_COLS=False),
    ),
    Mistake("transposed", "Out is written transposed: Out + rows · N + cols.", 1, _matmul_variant(TRANSPOSED=True)),
)

TASKS = (
    Task("6.1", "a · X + Y", "axpy_kernel", 25, axpy_cases, compare_axpy, AXPY_MISTAKES, call=call_axpy, meaning=meaning),
    Task(
        "6.2",
        "softmax of a row",
        "softmax_kernel",
        35,
        softmax_cases,
        compare_softmax,
        SOFTMAX_MISTAKES,
        call=call_softmax,
        meaning=meaning,
    ),
    Task(
        "6.3",
        "a product of matrices",
        "matmul_kernel",
        40,
        matmul_cases,
        compare_matmul,
        MATMUL_MISTAKES,
        call=call_matmul,
        meaning=meaning,
    ),
)
