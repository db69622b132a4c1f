"""Exercise 08, the backward pass in Triton: delta, dQ, and dK with dV, each output row with one owner, launched between guards."""

import numpy as np
import triton

from flashlab.course.checks.guarded import Launched, compare_launched, launch, meaning
from flashlab.course.checks.lesson_08_mistakes import DELTA_MISTAKES, DKDV_MISTAKES, DQ_MISTAKES
from flashlab.course.checks.task import Case, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32
SCALE = 0.7  # times 1 / sqrt(D): a kernel takes the scale that it is given

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def delta_cases(rng):
    sizes = ((16, 16, 16), (32, 16, 16), (20, 16, 16), (16, 12, 16), (37, 40, 32))
    tensors = [(_floats(rng, s, d), _floats(rng, s, d), _floats(rng, s)) for s, d, _ in sizes]
    return [Case(f"{s} rows, head dim {d}, tiles of {b} rows", (*given, b)) for (s, d, b), given in zip(sizes, tensors, strict=True)]


def gradient_cases(rng):
    sizes = (
        (16, 32, 64, 16, 32),
        (16, 48, 16, 16, 16),
        (48, 16, 16, 16, 16),
        (20, 16, 16, 16, 16),
        (16, 20, 16, 16, 16),
        (37, 53, 12, 16, 32),
        (90, 20, 16, 32, 16),
        (20, 90, 16, 16, 32),
    )
    cases = [Case(f"{q} rows, {k} keys, head dim {d}, tiles of {m} × {n}", _problem(rng, q, k, d, m, n)) for q, k, d, m, n in sizes]
    return [*cases, Case("16 rows, 20 keys, scores that lie far below 0", _problem(rng, 16, 20, 16, 16, 16, below=True))]


def _problem(rng, rows, keys, D, BLOCK_M, BLOCK_N, below=False):
    """dOut, Q, K, V, lse and delta of full attention, float32; and the tiles. below: every score is below −100."""
    Q, K, V, dOut = (_floats(rng, n, D) for n in (rows, keys, keys, rows))
    if below:
        Q, K = -3 - np.abs(Q), 10 + np.abs(K)
    Out, lse = naive.forward(*(x.astype(np.float64) for x in (Q, K, V)), scale=SCALE * D**-0.5)
    return dOut, Q, K, V, lse.astype(np.float32), (dOut * Out).sum(axis=1).astype(np.float32), BLOCK_M, BLOCK_N


# -------------------------------------------------------------------------------------------------------------------- calls


def _dims(D):
    return dict(D=D, BLOCK_D=max(16, triton.next_power_of_2(D)))


def call_delta(kernel, dOut, Out, dLse, block):
    rows, D = dOut.shape
    return launch(kernel, (triton.cdiv(rows, block),), (dOut, Out, dLse), [(rows,)], rows, **_dims(D), BLOCK_M=block)


def call_dq(kernel, dOut, Q, K, V, lse, delta, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    tensors, tiles = (dOut, Q, K, V, lse, delta), dict(BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    return launch(kernel, (triton.cdiv(rows, BLOCK_M),), tensors, [(rows, D)], rows, keys, SCALE * D**-0.5, **_dims(D), **tiles)


def call_dkdv(kernel, dOut, Q, K, V, lse, delta, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    tensors, tiles = (dOut, Q, K, V, lse, delta), dict(BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)
    return launch(kernel, (triton.cdiv(keys, BLOCK_N),), tensors, [(keys, D)] * 2, rows, keys, SCALE * D**-0.5, **_dims(D), **tiles)


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_delta(answer: Launched, case):
    dOut, Out, dLse, _ = case.arguments
    want = (dOut.astype(np.float64) * Out).sum(axis=1) - dLse
    return compare_launched(answer, ("Delta",), (want,), 8 * EPSILON * dOut.shape[1], (dOut.size, dOut.size, dLse.size))


def _gradients(case):
    dOut, Q, K, V, *_ = (x.astype(np.float64) for x in case.arguments[:4])
    return naive.backward(dOut, Q, K, V, None, None, scale=SCALE * Q.shape[1] ** -0.5)


def _tolerance(case):
    return 64 * EPSILON * max(case.arguments[1].shape[1], len(case.arguments[2]), len(case.arguments[1]))


def compare_dq(answer: Launched, case):
    _, Q, K, *_, BLOCK_M, _ = case.arguments
    tiles = triton.cdiv(len(Q), BLOCK_M)
    loaded = Q.size, Q.size, tiles * K.size, tiles * K.size, len(Q), len(Q)
    return compare_launched(answer, ("dQ",), _gradients(case)[:1], _tolerance(case), loaded)


def compare_dkdv(answer: Launched, case):
    _, Q, K, *_, BLOCK_N = case.arguments
    tiles = triton.cdiv(len(K), BLOCK_N)
    loaded = tiles * Q.size, tiles * Q.size, K.size, K.size, tiles * len(Q), tiles * len(Q)
    return compare_launched(answer, ("dK", "dV"), _gradients(case)[1:], _tolerance(case), loaded)


# -------------------------------------------------------------------------------------------------------------------- tasks

TASKS = (
    Task(
        "8.1",
        "delta, and the gradient of lse",
        "delta_kernel",
        20,
        delta_cases,
        compare_delta,
        DELTA_MISTAKES,
        call=call_delta,
        meaning=meaning,
    ),
    Task("8.2", "dQ", "dq_kernel", 40, gradient_cases, compare_dq, DQ_MISTAKES, call=call_dq, meaning=meaning),
    Task("8.3", "dK and dV", "dkdv_kernel", 40, gradient_cases, compare_dkdv, DKDV_MISTAKES, call=call_dkdv, meaning=meaning),
)
