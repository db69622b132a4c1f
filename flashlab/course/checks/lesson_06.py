"""Exercise 06, first Triton kernels: numbers in blocks, a row's softmax, and a product of matrices, each launched between guards."""

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


# -------------------------------------------------------------------------------------------------------------------- tasks

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
