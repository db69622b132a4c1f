"""Exercise 06, first Triton kernels: numbers in blocks, a row's softmax and lse, and the product A · Bᵀ, each launched between guards."""

import numpy as np
import triton

from flashlab.course.checks.guarded import Launched, compare_launched, launch, meaning
from flashlab.course.checks.lesson_06_mistakes import AXPY_MISTAKES, MATMUL_MISTAKES, SOFTMAX_MISTAKES
from flashlab.course.checks.task import Case, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def axpy_cases(rng):
    sizes = ((4, 4), (8, 4), (6, 4), (1, 16), (100, 32), (int(rng.integers(130, 200)), 64))
    return [Case(f"{n} numbers, blocks of {block}", (_floats(rng, n), _floats(rng, n), 1.5, block)) for n, block in sizes]


def softmax_cases(rng):
    sizes = ((1, 4, 1.0), (1, 4, 0.5), (3, 4, 0.25), (2, 3, 1.5), (4, 13, 0.5), (5, int(rng.integers(17, 31)), 0.25))
    cases = [Case(f"{rows} rows of {columns}, scale {scale}", (_floats(rng, rows, columns), scale)) for rows, columns, scale in sizes]
    below = Case("scores around -1000, rows of 5, scale 0.5", (_floats(rng, 2, 5) - 1000, 0.5))
    return [*cases, Case("scores around 1000, rows of 5, scale 0.5", (_floats(rng, 2, 5) + 1000, 0.5)), below]


def matmul_cases(rng):
    sizes = ((16, 16, 16, 16), (16, 16, 48, 16), (32, 48, 16, 16), (16, 16, 20, 16), (20, 16, 16, 16), (16, 20, 16, 16), (37, 21, 50, 16))
    cases = [Case(f"A ({m}, {k}), B ({n}, {k}), tiles of {b}", (_floats(rng, m, k), _floats(rng, n, k), b, b, b)) for m, n, k, b in sizes]
    for m, n, k, *tiles in ((64, 48, 300, 32, 16, 16), (48, 64, 90, 16, 32, 64)):
        text = f"A ({m}, {k}), B ({n}, {k}), BLOCK_M, BLOCK_N, BLOCK_K = {', '.join(map(str, tiles))}"
        cases.append(Case(text, (_floats(rng, m, k), _floats(rng, n, k), *tiles)))
    return cases


# -------------------------------------------------------------------------------------------------------------------- calls


def call_axpy(kernel, x, y, a, block):
    return launch(kernel, (triton.cdiv(len(x), block),), (x, y), [x.shape], a, len(x), BLOCK=block)


def call_softmax(kernel, x, scale):
    return launch(kernel, (len(x),), (x,), [x.shape, x.shape[:1]], x.shape[1], scale, BLOCK=triton.next_power_of_2(x.shape[1]))


def call_matmul(kernel, a, b, BLOCK_M, BLOCK_N, BLOCK_K):
    (m, k), n = a.shape, len(b)
    grid = (triton.cdiv(m, BLOCK_M), triton.cdiv(n, BLOCK_N))
    return launch(kernel, grid, (a, b), [(m, n)], m, n, k, BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K)


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_axpy(answer: Launched, case):
    x, y, a, _ = case.arguments
    return compare_launched(answer, ("Out",), (np.float64(a) * x + y,), 4 * EPSILON, (x.size, x.size))


def compare_softmax(answer: Launched, case):
    x, scale = case.arguments
    scores = scale * x.astype(np.float64)
    tolerance = 4 * EPSILON * max(x.shape[1], np.abs(scores).max())  # a score's own rounding becomes its exponential's
    wanted = naive.softmax(scores), np.logaddexp.reduce(scores, axis=1)
    return compare_launched(answer, ("Out", "Lse"), wanted, tolerance, (x.size,), {"Lse": ("row",)})


def compare_matmul(answer: Launched, case):
    a, b, BLOCK_M, BLOCK_N, _ = case.arguments
    loaded = a.size * triton.cdiv(len(b), BLOCK_N), b.size * triton.cdiv(len(a), BLOCK_M)
    return compare_launched(answer, ("Out",), (a.astype(np.float64) @ b.T,), 4 * EPSILON * a.shape[1], loaded)


# -------------------------------------------------------------------------------------------------------------------- tasks

TASKS = (
    Task("6.1", "a · X + Y", "axpy_kernel", 25, axpy_cases, compare_axpy, AXPY_MISTAKES, call=call_axpy, meaning=meaning),
    Task(
        "6.2",
        "softmax of a row, and its lse",
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
        "a product of rows",
        "matmul_kernel",
        40,
        matmul_cases,
        compare_matmul,
        MATMUL_MISTAKES,
        call=call_matmul,
        meaning=meaning,
    ),
)
