"""Exercise 06, first Triton kernels: numbers in blocks, a row's softmax, and a product of matrices, each launched between guards."""

import functools

import numpy as np
import triton
import triton.language as tl

from flashlab.course.checks.edited import edited
from flashlab.course.checks.guarded import Launched, compare_launched, launch, meaning
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
    return compare_launched(answer, ("Out",), (np.float64(a) * x + y,), 4 * EPSILON, (x.size, x.size))


def compare_softmax(answer: Launched, case):
    [x] = case.arguments
    tolerance = 4 * EPSILON * max(x.shape[1], np.abs(x).max())  # a score's own rounding becomes its exponential's
    return compare_launched(answer, ("Out",), (naive.softmax(x.astype(np.float64)),), tolerance, (x.size,))


def compare_matmul(answer: Launched, case):
    a, b, BLOCK_M, BLOCK_N, _ = case.arguments
    loaded = a.size * triton.cdiv(b.shape[1], BLOCK_N), b.size * triton.cdiv(a.shape[0], BLOCK_M)
    return compare_launched(answer, ("Out",), (a.astype(np.float64) @ b,), 4 * EPSILON * a.shape[1], loaded)


# ------------------------------------------------------------------------------------------------- the mistakes people make


@triton.jit
def _axpy(X, Y, Out, a, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    x = tl.load(X + offsets, mask=inside)
    y = tl.load(Y + offsets, mask=inside)
    tl.store(Out + offsets, a * x + y, mask=inside)


@triton.jit
def _softmax(X, Out, columns, BLOCK: tl.constexpr):
    row, offsets = tl.program_id(0), tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(X + row * columns + offsets, mask=inside, other=-float("inf"))
    p = tl.exp(x - tl.max(x, axis=0))
    tl.store(Out + row * columns + offsets, p / tl.sum(p, axis=0), mask=inside)


@triton.jit
def _matmul(A, B, Out, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(A + rows[:, None] * K + inner[None, :], mask=(rows < M)[:, None] & (inner < K)[None, :], other=0.0)
        b = tl.load(B + inner[:, None] * N + cols[None, :], mask=(inner < K)[:, None] & (cols < N)[None, :], other=0.0)
        acc = acc + tl.dot(a, b, input_precision="ieee")
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(Out + rows[:, None] * N + cols[None, :], acc, mask=inside)


def _of(kernel, name, sentence, hint, *changes):
    return Mistake(name, sentence, hint, edited(kernel, *changes))


AND = " (With `and` in place of `&`, only one of two masks counts.)"
ROWS_OF_A, COLS_OF_B = (
    ("mask=(rows < M)[:, None]", "mask=(rows >= 0)[:, None]"),
    ("& (cols < N)[None, :], other", "& (cols >= 0)[None, :], other"),
)
K_OF_A, K_OF_B = ("(inner < K)[None, :]", "(inner >= 0)[None, :]"), ("(inner < K)[:, None]", "(inner >= 0)[:, None]")
BEGINS = "row * columns + offsets"
LOAD = 'x = tl.load(X + row * columns + offsets, mask=inside, other=-float("inf"))'

_of_axpy, _of_softmax, _of_matmul = (functools.partial(_of, kernel) for kernel in (_axpy, _softmax, _matmul))
AXPY_MISTAKES = (
    _of_axpy("no mask on the load", "the last block loads past the end of X and Y.", 2, "offsets, mask=inside)\n    ", "offsets)\n    "),
    _of_axpy("no mask on the store", "the last block stores past the end of Out.", 2, "y, mask=inside", "y"),
    _of_axpy("no masks", "nothing is masked: the last block reaches past the end.", 2, ", mask=inside", ""),
    _of_axpy("one too many", "position n is no longer inside: offsets < n, not <=.", 2, "offsets < n", "offsets <= n"),
    _of_axpy(
        "every program the first block",
        "every program works on the first block: it begins at program_id · BLOCK.",
        1,
        "tl.program_id(0) * BLOCK + ",
        "",
    ),
    _of_axpy(
        "programs one number apart",
        "a program begins at program_id · BLOCK: yours begins one number after the one before it.",
        1,
        "program_id(0) * BLOCK",
        "program_id(0)",
    ),
    _of_axpy("a meets Y", "a belongs to X: a · X + Y.", 1, "a * x + y", "x + a * y"),
    _of_axpy("a meets both", "a belongs to X alone: a · X + Y.", 1, "a * x + y", "a * (x + y)"),
)
SOFTMAX_MISTAKES = (
    _of_softmax(
        "missing scores count as 0",
        "what the mask leaves out has the score 0, and exp(0 − m) is not 0: other=-inf.",
        2,
        '-float("inf")',
        "0.0",
    ),
    _of_softmax("no maximum", "exp of a large score overflows: subtract the row's maximum.", 1, "x - tl.max(x, axis=0)", "x"),
    _of_softmax(
        "no mask on the load", "the row is read past its end: into the next row, or out of X.", 2, ', mask=inside, other=-float("inf")', ""
    ),
    _of_softmax(
        "no mask on the store", "the row is written past its end: into the next row, or out of Out.", 2, "axis=0), mask=inside", "axis=0)"
    ),
    _of_softmax(
        "rows begin at BLOCK",
        "a row begins at row · columns: BLOCK is the length of the tile, not of the row.",
        1,
        f"X + {BEGINS}",
        "X + row * BLOCK + offsets",
    ),
    _of_softmax(
        "rows begin at BLOCK, in Out too",
        "a row begins at row · columns, in X and in Out: BLOCK is the length of the tile, not of the row.",
        1,
        "row * columns",
        "row * BLOCK",
    ),
    _of_softmax(
        "no other", "what the mask leaves out has no value unless the load gives it one: other=-inf.", 2, ', other=-float("inf")', ""
    ),
    _of_softmax(
        "the mask counts from X",
        "the mask asks where in X a number lies, so only the first row is inside: ask where in its row, offsets < columns.",
        2,
        "inside = offsets < columns",
        "inside = row * columns + offsets < columns",
    ),
    _of_softmax("not divided", "divide by the sum of the row.", 1, " / tl.sum(p, axis=0)", ""),
    _of_softmax("read twice", "the row is loaded twice: keep what you have loaded.", 2, LOAD, f"{LOAD}\n    {LOAD}"),
)
MATMUL_MISTAKES = (
    _of_matmul(
        "no mask along K", "the last step along K reads past the end: into the next row, or out of the matrix.", 2, *K_OF_A, *K_OF_B
    ),
    _of_matmul(
        "no mask along K of A",
        "B is masked along K and A is not: what lies past a row of A is its next row, or NaN, and 0 · NaN is NaN.",
        2,
        *K_OF_A,
    ),
    _of_matmul("no mask along K of B", "A is masked along K and B is not: 0 times what lies past B is no 0 where that is NaN.", 2, *K_OF_B),
    _of_matmul("no mask on A's rows", f"A is loaded without the mask of its rows.{AND}", 2, *ROWS_OF_A),
    _of_matmul("no mask on B's columns", f"B is loaded without the mask of its columns.{AND}", 2, *COLS_OF_B),
    _of_matmul("A's rows begin at M", "a row of A has K numbers: A + rows · K + inner.", 1, "rows[:, None] * K", "rows[:, None] * M"),
    _of_matmul("Out's rows begin at M", "a row of Out has N numbers: Out + rows · N + cols.", 1, "rows[:, None] * N", "rows[:, None] * M"),
    _of_matmul("replaced, not added", "each step replaces acc: add.", 1, "acc + tl.dot", "tl.dot"),
    _of_matmul("B's rows begin at K", "a row of B has N numbers: B + inner · N + cols.", 1, "inner[:, None] * N", "inner[:, None] * K"),
    _of_matmul("no mask on the store", "tiles at the edge are written past it.", 2, ", acc, mask=inside", ", acc"),
    _of_matmul(
        "the last step is missing",
        "the loop ends before the last, shorter step along K.",
        1,
        "range(0, K,",
        "range(0, K // BLOCK_K * BLOCK_K,",
    ),
    _of_matmul(
        "the first step is missing", "the loop begins with the second step along K: begin at 0.", 1, "range(0, K,", "range(BLOCK_K, K,"
    ),
    _of_matmul(
        "rows and columns swapped",
        "program_id(0) is the tile of rows, and program_id(1) that of columns.",
        1,
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
    ),
    _of_matmul("no mask at the edges", "tiles at the edge load rows of A and columns of B that do not exist.", 2, *ROWS_OF_A, *COLS_OF_B),
    _of_matmul(
        "transposed",
        "Out is written transposed: Out + rows · N + cols.",
        1,
        "rows[:, None] * N + cols[None, :]",
        "rows[:, None] + cols[None, :] * M",
    ),
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
