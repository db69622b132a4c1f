"""Exercise 08, the backward pass in Triton: delta, dQ, and dK with dV, each output row with one owner, launched between guards."""

import numpy as np
import triton
import triton.language as tl

from flashlab.course.checks.guarded import Launched, Variant, compare_launched, launch, meaning
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32
SCALE = 0.7  # times 1 / sqrt(D): a kernel takes the scale that it is given

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


def delta_cases(rng):
    sizes = ((16, 16, 16), (32, 16, 16), (20, 16, 16), (16, 12, 16), (37, 40, 32))
    return [Case(f"{s} rows, head dim {d}, tiles of {b} rows", (_floats(rng, s, d), _floats(rng, s, d), b)) for s, d, b in sizes]


def gradient_cases(rng):
    sizes = (
        (16, 16, 16, 16, 16),
        (16, 48, 16, 16, 16),
        (48, 16, 16, 16, 16),
        (20, 16, 16, 16, 16),
        (16, 20, 16, 16, 16),
        (37, 53, 12, 16, 32),
        (90, 80, 16, 32, 16),
        (20, 300, 16, 16, 16),
        (300, 20, 16, 16, 16),
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


def call_delta(kernel, dOut, Out, block):
    rows, D = dOut.shape
    return launch(kernel, (triton.cdiv(rows, block),), (dOut, Out), [(rows,)], rows, **_dims(D), BLOCK_M=block)


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
    dOut, Out, _ = case.arguments
    want = (dOut.astype(np.float64) * Out).sum(axis=1)
    return compare_launched(answer, ("Delta",), (want,), 8 * EPSILON * dOut.shape[1], 2 * dOut.size, len(dOut))


def _gradients(case):
    dOut, Q, K, V, *_ = (x.astype(np.float64) for x in case.arguments[:4])
    return naive.backward(dOut, Q, K, V, None, None, scale=SCALE * Q.shape[1] ** -0.5)


def _tolerance(case):
    return 64 * EPSILON * max(case.arguments[1].shape[1], len(case.arguments[2]), len(case.arguments[1]))


def compare_dq(answer: Launched, case):
    _, Q, K, *_, BLOCK_M, _ = case.arguments
    loaded = 2 * Q.size + 2 * len(Q) + triton.cdiv(len(Q), BLOCK_M) * 2 * K.size
    return compare_launched(answer, ("dQ",), _gradients(case)[:1], _tolerance(case), loaded, Q.size)


def compare_dkdv(answer: Launched, case):
    _, Q, K, *_, BLOCK_N = case.arguments
    loaded = 2 * K.size + triton.cdiv(len(K), BLOCK_N) * (2 * Q.size + 2 * len(Q))
    return compare_launched(answer, ("dK", "dV"), _gradients(case)[1:], _tolerance(case), loaded, 2 * K.size)


# ------------------------------------------------------------------------------------------------- the mistakes people make


@triton.jit
def _delta(
    dOut, Out, Delta, seqlen_q, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
    HOW: tl.constexpr, MASK_DIMS: tl.constexpr, MASK_STORE: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    rows, dims = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_rows = rows < seqlen_q
    inside = in_rows[:, None] & ((dims < D) if MASK_DIMS else (dims >= 0))[None, :]
    offsets = rows[:, None] * (BLOCK_D if STRIDE == "block" else D) + dims[None, :]
    do = tl.load(dOut + offsets, mask=inside, other=0.0)
    out = tl.load(Out + offsets, mask=inside, other=0.0)
    delta = tl.sum(do * out, axis=1)
    if HOW == "product of sums":
        delta = tl.sum(do, axis=1) * tl.sum(out, axis=1)
    if HOW == "dOut alone":
        delta = tl.sum(do, axis=1)
    if HOW == "mean":
        delta = delta / D
    tl.store(Delta + rows, delta, mask=in_rows if MASK_STORE else rows >= 0)


@triton.jit
def _dq(
    dOut, Q, K, V, Lse, Delta, dQ, seqlen_q, seqlen_k, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCORES: tl.constexpr, SCALED: tl.constexpr, DELTA: tl.constexpr, WEIGHED: tl.constexpr, VALUES: tl.constexpr, ADD: tl.constexpr,
    WHOLE: tl.constexpr, AGAIN: tl.constexpr, LSE: tl.constexpr, MASK_LOAD: tl.constexpr, HIDE_END: tl.constexpr,
):  # fmt: skip
    rows, dims = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    offsets = rows[:, None] * D + dims[None, :]
    q = tl.load(Q + offsets, mask=in_q, other=0.0)
    do = tl.load(dOut + offsets, mask=in_q, other=0.0)
    lse = tl.load(Lse + rows, mask=rows < seqlen_q, other=0.0)
    delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start_n in range(0, seqlen_k // BLOCK_N * BLOCK_N if WHOLE else seqlen_k, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = ((keys < seqlen_k) if MASK_LOAD else (keys >= 0))[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        if AGAIN:
            k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * (scale if SCORES else 1.0)
        p = tl.exp(scores - lse[:, None]) if LSE else tl.exp(scores)
        if HIDE_END:
            p = tl.where((keys < seqlen_k)[None, :], p, 0.0)
        ds = tl.dot(do, v.T, input_precision="ieee") - DELTA * delta[:, None]
        ds = p * ds if WEIGHED else ds
        product = tl.dot(ds, v if VALUES else k, input_precision="ieee")
        dq = dq + product if ADD else product
    if SCALED > 0:
        dq = dq * scale
    if SCALED > 1:
        dq = dq * scale
    tl.store(dQ + offsets, dq, mask=in_q)


@triton.jit
def _dkdv(
    dOut, Q, K, V, Lse, Delta, dK, dV, seqlen_q, seqlen_k, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALED: tl.constexpr, DELTA: tl.constexpr, WEIGHED: tl.constexpr, DV_FROM: tl.constexpr, DK_FROM: tl.constexpr, DK_OF: tl.constexpr,
    ADD: tl.constexpr, WHOLE: tl.constexpr, AGAIN: tl.constexpr, MASK_LOAD: tl.constexpr,
):  # fmt: skip
    keys, dims = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
    offsets = keys[:, None] * D + dims[None, :]
    k = tl.load(K + offsets, mask=in_k, other=0.0)
    v = tl.load(V + offsets, mask=in_k, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start_m in range(0, seqlen_q // BLOCK_M * BLOCK_M if WHOLE else seqlen_q, BLOCK_M):
        rows = start_m + tl.arange(0, BLOCK_M)
        in_rows = (rows < seqlen_q) if MASK_LOAD else (rows >= 0)
        in_q = in_rows[:, None] & (dims < D)[None, :]
        q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
        if AGAIN:
            q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
        do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
        lse = tl.load(Lse + rows, mask=in_rows, other=0.0)
        delta = tl.load(Delta + rows, mask=in_rows, other=0.0)
        p = tl.exp(tl.dot(q, k.T, input_precision="ieee") * scale - lse[:, None])
        ds = tl.dot(do, v.T, input_precision="ieee") - DELTA * delta[:, None]
        ds = p * ds if WEIGHED else ds
        more_v = tl.dot((p if DV_FROM == "p" else ds).T, do, input_precision="ieee")
        more_k = tl.dot((ds if DK_FROM == "ds" else p).T, q if DK_OF == "q" else do, input_precision="ieee")
        dv = dv + more_v if ADD else more_v
        dk = dk + more_k if ADD else more_k
    if SCALED > 0:
        dk = dk * scale
    if SCALED > 1:
        dk = dk * scale
    tl.store(dK + offsets, dk, mask=in_k)
    tl.store(dV + offsets, dv, mask=in_k)


def _delta_variant(**changes):
    return Variant(_delta, **dict(HOW="sum", MASK_DIMS=True, MASK_STORE=True, STRIDE="D") | changes)


def _dq_variant(**changes):
    right = dict(SCORES=True, SCALED=1, DELTA=1.0, WEIGHED=True, VALUES=False, ADD=True, WHOLE=False, AGAIN=False, LSE=True)
    right |= dict(MASK_LOAD=True, HIDE_END=True)
    return Variant(_dq, **right | changes)


def _dkdv_variant(**changes):
    right = dict(
        SCALED=1, DELTA=1.0, WEIGHED=True, DV_FROM="p", DK_FROM="ds", DK_OF="q", ADD=True, WHOLE=False, AGAIN=False, MASK_LOAD=True
    )
    return Variant(_dkdv, **right | changes)


DELTA_MISTAKES = (
    Mistake("product of sums", "first multiply number by number, then sum.", 1, _delta_variant(HOW="product of sums")),
    Mistake("dOut alone", "Out is missing: delta is the sum of dOut ∘ Out.", 1, _delta_variant(HOW="dOut alone")),
    Mistake("the mean", "the mean instead of the sum.", 1, _delta_variant(HOW="mean")),
    Mistake(
        "no mask on the head dim", "BLOCK_D may be larger than D: what lies past a row is the next row.", 2, _delta_variant(MASK_DIMS=False)
    ),
    Mistake("no mask on the store", "the last tile stores rows that do not exist.", 2, _delta_variant(MASK_STORE=False)),
    Mistake("rows begin at BLOCK_D", "a row has D numbers, not BLOCK_D.", 2, _delta_variant(STRIDE="block")),
)
DQ_MISTAKES = (
    Mistake("no scale", "dQ lacks the scale: the scores were scale · q kᵀ.", 1, _dq_variant(SCALED=0)),
    Mistake("scale twice", "dQ has the scale twice.", 1, _dq_variant(SCALED=2)),
    Mistake("scores without scale", "P comes from scale · q kᵀ: the scale is missing there.", 1, _dq_variant(SCORES=False)),
    Mistake("lse forgotten", "P is exp(score − lse): lse is missing.", 1, _dq_variant(LSE=False)),
    Mistake("delta forgotten", "dS is P ∘ (dP − delta): delta is missing.", 1, _dq_variant(DELTA=0.0)),
    Mistake("delta added", "delta is subtracted.", 1, _dq_variant(DELTA=-1.0)),
    Mistake("P forgotten", "dS is P ∘ (dP − delta): the factor P is missing.", 1, _dq_variant(WEIGHED=False)),
    Mistake("times V", "dS meets K in dQ.", 1, _dq_variant(VALUES=True)),
    Mistake("replaced, not added", "each tile replaces dQ: add.", 2, _dq_variant(ADD=False)),
    Mistake("the last keys are lost", "the last, shorter tile of keys is not visited.", 2, _dq_variant(WHOLE=True)),
    Mistake("loaded twice", "a tile of K is loaded twice.", 2, _dq_variant(AGAIN=True)),
    Mistake("no mask on the load", "keys past the end are loaded: 0 · NaN is NaN.", 2, _dq_variant(MASK_LOAD=False)),
)
HIDDEN = "a key past the end has the score 0, and where all scores lie far below, exp(0 − lse) is infinite: set its P to 0."
DQ_MISTAKES += (Mistake("missing keys not hidden", HIDDEN, 2, _dq_variant(HIDE_END=False)),)
DKDV_MISTAKES = (
    Mistake("no scale", "dK lacks the scale: the scores were scale · q kᵀ.", 1, _dkdv_variant(SCALED=0)),
    Mistake("scale twice", "dK has the scale twice.", 1, _dkdv_variant(SCALED=2)),
    Mistake("delta forgotten", "dS is P ∘ (dP − delta): delta is missing.", 1, _dkdv_variant(DELTA=0.0)),
    Mistake("P forgotten", "dS is P ∘ (dP − delta): the factor P is missing.", 1, _dkdv_variant(WEIGHED=False)),
    Mistake("dV from dS", "dV is Pᵀ dOut, with the probabilities, not dS.", 1, _dkdv_variant(DV_FROM="ds")),
    Mistake("dK from P", "dK is dSᵀ q, not Pᵀ q.", 1, _dkdv_variant(DK_FROM="p")),
    Mistake("dK of dOut", "dSᵀ meets q in dK, not dOut.", 1, _dkdv_variant(DK_OF="do")),
    Mistake("replaced, not added", "each tile replaces dK and dV: add.", 2, _dkdv_variant(ADD=False)),
    Mistake("the last rows are lost", "the last, shorter tile of rows is not visited.", 2, _dkdv_variant(WHOLE=True)),
    Mistake("loaded twice", "a tile of Q is loaded twice.", 2, _dkdv_variant(AGAIN=True)),
    Mistake("no mask on the load", "rows past the end are loaded: 0 · NaN is NaN.", 2, _dkdv_variant(MASK_LOAD=False)),
)

TASKS = (
    Task("8.1", "delta", "delta_kernel", 20, delta_cases, compare_delta, DELTA_MISTAKES, call=call_delta, meaning=meaning),
    Task("8.2", "dQ", "dq_kernel", 40, gradient_cases, compare_dq, DQ_MISTAKES, call=call_dq, meaning=meaning),
    Task("8.3", "dK and dV", "dkdv_kernel", 40, gradient_cases, compare_dkdv, DKDV_MISTAKES, call=call_dkdv, meaning=meaning),
)
