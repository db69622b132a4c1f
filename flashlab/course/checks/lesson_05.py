"""Exercise 05, the backward pass: delta, probabilities brought back from lse, and the gradients of one tile, judged by their bytes too."""

import numpy as np

from flashlab.course.checks import compare
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.memory import HBM
from flashlab.course.steps import naive
from flashlab.course.steps.tiled import tiles

# ------------------------------------------------------------------------------------------------------------ what is right


def row_delta(dOut, Out):
    return (dOut * Out).sum(axis=1)


def recompute(q, k, lse, scale):
    return np.exp(scale * q @ k.T - lse[:, None])


def grad_q_tile(q, dout, lse, delta, K, V, scale, BLOCK_N):
    return _dq_variant()(q, dout, lse, delta, K, V, scale, BLOCK_N)


def grad_kv_tile(k, v, Q, dOut, Lse, Delta, scale, BLOCK_M):
    return _dkdv_variant()(k, v, Q, dOut, Lse, Delta, scale, BLOCK_M)


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
    """(dk, dv, bytes read, the most that lay in SRAM at once)."""
    hbm = HBM()
    answer = attempt(k, v, *map(hbm.array, (Q, dOut, Lse, Delta)), scale, BLOCK_M)
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise TypeError(f"return two things, dk and dv; got {type(answer).__name__}")
    return *map(np.array, answer), hbm.bytes_read, hbm.sram_peak


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
    dk, dv, read, peak = answer
    k, v, Q, dOut, lse, delta, scale, block = case.arguments
    P = recompute(Q, k, lse, scale)
    dS = P * (dOut @ v.T - delta[:, None])
    needed = sum(x.nbytes for x in (Q, dOut, lse, delta))
    return compare.arrays(("dk", "dv"), (dk, dv), (scale * dS.T @ Q, P.T @ dOut)) or _resources(
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
    dk, dv, read, peak = answer
    return dk, dv, read, peak <= _budget(len(case.arguments[0]), case.arguments[-1], case.arguments[0].shape[1])


# ------------------------------------------------------------------------------------------------- the mistakes people make


def _floor(length, block):
    return [slice(n * block, (n + 1) * block) for n in range(length // block)]


def _dq_variant(scaled=1, delta=1, weighed=True, values=False, cut=tiles, kept=True, again=False, whole=False, softmax=False):
    def wrong(q, dout, lse, delta_, K, V, scale, BLOCK_N):
        dq = np.zeros(q.shape)
        everything = (K[:], V[:]) if whole else None
        for cols in cut(K.shape[0], BLOCK_N):
            k, v = (x[cols] for x in everything) if whole else (K[cols], V[cols])
            if again:
                k = K[cols]
            P = naive.softmax(scale * q @ k.T) if softmax else recompute(q, k, lse, scale)
            dS = (P if weighed else 1.0) * (dout @ v.T - delta * delta_[:, None])
            step = scale**scaled * dS @ (v if values else k)
            dq = dq + step if kept else step
        return dq

    return wrong


def _dkdv_variant(scaled=1, delta=1, weighed=True, dv_from="P", dk_from="dS", cut=tiles, kept=True, again=False, whole=False, dk_of="Q"):
    def wrong(k, v, Q, dOut, Lse, Delta, scale, BLOCK_M):
        dk, dv = np.zeros(k.shape), np.zeros(v.shape)
        everything = [x[:] for x in (Q, dOut, Lse, Delta)] if whole else None
        for rows in cut(Q.shape[0], BLOCK_M):
            q, dout, lse, delta_ = (x[rows] for x in (everything or (Q, dOut, Lse, Delta)))
            if again:
                q = Q[rows]
            P = recompute(q, k, lse, scale)
            dS = (P if weighed else 1.0) * (dout @ v.T - delta * delta_[:, None])
            of = {"P": P, "dS": dS}
            more_k, more_v = scale**scaled * of[dk_from].T @ (q if dk_of == "Q" else dout), of[dv_from].T @ dout
            dk, dv = (dk + more_k, dv + more_v) if kept else (more_k, more_v)
        return dk, dv

    return wrong


DELTA_MISTAKES = (
    Mistake(
        "down the columns",
        "the sum runs down the columns: delta is one number for each row.",
        1,
        lambda dOut, Out: (dOut * Out).sum(axis=0),
    ),
    Mistake("keepdims", "delta has shape (rows,): no second axis.", 2, lambda dOut, Out: (dOut * Out).sum(axis=1, keepdims=True)),
    Mistake("the mean", "the mean instead of the sum.", 2, lambda dOut, Out: (dOut * Out).mean(axis=1)),
    Mistake("sum of dOut", "Out is missing: multiply number by number, then sum.", 1, lambda dOut, Out: dOut.sum(axis=1)),
    Mistake(
        "product of sums",
        "first multiply, then sum: a product of two sums is another number.",
        1,
        lambda dOut, Out: dOut.sum(axis=1) * Out.sum(axis=1),
    ),
    Mistake("one for all rows", "everything was summed to one number: each row has its own.", 2, lambda dOut, Out: (dOut * Out).sum()),
)
RECOMPUTE_MISTAKES = (
    Mistake(
        "softmax of the tile",
        "softmax over this tile's keys alone: lse knows the sum over all of them.",
        1,
        lambda q, k, lse, scale: naive.softmax(scale * q @ k.T),
    ),
    Mistake("no scale", "the scores are scale · q kᵀ: the scale is missing.", 2, lambda q, k, lse, scale: np.exp(q @ k.T - lse[:, None])),
    Mistake(
        "divided by lse",
        "lse is a logarithm: subtract it in the exponent, do not divide by it.",
        1,
        lambda q, k, lse, scale: np.exp(scale * q @ k.T) / lse[:, None],
    ),
    Mistake("exp alone", "lse is missing: these are not probabilities.", 1, lambda q, k, lse, scale: np.exp(scale * q @ k.T)),
    Mistake("added", "lse is subtracted, not added.", 1, lambda q, k, lse, scale: np.exp(scale * q @ k.T + lse[:, None])),
    Mistake(
        "lse along the keys", "lse has one number for each *row*: lse[:, None].", 2, lambda q, k, lse, scale: np.exp(scale * q @ k.T - lse)
    ),
)
DQ_MISTAKES = (
    Mistake("no scale", "dq lacks the scale: the scores were scale · q kᵀ.", 1, _dq_variant(scaled=0)),
    Mistake("scale twice", "the scale is there twice.", 1, _dq_variant(scaled=2)),
    Mistake("delta forgotten", "dS is P ∘ (dP − delta): delta is missing.", 1, _dq_variant(delta=0)),
    Mistake("delta added", "delta is subtracted.", 1, _dq_variant(delta=-1)),
    Mistake("P forgotten", "dS is P ∘ (dP − delta): the factor P is missing.", 1, _dq_variant(weighed=False)),
    Mistake("times V", "dS meets K in dq: the scores were made of q and K.", 2, _dq_variant(values=True)),
    Mistake("softmax of the tile", "softmax over one tile: bring P back from lse.", 1, _dq_variant(softmax=True)),
    Mistake("only the last tile", "each tile replaces dq: add.", 2, _dq_variant(kept=False)),
    Mistake("the rest is lost", "the keys of the last, shorter tile are not visited.", 2, _dq_variant(cut=_floor)),
    Mistake("loaded twice", "a tile of K is read from HBM twice: give what you read a name.", 2, _dq_variant(again=True)),
    Mistake("all at once", "K and V were loaded whole: an SRAM holds a tile of them.", 2, _dq_variant(whole=True)),
)
DKDV_MISTAKES = (
    Mistake("no scale", "dk lacks the scale: the scores were scale · q kᵀ.", 1, _dkdv_variant(scaled=0)),
    Mistake("scale twice", "the scale is there twice in dk.", 1, _dkdv_variant(scaled=2)),
    Mistake("delta forgotten", "dS is P ∘ (dP − delta): delta is missing.", 1, _dkdv_variant(delta=0)),
    Mistake("P forgotten", "dS is P ∘ (dP − delta): the factor P is missing.", 1, _dkdv_variant(weighed=False)),
    Mistake("dv from dS", "dv is made of the probabilities, Pᵀ dOut, not of dS.", 2, _dkdv_variant(dv_from="dS")),
    Mistake("dk from P", "dk is made of dS, not of the probabilities.", 2, _dkdv_variant(dk_from="P")),
    Mistake("dk of dOut", "dSᵀ meets q in dk: the scores were made of q and k.", 2, _dkdv_variant(dk_of="dOut")),
    Mistake("only the last tile", "each tile replaces dk and dv: add.", 2, _dkdv_variant(kept=False)),
    Mistake("the rest is lost", "the rows of the last, shorter tile are not visited.", 2, _dkdv_variant(cut=_floor)),
    Mistake("loaded twice", "a tile is read from HBM twice: give what you read a name.", 2, _dkdv_variant(again=True)),
    Mistake("all at once", "Q and dOut were loaded whole: an SRAM holds a tile of them.", 2, _dkdv_variant(whole=True)),
)

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
