"""The right answers of exercise 05, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import numpy as np

from flashlab.course.checks.edited import mistake
from flashlab.course.steps import naive  # noqa: F401 (some of the words that stand in place of others call it)
from flashlab.course.steps.tiled import tiles

# ------------------------------------------------------------------------------------------------- 5.1 and 5.2, delta and P


def row_delta(dOut, Out):
    return (dOut * Out).sum(axis=1)


BY_NUMBER = "number by number, dOut * Out, not as a product of matrices."
_of_delta = functools.partial(mistake, row_delta)
DELTA_MISTAKES = (
    _of_delta("down the columns", "the sum runs down the columns: delta is one number for each row.", 1, "axis=1", "axis=0"),
    _of_delta("keepdims", "delta has shape (rows,): no second axis.", 2, "axis=1", "axis=1, keepdims=True"),
    _of_delta("the mean", "the mean instead of the sum.", 2, "sum(", "mean("),
    _of_delta("sum of dOut", "Out is missing: multiply number by number, then sum.", 1, "dOut * Out", "dOut"),
    _of_delta(
        "product of sums",
        "first multiply, then sum: a product of two sums is another number.",
        1,
        *("(dOut * Out).sum(axis=1)", "dOut.sum(axis=1) * Out.sum(axis=1)"),
    ),
    _of_delta("one for all rows", "everything was summed to one number: each row has its own.", 2, "axis=1", ""),
    _of_delta("not summed", "the products are there, and the sum along each row is missing.", 1, ".sum(axis=1)", ""),
    _of_delta("product of matrices", BY_NUMBER, 1, "(dOut * Out).sum(axis=1)", "dOut @ Out.T"),
    _of_delta("product of matrices, summed", BY_NUMBER, 1, "dOut * Out", "dOut @ Out.T"),
)


def recompute(q, k, lse, scale):
    return np.exp(scale * q @ k.T - lse[:, None])


SCORES = "scale * q @ k.T - lse[:, None]"
OUTSIDE = "the scale belongs to the scores alone: exp(scale · q kᵀ − lse)."
IN_EXPONENT = "lse is a logarithm already: subtract it in the exponent as it is, do not divide by it and take no logarithm of it."
_of_recompute = functools.partial(mistake, recompute)
RECOMPUTE_MISTAKES = (
    _of_recompute(
        "softmax of the tile",
        "softmax over this tile's keys alone: lse knows the sum over all of them.",
        1,
        *(f"np.exp({SCORES})", "naive.softmax(scale * q @ k.T)"),
    ),
    _of_recompute("no scale", "the scores are scale · q kᵀ: the scale is missing.", 2, "scale * q", "q"),
    _of_recompute("scale by D", "the scale is given: use it as it is, not 1 / sqrt(D).", 2, "scale * q", "q.shape[1] ** -0.5 * q"),
    _of_recompute("scale of lse too", OUTSIDE, 2, SCORES, "scale * (q @ k.T - lse[:, None])"),
    _of_recompute("scale outside of exp", OUTSIDE, 2, f"np.exp({SCORES})", "scale * np.exp(q @ k.T - lse[:, None])"),
    _of_recompute("divided by lse", IN_EXPONENT, 1, f"np.exp({SCORES})", "np.exp(scale * q @ k.T) / lse[:, None]"),
    _of_recompute(
        "overflows",
        "exp of a large score overflows: subtract lse in the exponent, before exp.",
        1,
        *(f"np.exp({SCORES})", "np.exp(scale * q @ k.T) / np.exp(lse[:, None])"),
    ),
    _of_recompute("exp alone", "lse is missing: these are not probabilities.", 1, " - lse[:, None]", ""),
    _of_recompute("no exp", "these are logarithms of the probabilities: exp is missing.", 1, f"np.exp({SCORES})", SCORES),
    _of_recompute("added", "lse is subtracted, not added.", 1, "- lse", "+ lse"),
    _of_recompute("lse along the keys", "lse has one number for each *row*: lse[:, None].", 2, "lse[:, None]", "lse"),
    _of_recompute("transposed", "P has a row for each query and a column for each key.", 2, f"np.exp({SCORES})", f"np.exp({SCORES}).T"),
    _of_recompute(
        "m in place of lse",
        "that is exp(s − m), before it is divided: lse = m + log l knows of all keys, and brings both.",
        1,
        *("- lse[:, None]", "- (scale * q @ k.T).max(axis=1)[:, None]"),
    ),
    _of_recompute("exp2", "exp2(x) is 2 to the x; lse is a natural logarithm: np.exp.", 1, "np.exp(", "np.exp2("),
)

# ----------------------------------------------------------------------------------------------------------------- 5.3, dQ


def grad_q_tile(q, dout, lse, delta, K, V, scale, BLOCK_N):
    dq = np.zeros(q.shape)
    for cols in tiles(K.shape[0], BLOCK_N):
        k, v = K[cols], V[cols]
        P = recompute(q, k, lse, scale)
        dS = P * (dout @ v.T - delta[:, None])
        dq = dq + dS @ k
    return scale * dq


DS = "P * (dout @ v.T - delta[:, None])"
WHOLE_TILES = "[slice(n * BLOCK, (n + 1) * BLOCK) for n in range({} // BLOCK)]"
NO_DELTA, NO_P = "dS is P ∘ (dP − delta): delta is missing.", "dS is P ∘ (dP − delta): the factor P is missing."
OUT_OF_BRACKET = "delta belongs into the bracket: dS is P ∘ (dP − delta), not P ∘ dP − delta."
OWN_DELTA = "delta is given, and was summed over all keys: the sum over this tile's keys alone is another number."
DELTA_ROWS = "delta has one number for each *row*: delta[:, None]."
NO_INNER_SCALE = "P is made of scale · q kᵀ: hand the scale to recompute."
TWICE = "{} read from HBM twice: give what you read a name."
RETURNED = (
    "only the first tile counts: does the function return within the loop, "
    "or are the arguments of tiles(length, block) the wrong way round?"
)
SCALE_TWICE_IN_P = "the scale is there twice in P: scale q, or hand the scale to recompute, not both."
LSE_ROWS = "lse has one number for each *row*: lse[:, None]."
ROWS_FIRST = "recompute takes the rows first: recompute(q, k, …)."
BRACKETS = "* and @ bind alike, from the left: brackets around dP − delta, P * (dP - delta[:, None])."
NO_TRANSPOSE = "dP is dOut Vᵀ: the transpose is missing."
_of_dq = functools.partial(mistake, grad_q_tile)
DQ_MISTAKES = (
    _of_dq("no scale", "dq lacks the scale: the scores were scale · q kᵀ.", 1, "scale * dq", "dq"),
    _of_dq("scale twice", "the scale is there twice.", 1, "scale * dq", "scale * scale * dq"),
    _of_dq(
        "scaled in every tile",
        "dq is scaled again in every tile: scale once, after the loop.",
        1,
        "dq + dS @ k",
        "scale * (dq + dS @ k)",
        "scale * dq",
        "dq",
    ),
    _of_dq("P without scale", NO_INNER_SCALE, 1, "lse, scale)\n", "lse, 1.0)\n"),
    _of_dq("scale twice in P", SCALE_TWICE_IN_P, 1, "lse, scale)\n", "lse, scale * scale)\n"),
    _of_dq("lse along the keys", LSE_ROWS, 1, "recompute(q, k, lse, scale)", "np.exp(scale * q @ k.T - lse)"),
    _of_dq("keys first", ROWS_FIRST, 1, "recompute(q, k,", "recompute(k, q,"),
    _of_dq("K and V swapped", "k comes from K, and v from V: swapped.", 2, "k, v = K", "v, k = K"),
    _of_dq("brackets", BRACKETS, 1, DS, "P * dout @ v.T - delta[:, None]"),
    _of_dq("V not transposed", NO_TRANSPOSE, 1, "dout @ v.T", "dout @ v"),
    _of_dq("over the rows", "the walk is over the keys: tiles(len(K), BLOCK_N).", 2, "K.shape[0]", "q.shape[0]"),
    _of_dq("delta forgotten", NO_DELTA, 1, DS, "P * (dout @ v.T)"),
    _of_dq("delta added", "delta is subtracted.", 1, "- delta", "+ delta"),
    _of_dq("delta outside of the bracket", OUT_OF_BRACKET, 1, DS, "P * (dout @ v.T) - delta[:, None]"),
    _of_dq("delta along the keys", DELTA_ROWS, 1, "delta[:, None]", "delta"),
    _of_dq("delta of the tile", OWN_DELTA, 1, DS, "P * (dout @ v.T - (P * (dout @ v.T)).sum(axis=1)[:, None])"),
    _of_dq("P forgotten", NO_P, 1, DS, DS.removeprefix("P * ")),
    _of_dq("dP alone", "dS is P ∘ (dP − delta): P and delta are missing.", 1, DS, "dout @ v.T"),
    _of_dq("dP from K", "dP is dOut Vᵀ: V, not K.", 1, "dout @ v.T", "dout @ k.T"),
    _of_dq("P in place of dS", "dq is made of dS, not of the probabilities.", 1, "dS @ k", "P @ k"),
    _of_dq("times V", "dS meets K in dq: the scores were made of q and K.", 2, "dS @ k", "dS @ v"),
    _of_dq(
        "softmax of the tile",
        "softmax over one tile: bring P back from lse.",
        1,
        "recompute(q, k, lse, scale)",
        "naive.softmax(scale * q @ k.T)",
    ),
    _of_dq("only the last tile", "each tile replaces dq: add.", 2, "dq + dS", "dS"),
    _of_dq("only the first tile", RETURNED, 2, "    return scale", "        return scale"),
    _of_dq(
        "the rest is lost",
        "the keys of the last, shorter tile are not visited.",
        2,
        *("tiles(K.shape[0], BLOCK_N)", WHOLE_TILES.format("K.shape[0]").replace("BLOCK", "BLOCK_N")),
    ),
    _of_dq("loaded twice", TWICE.format("a tile of K or of V is"), 2, "        P =", "        k = K[cols]\n        P ="),
    _of_dq("both loaded twice", TWICE.format("each tile of K and V is"), 2, "        P =", "        k, v = K[cols], V[cols]\n        P ="),
    _of_dq(
        "all at once",
        "more than a tile of K and V lay in SRAM at once: were they loaded whole, or kept in a list? Add each tile to dq, and let it go.",
        2,
        *("    for cols", "    K, V = K[:], V[:]\n    for cols"),
    ),
)

# ---------------------------------------------------------------------------------------------------------- 5.4, dK and dV


def grad_kv_tile(k, v, Q, dOut, Lse, Delta, scale, BLOCK_M):
    dk, dv = np.zeros(k.shape), np.zeros(v.shape)
    for rows in tiles(Q.shape[0], BLOCK_M):
        q, dout, lse, delta = Q[rows], dOut[rows], Lse[rows], Delta[rows]
        P = recompute(q, k, lse, scale)
        dS = P * (dout @ v.T - delta[:, None])
        dv = dv + P.T @ dout
        dk = dk + dS.T @ q
    return scale * dk, dv


ADDED = "dv = dv + ", "dv += ", "dk = dk + ", "dk += "
NOT_TRANSPOSED = "{} is transposed: a key gathers over the rows, {}."
_of_dkdv = functools.partial(mistake, grad_kv_tile)
DKDV_MISTAKES = (
    _of_dkdv("no scale", "dk lacks the scale: the scores were scale · q kᵀ.", 1, "scale * dk", "dk"),
    _of_dkdv("scale twice", "the scale is there twice in dk.", 1, "scale * dk", "scale * scale * dk"),
    _of_dkdv("dv scaled", "dv has no scale: it is Pᵀ dOut.", 1, "scale * dk, dv", "scale * dk, scale * dv"),
    _of_dkdv("P without scale", NO_INNER_SCALE, 1, "lse, scale)\n", "lse, 1.0)\n"),
    _of_dkdv("scale twice in P", SCALE_TWICE_IN_P, 1, "lse, scale)\n", "lse, scale * scale)\n"),
    *(
        _of_dkdv(name, sentence, 1, *change, *spelling)
        for spelling in ((), ADDED)  # numbers that are added in place complain where sums would grow
        for name, sentence, *change in (
            ("lse along the keys", LSE_ROWS, "recompute(q, k, lse, scale)", "np.exp(scale * q @ k.T - lse)"),
            ("keys first", ROWS_FIRST, "recompute(q, k,", "recompute(k, q,"),
            ("delta along the keys", DELTA_ROWS, "delta[:, None]", "delta"),
        )
    ),
    _of_dkdv(
        "one array for both",
        "dk and dv are one array: make two.",
        2,
        "dk, dv = np.zeros(k.shape), np.zeros(v.shape)",
        "dk = dv = np.zeros(k.shape)",
        *ADDED,
    ),
    _of_dkdv("brackets", BRACKETS, 1, DS, "P * dout @ v.T - delta[:, None]"),
    _of_dkdv("V not transposed", NO_TRANSPOSE, 1, "dout @ v.T", "dout @ v"),
    _of_dkdv("over the keys", "the walk is over the rows: tiles(len(Q), BLOCK_M).", 2, "Q.shape[0]", "k.shape[0]"),
    _of_dkdv("delta forgotten", NO_DELTA, 1, DS, "P * (dout @ v.T)"),
    _of_dkdv("delta added", "delta is subtracted.", 1, "- delta", "+ delta"),
    _of_dkdv("delta outside of the bracket", OUT_OF_BRACKET, 1, DS, "P * (dout @ v.T) - delta[:, None]"),
    _of_dkdv("delta of the tile", OWN_DELTA, 1, DS, "P * (dout @ v.T - (P * (dout @ v.T)).sum(axis=1)[:, None])"),
    _of_dkdv("P forgotten", NO_P, 1, DS, DS.removeprefix("P * ")),
    _of_dkdv(
        "softmax of the tile",
        "softmax over one tile: bring P back from lse.",
        1,
        "recompute(q, k, lse, scale)",
        "naive.softmax(scale * q @ k.T)",
    ),
    _of_dkdv("dv from dS", "dv is made of the probabilities, Pᵀ dOut, not of dS.", 2, "P.T @ dout", "dS.T @ dout"),
    _of_dkdv("dk from P", "dk is made of dS, not of the probabilities.", 2, "dS.T @ q", "P.T @ q"),
    _of_dkdv("dk of dOut", "dSᵀ meets q in dk: the scores were made of q and k.", 2, "dS.T @ q", "dS.T @ dout"),
    _of_dkdv("P not transposed", NOT_TRANSPOSED.format("P", "dv = Pᵀ dOut"), 2, "P.T @", "P @"),
    _of_dkdv("dS not transposed", NOT_TRANSPOSED.format("dS", "dk = dSᵀ q"), 2, "dS.T @", "dS @"),
    _of_dkdv("swapped", "dk and dv are returned the wrong way round: dk, then dv.", 2, "return scale * dk, dv", "return dv, scale * dk"),
    _of_dkdv("only the last tile", "each tile replaces dk and dv: add.", 2, "dv + P", "P", "dk + dS", "dS"),
    _of_dkdv("only the last tile, in dk", "each tile replaces dk: add.", 2, "dk + dS", "dS"),
    _of_dkdv("only the last tile, in dv", "each tile replaces dv: add.", 2, "dv + P", "P"),
    _of_dkdv("only the first tile", RETURNED, 2, "    return scale", "        return scale"),
    _of_dkdv(
        "the rest is lost",
        "the rows of the last, shorter tile are not visited.",
        2,
        *("tiles(Q.shape[0], BLOCK_M)", WHOLE_TILES.format("Q.shape[0]").replace("BLOCK", "BLOCK_M")),
    ),
    _of_dkdv("loaded twice", TWICE.format("a tile of Q or of dOut is"), 2, "        P =", "        q = Q[rows]\n        P ="),
    _of_dkdv(
        "both loaded twice",
        TWICE.format("each tile of Q and dOut is"),
        2,
        "        P =",
        "        q, dout = Q[rows], dOut[rows]\n        P =",
    ),
    _of_dkdv(
        "all at once",
        "more than a tile of Q and dOut lay in SRAM at once: were they loaded whole, or kept in a list? Add each tile, and let it go.",
        2,
        *("    for rows", "    Q, dOut, Lse, Delta = Q[:], dOut[:], Lse[:], Delta[:]\n    for rows"),
    ),
)
