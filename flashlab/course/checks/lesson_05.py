"""Exercise 05, the backward pass: delta, probabilities brought back from lse, and the gradients of one tile, judged by their bytes too."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.lesson_05_mistakes import DELTA_MISTAKES, DKDV_MISTAKES, DQ_MISTAKES, RECOMPUTE_MISTAKES, recompute, row_delta
from flashlab.course.checks.task import Case, Task
from flashlab.course.memory import HBM
from flashlab.course.steps import naive

# -------------------------------------------------------------------------------------------------------------------- cases


def delta_cases(rng):
    sizes = ((1, 1), (1, 4), (3, 3), (5, 2), (7, 16))
    return [Case(f"{rows} rows, head dim {D}", (rng.normal(size=(rows, D)), rng.normal(size=(rows, D)))) for rows, D in sizes]


def recompute_cases(rng):
    cases = []
    for rows, keys, D, all_keys in ((1, 1, 2, 1), (3, 3, 3, 3), (2, 3, 4, 6), (4, 4, 8, 12), (5, 2, 4, 9)):
        q, K = rng.normal(size=(rows, D)), rng.normal(size=(all_keys, D))
        arguments = (q, K[:keys], naive.logsumexp(0.5 * q @ K.T), 0.5)
        cases.append(Case(f"{rows} rows, a tile of {keys} of {all_keys} keys", arguments))
    q, k, _, scale = cases[-1].arguments
    large = (50 * q, 50 * k, naive.logsumexp(scale * 2500 * q @ k.T), scale)
    return [*cases, Case("scores of several hundred", large)]


def _problem(rng, rows, keys, D):
    """Q, K, V, dOut, lse, delta and a scale of full attention."""
    Q, K, V, dOut = (rng.normal(size=(n, D)) for n in (rows, keys, keys, rows))
    scale = 0.7 * D**-0.5
    Out, lse = naive.forward(Q, K, V, scale=scale)
    return Q, K, V, dOut, lse, row_delta(dOut, Out), scale


def dq_cases(rng):
    cases = []
    for rows, keys, D, block in ((1, 2, 4, 2), (4, 4, 4, 4), (4, 8, 4, 4), (3, 10, 2, 4), (4, 300, 4, 4)):
        Q, K, V, dOut, lse, delta, scale = _problem(rng, rows, keys, D)
        cases.append(Case(f"{rows} rows, {keys} keys, head dim {D}, BLOCK_N {block}", (Q, dOut, lse, delta, K, V, scale, block)))
    return cases


def dkdv_cases(rng):
    cases = []
    for rows, keys, D, block in ((2, 1, 4, 2), (4, 4, 4, 4), (8, 4, 4, 4), (10, 3, 2, 4), (300, 4, 4, 4)):
        Q, K, V, dOut, lse, delta, scale = _problem(rng, rows, keys + 5, D)  # 5 keys more than the tile has
        K, V = K[:keys], V[:keys]
        cases.append(
            Case(f"{keys} keys of {keys + 5}, {rows} rows, head dim {D}, BLOCK_M {block}", (K, V, Q, dOut, lse, delta, scale, block))
        )
    return cases


# ---------------------------------------------------------------------------------------------- calls in counted memory


def call_dq(attempt, q, dout, lse, delta, K, V, scale, BLOCK_N):
    """(dq, bytes read, the most that lay in SRAM at once)."""
    hbm = HBM()
    dq = attempt(q, dout, lse, delta, hbm.array(K), hbm.array(V), scale, BLOCK_N)
    return (np.array(dq) if isinstance(dq, np.ndarray) else dq), hbm.bytes_read, hbm.sram_peak


def call_dkdv(attempt, k, v, Q, dOut, Lse, Delta, scale, BLOCK_M):
    """((dk, dv), bytes read, the most that lay in SRAM at once)."""
    hbm = HBM()
    answer = attempt(k, v, *map(hbm.array, (Q, dOut, Lse, Delta)), scale, BLOCK_M)
    if isinstance(answer, tuple | list):
        answer = tuple(np.array(x) if isinstance(x, np.ndarray) else x for x in answer)  # what they are made of is let go
    return answer, hbm.bytes_read, hbm.sram_peak


def _budget(own, other, D):
    """Bytes that a careful walk never needs at once, and one that loads a whole matrix does where there are many tiles."""
    return 8 * (8 * own * D + 8 * other * D + 10 * own * other + 8 * (own + other)) + 8 * 2 * 300  # lse and delta may be read at once


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_delta(answer, case):
    return compare.arrays(("delta",), answer, row_delta(*case.arguments))


def compare_recompute(answer, case):
    return compare.arrays(("P",), answer, recompute(*case.arguments))


def compare_dq(answer, case):
    dq, read, peak = answer
    q, dout, lse, delta, K, V, scale, block = case.arguments
    P = recompute(q, K, lse, scale)
    want = scale * (P * (dout @ V.T - delta[:, None])) @ K
    return compare.arrays(("dq",), dq, want) or _resources(read, K.nbytes + V.nbytes, peak, _budget(len(q), block, q.shape[1]))


def compare_dkdv(answer, case):
    gradients, read, peak = answer
    k, v, Q, dOut, lse, delta, scale, block = case.arguments
    P = recompute(Q, k, lse, scale)
    dS = P * (dOut @ v.T - delta[:, None])
    needed = sum(x.nbytes for x in (Q, dOut, lse, delta))
    return compare.arrays(("dk", "dv"), gradients, (scale * dS.T @ Q, P.T @ dOut)) or _resources(
        read, needed, peak, _budget(len(k), block, k.shape[1])
    )


def _resources(read, needed, peak, budget):
    if read != needed:
        return f"the gradients are right; {read:,} bytes were read, and {needed:,} are needed; the ratio is {read / needed:.3g}"
    return "" if peak <= budget else f"the gradients are right; but {peak:,} bytes lay in SRAM at once, and the budget is {budget:,}"


def dq_meaning(answer, case):
    dq, read, peak = answer
    return dq, read, peak <= _budget(len(case.arguments[0]), case.arguments[-1], case.arguments[0].shape[1])


def dkdv_meaning(answer, case):
    gradients, read, peak = answer
    return gradients, read, peak <= _budget(len(case.arguments[0]), case.arguments[-1], case.arguments[0].shape[1])


TASKS = (
    Task("5.1", "delta", "row_delta", 15, delta_cases, compare_delta, DELTA_MISTAKES),
    Task("5.2", "probabilities, brought back", "recompute", 20, recompute_cases, compare_recompute, RECOMPUTE_MISTAKES),
    Task("5.3", "dQ, a tile of rows", "grad_q_tile", 30, dq_cases, compare_dq, DQ_MISTAKES, call=call_dq, meaning=dq_meaning),
    Task(
        "5.4",
        "dK and dV, a tile of keys",
        "grad_kv_tile",
        35,
        dkdv_cases,
        compare_dkdv,
        DKDV_MISTAKES,
        call=call_dkdv,
        meaning=dkdv_meaning,
    ),
)
