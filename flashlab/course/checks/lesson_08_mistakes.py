"""The right kernels of exercise 08, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import triton
import triton.language as tl

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.kernel_mistakes import (
    one_too_many,
    sum_not_kept,
    unmasked_loads,
    wrong_axis,
    wrong_program,
    wrong_steps,
    wrong_walk,
)


@triton.jit
def _delta(dOut, Out, dLse, Delta, seqlen_q, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr):
    rows, dims = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    inside = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)
    out = tl.load(Out + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)
    delta = tl.sum(do * out, axis=1)
    dlse = tl.load(dLse + rows, mask=rows < seqlen_q, other=0.0)
    delta = delta - dlse
    tl.store(Delta + rows, delta, mask=rows < seqlen_q)


@triton.jit
def _dq(
    dOut, Q, K, V, Lse, Delta, dQ, seqlen_q, seqlen_k, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows, dims = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    lse = tl.load(Lse + rows, mask=rows < seqlen_q, other=0.0)
    delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start_n in range(0, seqlen_k, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * scale
        p = tl.exp(scores - lse[:, None])
        p = tl.where((keys < seqlen_k)[None, :], p, 0.0)
        dp = tl.dot(do, v.T, input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dq = dq + tl.dot(ds, k, input_precision="ieee")
    tl.store(dQ + rows[:, None] * D + dims[None, :], dq * scale, mask=in_q)


@triton.jit
def _dkdv(
    dOut, Q, K, V, Lse, Delta, dK, dV, seqlen_q, seqlen_k, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    keys, dims = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
    k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
    v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for start_m in range(0, seqlen_q, BLOCK_M):
        rows = start_m + tl.arange(0, BLOCK_M)
        in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
        q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
        do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
        lse = tl.load(Lse + rows, mask=rows < seqlen_q, other=0.0)
        delta = tl.load(Delta + rows, mask=rows < seqlen_q, other=0.0)
        p = tl.exp(tl.dot(q, k.T, input_precision="ieee") * scale - lse[:, None])
        dv = dv + tl.dot(p.T, do, input_precision="ieee")
        dp = tl.dot(do, v.T, input_precision="ieee")
        ds = p * (dp - delta[:, None])
        dk = dk + tl.dot(ds.T, q, input_precision="ieee")
    tl.store(dK + keys[:, None] * D + dims[None, :], dk * scale, mask=in_k)
    tl.store(dV + keys[:, None] * D + dims[None, :], dv, mask=in_k)


_of_delta, _of_dq, _of_dkdv = (functools.partial(mistake, kernel) for kernel in (_delta, _dq, _dkdv))

IN_Q, IN_K = "(rows < seqlen_q)[:, None]", "(keys < seqlen_k)[:, None]"
ANY_Q, ANY_K = "(rows >= 0)[:, None]", "(keys >= 0)[:, None]"
AGAIN_K = "        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)\n"
AGAIN_Q = "        q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)\n"
AGAIN_DO = "    do = tl.load(dOut + rows[:, None] * D + dims[None, :], mask=inside, other=0.0)\n"
IN_FULL = "the task is full attention: every row sees every key."
WHOLE_ROW = "lse and delta hold what a whole row sums to, and a tile has only a part of it."
AFTER_THE_LOOP = "store once, behind the loop: before, the sum is not whole."
EXP2 = "exp2(x) is 2 to the x; the formula has e to the x, tl.exp."
HIDDEN = (
    "a key past the end has the score 0, and where all scores lie far below, exp(0 − lse) is ∞, and ∞ · 0 is NaN: tl.where sets P to 0."
)
NEXT_ROW = "BLOCK_D may be larger than D: what lies past a row is the next row."
BLOCK_ROWS = "a row has D numbers, not BLOCK_D."
DS = "p * (dp - delta[:, None])"
NO_DELTA, NO_P, PLUS_DELTA = (
    "dS is P ∘ (dP − delta): delta is missing.",
    "dS is P ∘ (dP − delta): the factor P is missing.",
    "delta is subtracted.",
)
DELTA_LATE = "delta belongs into the bracket: dS is P ∘ (dP − delta), not P ∘ dP − delta."
NO_SCALE, NO_LSE = "P comes from scale · q kᵀ: the scale is missing there.", "P is exp(score − lse): lse is missing."

AT_ROWS, AT_KEYS = "rows[:, None] * D + dims[None, :]", "keys[:, None] * D + dims[None, :]"
OF_ROWS = (AT_ROWS, "mask=in_q", "in_q", "(rows >= 0)[:, None] & (dims < D)[None, :]")
OF_KEYS = (AT_KEYS, "mask=in_k", "in_k", "(keys >= 0)[:, None] & (dims < D)[None, :]")
OF_BOTH = (AT_ROWS, "mask=inside", "inside", "(rows >= 0)[:, None] & (dims < D)[None, :]")
ONE_A_ROW = ("rows", "mask=rows < seqlen_q", "<", ">= 0 *")
OWN_SCALE = "the scale is given: use it as it is, not D ** -0.5."
IN_THE_LOOP = "what belongs to the program's own tile is loaded in every round: load it once, before the loop."
NO_STORE = "{0} is not stored: a tl.store for it is missing."

DELTA_MISTAKES = (
    _of_delta(
        "product of sums",
        "first multiply number by number, then sum.",
        1,
        "tl.sum(do * out, axis=1)",
        "tl.sum(do, axis=1) * tl.sum(out, axis=1)",
    ),
    _of_delta("dLse forgotten", "dLse is missing: it is subtracted.", 1, "delta - dlse", "delta"),
    _of_delta("dLse added", "dLse is subtracted, not added.", 1, "delta - dlse", "delta + dlse"),
    _of_delta("the sign is turned", "the sign is turned: the sum minus dLse.", 1, "delta - dlse", "dlse - delta"),
    _of_delta("dLse without a mask", "dLse is loaded past its end.", 2, "dLse + rows, mask=rows < seqlen_q, other=0.0", "dLse + rows"),
    _of_delta("loaded twice", "dOut is loaded twice: keep what you have loaded.", 2, AGAIN_DO, AGAIN_DO + AGAIN_DO),
    _of_delta("dOut alone", "Out is missing: delta is the sum of dOut ∘ Out.", 1, "do * out", "do"),
    _of_delta("dOut squared", "delta is the sum of dOut ∘ Out: one of the two is loaded twice.", 1, "tl.load(Out +", "tl.load(dOut +"),
    _of_delta("the mean", "the mean instead of the sum.", 1, "axis=1)", "axis=1) / D"),
    _of_delta("summed over the rows", "sum over the head dim, axis=1: each row has one delta.", 1, "axis=1", "axis=0"),
    _of_delta("no mask on the head dim", NEXT_ROW, 2, "dims < D", "dims >= 0"),
    _of_delta("no mask on the loads", "the last tile loads rows that do not exist.", 2, IN_Q, ANY_Q),
    _of_delta("no mask on the store", "the last tile stores rows that do not exist.", 2, "delta, mask=rows < seqlen_q", "delta"),
    _of_delta("rows begin at BLOCK_D", BLOCK_ROWS, 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_delta("rows begin at seqlen_q", "a row has D numbers, not seqlen_q.", 2, "[:, None] * D", "[:, None] * seqlen_q"),
    _of_delta("no axis", "tl.sum without axis=1 gives one number for the whole tile: each row has its own.", 1, ", axis=1", ""),
    _of_delta(
        "no masks at all",
        "nothing is masked: the last tile reaches past the last row, and what lies past a row's D numbers is the next row.",
        2,
        *(", mask=inside, other=0.0", "", ", mask=rows < seqlen_q, other=0.0", "", ", mask=rows < seqlen_q", ""),
    ),
    *wrong_steps(_delta, 2, dOut="rows", Out="rows"),
    *one_too_many(_delta, 2, rows="seqlen_q", dims="D"),
    *unmasked_loads(_delta, 2, dOut=OF_BOTH, Out=OF_BOTH),
    *wrong_program(_delta, 1, "BLOCK_M"),
)
DQ_MISTAKES = (
    _of_dq("no scale", "dQ lacks the scale: the scores were scale · q kᵀ.", 1, "dq * scale", "dq"),
    _of_dq("scale twice", "dQ has the scale twice.", 1, "dq * scale", "dq * scale * scale"),
    _of_dq("scores without scale", NO_SCALE, 1, 'k.T, input_precision="ieee") * scale', 'k.T, input_precision="ieee")'),
    _of_dq("k not transposed", "a score is a row of q with a row of k: tl.dot(q, k.T, …).", 1, "k.T", "k"),
    _of_dq("lse forgotten", NO_LSE, 1, "scores - lse[:, None]", "scores"),
    _of_dq("delta forgotten", NO_DELTA, 1, DS, "p * dp"),
    _of_dq("delta added", PLUS_DELTA, 1, "dp - delta", "dp + delta"),
    _of_dq("delta outside of the bracket", DELTA_LATE, 1, DS, "p * dp - delta[:, None]"),
    _of_dq("P forgotten", NO_P, 1, DS, "dp - delta[:, None]"),
    _of_dq("times V", "dS meets K in dQ.", 1, "tl.dot(ds, k", "tl.dot(ds, v"),
    _of_dq("dP from K", "dP is dOut Vᵀ: V, not K.", 1, "tl.dot(do, v.T", "tl.dot(do, k.T"),
    _of_dq("P in place of dS", "dQ is dS K, not P K.", 1, "tl.dot(ds, k", "tl.dot(p, k"),
    _of_dq(
        "scaled in every tile",
        "dQ is scaled in every tile, and what earlier tiles gave again and again: scale once, after the loop.",
        1,
        'k, input_precision="ieee")\n    ',
        'k, input_precision="ieee")\n        dq = dq * scale\n    ',
        "dq * scale, mask",
        "dq, mask",
    ),
    _of_dq("loaded twice", "a tile of K is loaded twice.", 2, AGAIN_K, AGAIN_K + AGAIN_K),
    _of_dq("no mask on the load", "keys past the end are loaded: 0 · NaN is NaN.", 2, IN_K, ANY_K),
    _of_dq("missing keys not hidden", HIDDEN, 2, "tl.where((keys < seqlen_k)[None, :], p, 0.0)", "p"),
    _of_dq("rows begin at BLOCK_D", BLOCK_ROWS, 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_dq("no mask on the head dim", NEXT_ROW, 2, "(dims < D)", "(dims >= 0)"),
    _of_dq("no mask on the rows", "the last tile loads and stores rows that do not exist.", 2, IN_Q, ANY_Q),
    _of_dq("no mask on lse and delta", "lse and delta are loaded past their end.", 2, "mask=rows < seqlen_q", "mask=rows >= 0"),
    _of_dq(
        "no mask on the store",
        "the last tile stores rows that do not exist.",
        2,
        "dq * scale, mask=in_q",
        "dq * scale, mask=(dims < D)[None, :]",
    ),
    _of_dq("own scale", OWN_SCALE, 1, "* scale", "* D ** -0.5"),
    _of_dq("own scale at the end", OWN_SCALE, 1, "dq * scale", "dq * D ** -0.5"),
    _of_dq("a softmax of the tile", WHOLE_ROW, 1, "scores - lse[:, None]", "scores - tl.max(scores, axis=1)[:, None]"),
    _of_dq("delta of the tile", WHOLE_ROW, 1, DS, "p * (dp - tl.sum(p * dp, axis=1)[:, None])"),
    _of_dq("dS transposed", "dQ is dS K, with dS as it is: a row gathers over its keys.", 1, "tl.dot(ds, k", "tl.dot(ds.T, k"),
    _of_dq("stored in every step", AFTER_THE_LOOP, 2, "    tl.store(dQ", "        tl.store(dQ"),
    _of_dq(
        "a causal mask", IN_FULL, 1, "(keys < seqlen_k)[None, :], p", "(keys < seqlen_k)[None, :] & (keys[None, :] <= rows[:, None]), p"
    ),
    _of_dq("exp2", EXP2, 1, "tl.exp(", "tl.exp2("),
    _of_dq(
        "q and dOut exchanged",
        "q meets k, and dOut meets v.",
        1,
        "dot(q, k.T",
        "dot(x, k.T",
        "dot(do, v.T",
        "dot(q, v.T",
        "dot(x,",
        "dot(do,",
    ),
    _of_dq("no mask in the store", "the store has no mask.", 2, "dq * scale, mask=in_q", "dq * scale"),
    _of_dq("rows alone in the store", NEXT_ROW, 2, "dq * scale, mask=in_q", "dq * scale, mask=(rows < seqlen_q)[:, None]"),
    _of_dq(
        "delta minus dP",
        "the sign is turned: dS is P ∘ (dP − delta), not P ∘ (delta − dP).",
        1,
        "dp - delta[:, None]",
        "delta[:, None] - dp",
    ),
    _of_dq("lse minus score", "the sign is turned: P is exp(score − lse).", 1, "scores - lse[:, None]", "lse[:, None] - scores"),
    _of_dq("lse added", "lse is subtracted, not added.", 1, "scores - lse", "scores + lse"),
    _of_dq("v not transposed", "dP is dOut Vᵀ: tl.dot(do, v.T, …).", 1, "v.T", "v"),
    _of_dq(
        "lse and delta swapped",
        "lse and delta are swapped.",
        1,
        "tl.load(Lse",
        "tl.load(lse_",
        "tl.load(Delta",
        "tl.load(Lse",
        "tl.load(lse_",
        "tl.load(Delta",
    ),
    _of_dq("own tile in the loop", IN_THE_LOOP, 2, "        in_k =", f"{AGAIN_Q}        in_k ="),
    *sum_not_kept(_dq, 2, "dq", "ds, k"),
    *wrong_axis(_dq, 1, "lse", "delta"),
    *wrong_walk(_dq, 2, "keys", "start_n", "seqlen_k", "seqlen_q", "BLOCK_N", "BLOCK_M"),
    *wrong_program(_dq, 1, "BLOCK_M", "BLOCK_N"),
    *wrong_steps(_dq, 2, Q="rows", dOut="rows", dQ="rows", K="keys", V="keys"),
    *one_too_many(_dq, 2, rows="seqlen_q", keys="seqlen_k", dims="D"),
    *unmasked_loads(_dq, 2, Q=OF_ROWS, dOut=OF_ROWS, K=OF_KEYS, V=OF_KEYS, Lse=ONE_A_ROW, Delta=ONE_A_ROW),
)
DKDV_MISTAKES = (
    _of_dkdv("no scale", "dK lacks the scale: the scores were scale · q kᵀ.", 1, "dk * scale", "dk"),
    _of_dkdv("scale twice", "dK has the scale twice.", 1, "dk * scale", "dk * scale * scale"),
    _of_dkdv("dV scaled", "dV has no scale: it is Pᵀ dOut.", 1, ", dv, mask", ", dv * scale, mask"),
    _of_dkdv("scores without scale", NO_SCALE, 1, "* scale - lse", "- lse"),
    _of_dkdv("lse forgotten", NO_LSE, 1, "scale - lse[:, None]", "scale"),
    _of_dkdv("delta forgotten", NO_DELTA, 1, DS, "p * dp"),
    _of_dkdv("delta added", PLUS_DELTA, 1, "dp - delta", "dp + delta"),
    _of_dkdv("delta outside of the bracket", DELTA_LATE, 1, DS, "p * dp - delta[:, None]"),
    _of_dkdv("P forgotten", NO_P, 1, DS, "dp - delta[:, None]"),
    _of_dkdv(
        "dV from dS",
        "dV is Pᵀ dOut, with the probabilities, not dS.",
        1,
        "dv + tl.dot(p.T, do",
        "dv + tl.dot((p * (tl.dot(do, v.T, input_precision='ieee') - delta[:, None])).T, do",
    ),
    _of_dkdv("dK from P", "dK is dSᵀ q, not Pᵀ q.", 1, "tl.dot(ds.T", "tl.dot(p.T"),
    _of_dkdv("dK of dOut", "dSᵀ meets q in dK, not dOut.", 1, "tl.dot(ds.T, q", "tl.dot(ds.T, do"),
    _of_dkdv("P not transposed", "dV is Pᵀ dOut: a key gathers over the rows, so P is transposed.", 1, "tl.dot(p.T", "tl.dot(p"),
    _of_dkdv("dS not transposed", "dK is dSᵀ q: a key gathers over the rows, so dS is transposed.", 1, "tl.dot(ds.T", "tl.dot(ds"),
    _of_dkdv("loaded twice", "a tile of Q is loaded twice.", 2, AGAIN_Q, AGAIN_Q + AGAIN_Q),
    _of_dkdv(
        "no mask on the loads",
        "rows past the end are loaded: 0 · NaN is NaN.",
        2,
        IN_Q,
        ANY_Q,
        "mask=rows < seqlen_q, other=0.0",
        "mask=rows >= 0, other=0.0",
    ),
    _of_dkdv("no mask on Q and dOut", "rows of Q and dOut past the end are loaded: 0 · NaN is NaN.", 2, IN_Q, ANY_Q),
    _of_dkdv(
        "no mask on lse and delta",
        "lse and delta are loaded past their end.",
        2,
        "mask=rows < seqlen_q, other=0.0",
        "mask=rows >= 0, other=0.0",
    ),
    _of_dkdv(
        "no mask on the stores",
        "the last tile stores keys that do not exist.",
        2,
        "dk * scale, mask=in_k",
        "dk * scale, mask=(dims < D)[None, :]",
        "dv, mask=in_k",
        "dv, mask=(dims < D)[None, :]",
    ),
    _of_dkdv("no mask on the head dim", NEXT_ROW, 2, "(dims < D)", "(dims >= 0)"),
    _of_dkdv("no mask on the keys", "the last tile loads and stores keys that do not exist.", 2, IN_K, ANY_K),
    _of_dkdv("rows begin at BLOCK_D", BLOCK_ROWS, 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_dkdv("own scale", OWN_SCALE, 1, "* scale", "* D ** -0.5"),
    _of_dkdv("own scale at the end", OWN_SCALE, 1, "dk * scale", "dk * D ** -0.5"),
    _of_dkdv(
        "lse is −∞ past the end",
        "an lse of −∞ makes exp(score − lse) infinite: what a mask leaves out of lse is 0, or +∞, and never −∞.",
        2,
        *("tl.load(Lse + rows, mask=rows < seqlen_q, other=0.0)", 'tl.load(Lse + rows, mask=rows < seqlen_q, other=-float("inf"))'),
    ),
    _of_dkdv(
        "exchanged", "dK and dV are exchanged.", 2, "dk * scale, mask", "x, mask", ", dv, mask", ", dk * scale, mask", "x, mask", "dv, mask"
    ),
    _of_dkdv(
        "begins at its own tile", IN_FULL, 1, "range(0, seqlen_q,", "range(tl.program_id(0) * BLOCK_N // BLOCK_M * BLOCK_M, seqlen_q,"
    ),
    _of_dkdv(
        "a causal mask", IN_FULL, 1, "        dv = dv", "        p = tl.where(keys[None, :] <= rows[:, None], p, 0.0)\n        dv = dv"
    ),
    _of_dkdv("stored in every step", AFTER_THE_LOOP, 2, "    tl.store(", "        tl.store("),
    _of_dkdv("exp2", EXP2, 1, "tl.exp(", "tl.exp2("),
    _of_dkdv(
        "q and dOut exchanged",
        "q meets k, and dOut meets v.",
        1,
        "dot(q, k.T",
        "dot(x, k.T",
        "dot(do, v.T",
        "dot(q, v.T",
        "dot(x,",
        "dot(do,",
    ),
    _of_dkdv("no mask in the stores", "the stores have no mask.", 2, "dk * scale, mask=in_k", "dk * scale", "dv, mask=in_k", "dv"),
    _of_dkdv("scale on dV", "the scale belongs to dK, not to dV.", 1, "dk * scale, mask", "dk, mask", ", dv, mask", ", dv * scale, mask"),
    _of_dkdv(
        "scaled in every tile",
        "dK is scaled in every tile, and what earlier tiles gave again and again: scale once, after the loop.",
        1,
        'dk = dk + tl.dot(ds.T, q, input_precision="ieee")',
        'dk = (dk + tl.dot(ds.T, q, input_precision="ieee")) * scale',
        "dk * scale, mask",
        "dk, mask",
    ),
    _of_dkdv(
        "delta minus dP",
        "the sign is turned: dS is P ∘ (dP − delta), not P ∘ (delta − dP).",
        1,
        "dp - delta[:, None]",
        "delta[:, None] - dp",
    ),
    _of_dkdv("lse added", "lse is subtracted, not added.", 1, "scale - lse", "scale + lse"),
    _of_dkdv("k not transposed", "a score is a row of q with a row of k: tl.dot(q, k.T, …).", 1, "k.T", "k"),
    _of_dkdv("v not transposed", "dP is dOut Vᵀ: tl.dot(do, v.T, …).", 1, "v.T", "v"),
    _of_dkdv("neither transposed", "dV is Pᵀ dOut and dK is dSᵀ q: both are transposed.", 1, "p.T", "p", "ds.T", "ds"),
    _of_dkdv("dK not stored", NO_STORE.format("dK"), 2, f"    tl.store(dK + {AT_KEYS}, dk * scale, mask=in_k)\n", ""),
    _of_dkdv("dV not stored", NO_STORE.format("dV"), 2, f"    tl.store(dV + {AT_KEYS}, dv, mask=in_k)\n", ""),
    _of_dkdv("own tile in the loop", IN_THE_LOOP, 2, "        in_q =", f"{AGAIN_K}        in_q ="),
    *sum_not_kept(_dkdv, 2, "dk", "ds.T, q"),
    *sum_not_kept(_dkdv, 2, "dv", "p.T, do"),
    *wrong_axis(_dkdv, 1, "lse", "delta"),
    *wrong_walk(_dkdv, 2, "rows", "start_m", "seqlen_q", "seqlen_k", "BLOCK_M", "BLOCK_N"),
    *wrong_program(_dkdv, 1, "BLOCK_N", "BLOCK_M"),
    *wrong_steps(_dkdv, 2, Q="rows", dOut="rows", K="keys", V="keys", dK="keys", dV="keys"),
    *one_too_many(_dkdv, 2, rows="seqlen_q", keys="seqlen_k", dims="D"),
    *unmasked_loads(_dkdv, 2, Q=OF_ROWS, dOut=OF_ROWS, K=OF_KEYS, V=OF_KEYS, Lse=ONE_A_ROW, Delta=ONE_A_ROW),
)
