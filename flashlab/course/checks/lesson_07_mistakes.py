"""The right kernels of exercise 07, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import triton
import triton.language as tl

from flashlab.course.checks.edited import edited, mistake
from flashlab.course.checks.kernel_mistakes import one_too_many, unmasked_loads, wrong_axis, wrong_program, wrong_steps, wrong_walk


@triton.jit
def _scores(
    Q, K, Scores, Largest, seqlen_q, seqlen_k, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    keys = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
    scores = tl.dot(q, k.T, input_precision="ieee") * scale
    inside = (rows < seqlen_q)[:, None] & (keys < seqlen_k)[None, :]
    tl.store(Scores + rows[:, None] * seqlen_k + keys[None, :], scores, mask=inside)
    scores = tl.where((keys < seqlen_k)[None, :], scores, -float("inf"))
    tl.store(Largest + rows * tl.num_programs(1) + tl.program_id(1), tl.max(scores, axis=1), mask=rows < seqlen_q)


@triton.jit
def _forward(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, scale, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    rows, dims = start_m + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = seqlen_k
    for start_n in range(0, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * scale
        seen = (keys < seqlen_k)[None, :]
        scores = tl.where(seen, scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, axis=1))
        p = tl.exp(scores - m_new[:, None])
        rescale = tl.exp(m - m_new)
        l = l * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p, v, acc * rescale[:, None], input_precision="ieee")
        m = m_new
    tl.store(Out + rows[:, None] * D + dims[None, :], acc / l[:, None], mask=in_q)
    tl.store(Lse + rows, m + tl.log(l), mask=rows < seqlen_q)


_causal = edited(
    _forward,
    "end = seqlen_k",
    "end = tl.minimum(seqlen_k, start_m + BLOCK_M)",
    "seen = (keys < seqlen_k)[None, :]",
    "seen = (keys < seqlen_k)[None, :] & (keys[None, :] <= rows[:, None])",
)

IN_Q, IN_K = "in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]", "in_k = (keys < seqlen_k)[:, None] & (dims < D)[None, :]"
ANY_Q, ANY_K = "in_q = (rows >= 0)[:, None] & (dims < D)[None, :]", "in_k = (keys >= 0)[:, None] & (dims < D)[None, :]"
OF_ROWS = ("rows[:, None] * D + dims[None, :]", "mask=in_q", "in_q", "(rows >= 0)[:, None] & (dims < D)[None, :]")
OF_KEYS = ("keys[:, None] * D + dims[None, :]", "mask=in_k", "in_k", "(keys >= 0)[:, None] & (dims < D)[None, :]")
NEXT_ROW = "BLOCK_D may be larger than D, and what lies past a row of {} is its next row: ask for dims < D in that load."
OTHER = "the scores of keys past the end become {}, and where all others lie further below, they win: use −inf."


ZERO_IS_NEUTRAL = "what a mask leaves out of q and k takes part in a sum of products, where 0 is neutral, not −inf: other=0.0."
OWN_SCALE_TOO = "the scale is given whole: D ** -0.5 is part of it."
STORED_LARGEST = "    tl.store(Largest + rows * tl.num_programs(1) + tl.program_id(1), tl.max(scores, axis=1), mask=rows < seqlen_q)\n"

_of_scores = functools.partial(mistake, _scores)


SCORE_MISTAKES = (
    _of_scores("no scale", "the scores are not scaled.", 1, " * scale", ""),
    _of_scores("divided by scale", "the scores are divided by scale: multiply.", 1, " * scale", " / scale"),
    _of_scores("k not transposed", "a score is a row of q with a row of k: tl.dot(q, k.T, …).", 1, "k.T", "k"),
    _of_scores("no mask on the head dim", NEXT_ROW.format("Q and of K"), 2, "(dims < D)", "(dims >= 0)"),
    _of_scores("no mask on Q's head dim", NEXT_ROW.format("Q"), 2, IN_Q, "in_q = (rows < seqlen_q)[:, None] & (dims >= 0)[None, :]"),
    _of_scores("no mask on K's head dim", NEXT_ROW.format("K"), 2, IN_K, "in_k = (keys < seqlen_k)[:, None] & (dims >= 0)[None, :]"),
    _of_scores("no mask on the rows", "the last tiles load rows and keys that do not exist.", 2, IN_Q, ANY_Q, IN_K, ANY_K),
    _of_scores("no mask on the store", "tiles at the edge are written past it.", 2, ", scores, mask=inside", ", scores"),
    _of_scores(
        "the store asks for rows alone",
        "a tile at the right edge is written past the end of its rows, into the next ones: the store asks for keys, too.",
        2,
        "inside = (rows < seqlen_q)[:, None] & (keys < seqlen_k)[None, :]",
        "inside = (rows < seqlen_q)[:, None] & (keys >= 0)[None, :]",
    ),
    _of_scores(
        "the store asks for keys alone",
        "a tile at the lower edge is written past the last row: the store asks for rows, too.",
        2,
        "inside = (rows < seqlen_q)[:, None] & (keys < seqlen_k)[None, :]",
        "inside = (rows >= 0)[:, None] & (keys < seqlen_k)[None, :]",
    ),
    _of_scores(
        "rows of Scores", "a row of Scores has seqlen_k numbers, not seqlen_q.", 1, "rows[:, None] * seqlen_k", "rows[:, None] * seqlen_q"
    ),
    _of_scores(
        "rows of BLOCK_N", "a row of Scores has seqlen_k numbers, not BLOCK_N.", 1, "rows[:, None] * seqlen_k", "rows[:, None] * BLOCK_N"
    ),
    _of_scores(
        "transposed",
        "Scores is written transposed: a row of it belongs to a query, and has seqlen_k numbers.",
        1,
        "rows[:, None] * seqlen_k + keys[None, :]",
        "rows[:, None] + keys[None, :] * seqlen_q",
    ),
    _of_scores(
        "ids swapped",
        "program_id(0) is the tile of rows, and program_id(1) that of keys.",
        1,
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
    ),
    _of_scores(
        "missing keys count",
        "a key past the end was loaded as 0, and its score 0 is the largest where all others lie below: give it −inf first.",
        2,
        *('tl.where((keys < seqlen_k)[None, :], scores, -float("inf"))', "scores"),
    ),
    _of_scores("missing keys are -1000", OTHER.format("−1000"), 2, 'scores, -float("inf"))', "scores, -1000.0)"),
    _of_scores("the largest of each key", "Largest has one number for each row of the tile: axis=1.", 1, "axis=1", "axis=0"),
    _of_scores(
        "the largest of all",
        "tl.max without axis=1 gives one number for the whole tile: each row has its own.",
        1,
        "scores, axis=1",
        "scores",
    ),
    _of_scores(
        "Largest by key tiles first",
        "Largest has a row for each query, and in it a number for each tile of keys: rows · tiles + tile.",
        1,
        "Largest + rows * tl.num_programs(1) + tl.program_id(1)",
        "Largest + rows + tl.program_id(1) * seqlen_q",
    ),
    _of_scores(
        "rows of Largest",
        "a row of Largest has as many numbers as there are tiles of keys, tl.num_programs(1).",
        1,
        "rows * tl.num_programs(1)",
        "rows * seqlen_k",
    ),
    _of_scores(
        "no mask on Largest",
        "rows past the last one are stored in Largest, too: mask that store.",
        2,
        "axis=1), mask=rows < seqlen_q",
        "axis=1)",
    ),
    _of_scores("Largest not stored", "Largest is not stored: a second tl.store is missing.", 1, STORED_LARGEST, ""),
    _of_scores(
        "other is −inf",
        ZERO_IS_NEUTRAL,
        2,
        "mask=in_q, other=0.0",
        'mask=in_q, other=-float("inf")',
        "mask=in_k, other=0.0",
        'mask=in_k, other=-float("inf")',
    ),
    _of_scores("K with other −inf", ZERO_IS_NEUTRAL, 2, "mask=in_k, other=0.0", 'mask=in_k, other=-float("inf")'),
    _of_scores("own scale on top", OWN_SCALE_TOO, 1, "* scale", "* scale * D ** -0.5"),
    _of_scores("rows of D", "a row of Scores has seqlen_k numbers, not D.", 1, "rows[:, None] * seqlen_k", "rows[:, None] * D"),
    _of_scores("rows begin at BLOCK_D", "a row of Q and K has D numbers, not BLOCK_D.", 1, "[:, None] * D", "[:, None] * BLOCK_D"),
    *wrong_steps(_scores, 1, Q="rows", K="keys"),
    *one_too_many(_scores, 2, rows="seqlen_q", keys="seqlen_k", dims="D"),
    *unmasked_loads(_scores, 2, Q=OF_ROWS, K=OF_KEYS),
)


_of_forward, _of_causal = functools.partial(mistake, _forward), functools.partial(mistake, _causal)

AT_KEYS, ANYWHERE = "keys[:, None] * D + dims[None, :]", "mask=(keys >= 0)[:, None] & (dims < D)[None, :]"
RESCALED = "acc = tl.dot(p, v, acc * rescale[:, None]", "acc = tl.dot(p, v, acc"
OLDER = "summed against an older maximum: in each tile multiply {} by exp(m − m_new), with the m of before."
LATE_Q = "    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)\n"
STORED_LSE = "    tl.store(Lse + rows, m + tl.log(l), mask=rows < seqlen_q)\n"
BEGINS = 'm = tl.full([BLOCK_M], -float("inf"), tl.float32)'
FINITE = "m begins at {}, and a row whose scores all lie far below that sums to nothing: begin at −inf."
FORWARD_MISTAKES = (
    _of_forward("no scale", "the scores are not scaled.", 1, " * scale", ""),
    _of_forward("divided by scale", "the scores are divided by scale: multiply.", 1, " * scale", " / scale"),
    _of_forward("k not transposed", "a score is a row of q with a row of k: tl.dot(q, k.T, …).", 1, "k.T", "k"),
    _of_forward("acc not rescaled", f"acc was {OLDER.format('it')}", 1, *RESCALED),
    _of_forward("l not rescaled", f"l was {OLDER.format('it')}", 1, "l * rescale", "l"),
    _of_forward(
        "nothing is rescaled", f"l and acc were {OLDER.format('both')}", 1, "rescale = tl.exp(m - m_new)", "rescale = tl.exp(m_new - m_new)"
    ),
    _of_forward(
        "rescaled the wrong way round",
        "the factor for l and acc is exp(m − m_new), which is never above 1.",
        1,
        "tl.exp(m - m_new)",
        "tl.exp(m_new - m)",
    ),
    _of_forward(
        "p against the m of before", "p is exp(scores − m_new): it is measured against the m of before.", 1, "scores - m_new", "scores - m"
    ),
    _of_forward(
        "the tile's own maximum",
        "m_new is the largest of all tiles so far: tl.maximum(m, …), not the tile's own maximum.",
        1,
        "tl.maximum(m, tl.max(scores, axis=1))",
        "tl.max(scores, axis=1)",
    ),
    _of_forward(
        "one maximum for all rows",
        "tl.max without axis=1 gives one number for the whole tile: each row needs its own.",
        1,
        "tl.max(scores, axis=1)",
        "tl.max(scores)",
    ),
    _of_forward(
        "no maximum",
        "exp of a large score overflows: subtract the row's maximum so far.",
        1,
        "tl.maximum(m, tl.max(scores, axis=1))",
        "tl.zeros([BLOCK_M], tl.float32)",
        BEGINS,
        "m = tl.zeros([BLOCK_M], tl.float32)",
    ),
    _of_forward("exp2 as it is", "exp2(x) is 2 to the x: for exp(x) it needs x · log2(e).", 1, "tl.exp(", "tl.exp2("),
    _of_forward("m begins at 0", FINITE.format("0"), 1, BEGINS, "m = tl.zeros([BLOCK_M], tl.float32)"),
    *(
        _of_forward(
            "m begins at a finite number", FINITE.format("a finite number"), 1, BEGINS, f"m = tl.full([BLOCK_M], {finite}, tl.float32)"
        )
        for finite in (-100.0, -1000.0)
    ),
    _of_forward(
        "each tile replaces acc",
        "each tile replaces what acc held: add to it.",
        1,
        "acc = tl.dot(p, v, acc * rescale[:, None]",
        "acc = tl.dot(p, v",
    ),
    _of_forward(
        "divided in each tile",
        "acc is divided by l in each tile: l is whole only after the last, so divide once, at the end.",
        1,
        'rescale[:, None], input_precision="ieee")',
        'rescale[:, None], input_precision="ieee") / l[:, None]',
        ", acc / l[:, None]",
        ", acc",
    ),
    _of_forward("not divided", "divide acc by l at the end.", 1, "acc / l[:, None]", "acc"),
    _of_forward("lse is the maximum", "lse is m + log(l): the logarithm is missing.", 1, "m + tl.log(l)", "m"),
    _of_forward("lse without m", "lse is m + log(l): l was summed against m.", 1, "m + tl.log(l)", "tl.log(l)"),
    _of_forward("lse with l", "lse is m + log(l): the logarithm of l, not l.", 1, "m + tl.log(l)", "m + l"),
    _of_forward("lse in log2", "lse is m + log(l), with the natural logarithm.", 1, "tl.log(l)", "tl.log2(l)"),
    _of_forward(
        "Q in the loop",
        "q is loaded anew in every tile: load it once, before the loop.",
        1,
        LATE_Q,
        "",
        "        in_k =",
        f"    {LATE_Q}        in_k =",
    ),
    _of_forward(
        "K loaded twice",
        "a tile of K is loaded twice.",
        1,
        "        v =",
        "        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)\n        v =",
    ),
    _of_forward(
        "V loaded twice",
        "a tile of V is loaded twice.",
        1,
        "        m = m_new",
        "        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)\n        m = m_new",
    ),
    _of_forward(
        "missing keys count",
        "keys past the end were loaded as 0, so their score is 0, and exp(0 − m) is not 0: hide them in the scores too.",
        2,
        'tl.where(seen, scores, -float("inf"))',
        "scores",
    ),
    _of_forward(
        "p set to 0 instead",
        "p of the missing keys is 0, and yet their score 0 takes part in the maximum: give their scores −inf, before the maximum.",
        2,
        'tl.where(seen, scores, -float("inf"))',
        "scores",
        "        rescale =",
        "        p = tl.where(seen, p, 0.0)\n        rescale =",
    ),
    _of_forward("missing keys are -1000", OTHER.format("−1000"), 2, 'scores, -float("inf"))', "scores, -1000.0)"),
    _of_forward("missing keys are -10000", OTHER.format("−10000"), 2, 'scores, -float("inf"))', "scores, -10000.0)"),
    _of_forward("no mask on the loads", "keys past the end are loaded from K and V: 0 · NaN is NaN.", 2, IN_K, ANY_K),
    _of_forward(
        "no mask on the head dim",
        NEXT_ROW.format("Q, K and V"),
        2,
        IN_Q,
        "in_q = (rows < seqlen_q)[:, None] & (dims >= 0)[None, :]",
        IN_K,
        "in_k = (keys < seqlen_k)[:, None] & (dims >= 0)[None, :]",
    ),
    _of_forward(
        "no mask on the store",
        "the last tile stores rows that do not exist.",
        2,
        "acc / l[:, None], mask=in_q",
        "acc / l[:, None], mask=(dims < D)[None, :]",
    ),
    _of_forward("rows begin at BLOCK_D", "a row of Q, K, V and Out has D numbers, not BLOCK_D.", 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_forward(
        "p without m", "p is exp(scores − m_new), with the m of this round: m is not brought up to date.", 1, "        m = m_new\n", ""
    ),
    _of_forward("own scale on top", OWN_SCALE_TOO, 1, "* scale", "* scale * D ** -0.5"),
    _of_forward("other is −inf", ZERO_IS_NEUTRAL, 2, "mask=in_k, other=0.0)\n        v", 'mask=in_k, other=-float("inf"))\n        v'),
    _of_forward(
        "keys masked by queries", "K and V have seqlen_k rows: keys < seqlen_k.", 2, "in_k = (keys < seqlen_k)", "in_k = (keys < seqlen_q)"
    ),
    _of_forward(
        "one sum for all rows",
        "tl.sum without axis=1 gives one number for the whole tile: each row needs its own.",
        1,
        "tl.sum(p, axis=1)",
        "tl.sum(p)",
    ),
    _of_forward(
        "the largest of each key",
        "tl.max(…, axis=0) is one number for each key: each row needs its own, axis=1.",
        1,
        "tl.max(scores, axis=1)",
        "tl.max(scores, axis=0)",
    ),
    _of_forward(
        "steps of one",
        "the walk goes in steps of 1, and visits keys many times: in steps of BLOCK_N.",
        1,
        "range(0, end, BLOCK_N)",
        "range(0, end)",
    ),
    _of_forward("lse is l", "lse is m + log(l): this is l alone.", 1, "m + tl.log(l)", "l"),
    _of_forward(
        "p divided in each tile",
        "p is divided in each tile, by its own sum: divide acc once, at the end, by l of all tiles.",
        1,
        "        rescale =",
        "        p = p / tl.sum(p, axis=1)[:, None]\n        rescale =",
    ),
    _of_forward(
        "rescaled too late",
        "acc is rescaled after the product was added, which is measured against m_new already: first rescale, then add.",
        1,
        'acc = tl.dot(p, v, acc * rescale[:, None], input_precision="ieee")',
        'acc = tl.dot(p, v, acc, input_precision="ieee") * rescale[:, None]',
    ),
    _of_forward("own scale", "the scale is given: use it as it is, not D ** -0.5.", 1, "* scale", "* D ** -0.5"),
    _of_forward(
        "acc is not kept", "tl.dot(p, v, acc, …) changes no tile, it returns the sum: acc = tl.dot(…).", 1, "acc = tl.dot(p", "tl.dot(p"
    ),
    _of_forward(
        "acc is added twice",
        "tl.dot(p, v, acc, …) is the sum with acc already: assign it, and do not add it once more.",
        1,
        "acc = tl.dot(p",
        "acc += tl.dot(p",
    ),
    _of_forward("Lse not stored", "Lse is not stored: a tl.store for it is missing.", 1, STORED_LSE, ""),
    *wrong_axis(_forward, 1, "m_new", "rescale"),
    *wrong_walk(_forward, 1, "keys", "start_n", "end", "seqlen_q", "BLOCK_N", "BLOCK_M"),
    *wrong_program(_forward, 1, "BLOCK_M", "BLOCK_N"),
    *wrong_steps(_forward, 2, Q="rows", K="keys", V="keys", Out="rows"),
    *one_too_many(_forward, 2, rows="seqlen_q", keys="seqlen_k", dims="D"),
    *unmasked_loads(_forward, 2, Q=OF_ROWS, K=OF_KEYS, V=OF_KEYS),
)

ALL_KEYS, SEEN = ("end = tl.minimum(seqlen_k, start_m + BLOCK_M)", "end = seqlen_k"), " & (keys[None, :] <= rows[:, None])"
CAUSAL_MISTAKES = (
    _of_causal("full attention", "this is the kernel of 7.2: nothing is hidden, and every tile of keys is loaded.", 1, *ALL_KEYS, SEEN, ""),
    _of_causal(
        "no mask", "the walk ends at the diagonal, and the tiles that it crosses hide nothing: mask the pairs in them.", 1, SEEN, ""
    ),
    _of_causal(
        "nothing is skipped", "every tile of keys is loaded: those right of the diagonal hide everything, and need not be.", 2, *ALL_KEYS
    ),
    _of_causal(
        "ends at the first row",
        "the walk ends where the first row ends: the last row of the tile sees further.",
        2,
        "start_m + BLOCK_M)",
        "start_m + 1)",
    ),
    _of_causal(
        "ends at BLOCK_N", "the walk ends at start_m + BLOCK_N: the tile has BLOCK_M rows.", 2, "start_m + BLOCK_M)", "start_m + BLOCK_N)"
    ),
    _of_causal(
        "a tile too far", "the walk loads one tile more than the last row sees.", 2, "start_m + BLOCK_M)", "start_m + BLOCK_M + BLOCK_N)"
    ),
    _of_causal(
        "ends a row too late",
        "the walk ends one row too late: the last row of the tile is start_m + BLOCK_M − 1.",
        2,
        "start_m + BLOCK_M)",
        "start_m + BLOCK_M + 1)",
    ),
    _of_causal(
        "ends before its own rows",
        "the walk ends before the tile's own rows, which see themselves: end at start_m + BLOCK_M.",
        2,
        "start_m + BLOCK_M)",
        "start_m)",
    ),
    _of_causal(
        "tiles counted, not keys",
        "the loop ends at a number of keys, not of tiles.",
        2,
        "end = tl.minimum(seqlen_k, start_m + BLOCK_M)",
        "end = tl.program_id(0) + 1",
    ),
    _of_causal("blind to itself", "a token sees itself: keys <= rows.", 1, "keys[None, :] <= rows", "keys[None, :] < rows"),
    _of_causal("one key too many", "each row sees one key of the future.", 1, "<= rows[:, None]", "<= rows[:, None] + 1"),
    _of_causal(
        "the mask is transposed",
        "the mask shows the future and hides the past: keys <= rows.",
        1,
        "keys[None, :] <= rows",
        "keys[None, :] >= rows",
    ),
    _of_causal(
        "places within the tile",
        "the mask compares places within the tiles: which key and which row of the whole they are counts.",
        1,
        "keys[None, :] <= rows[:, None]",
        "(keys - start_n)[None, :] <= (rows - start_m)[:, None]",
    ),
    _of_causal(
        "hidden scores are 0",
        "hidden scores were set to 0, and exp(0 − m) is not 0: use −inf.",
        1,
        'scores, -float("inf"))',
        "scores, 0.0)",
    ),
    _of_causal(
        "hidden scores are -1000",
        OTHER.format("−1000").replace("keys past the end", "hidden pairs"),
        1,
        'scores, -float("inf"))',
        "scores, -1000.0)",
    ),
    _of_causal(
        "hidden scores are -10000",
        OTHER.format("−10000").replace("keys past the end", "hidden pairs"),
        1,
        'scores, -float("inf"))',
        "scores, -10000.0)",
    ),
    _of_causal(
        "p set to 0 instead",
        "p of hidden pairs is 0, and yet their scores take part in the maximum: hide them before it, with −inf.",
        1,
        'tl.where(seen, scores, -float("inf"))',
        "scores",
        "        rescale =",
        "        p = tl.where(seen, p, 0.0)\n        rescale =",
    ),
    _of_causal("no scale", "the scores are not scaled, as in 7.2.", 1, " * scale", ""),
    _of_causal("acc not rescaled", f"acc was {OLDER.format('it')}", 1, *RESCALED),
)
