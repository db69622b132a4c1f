"""The right kernels of exercise 12, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import triton
import triton.language as tl

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.kernel_mistakes import one_too_many, unmasked_loads, wrong_axis, wrong_program, wrong_steps


@triton.jit
def _split(
    Q, K, V, Parts, Lse, rows, seqlen_k, share, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0)
    r, dims = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_q = (r < rows)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + r[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    m = tl.full([BLOCK_M], -float("inf"), tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    begin = split * share
    end = tl.minimum(begin + share, seqlen_k)
    for start_n in range(begin, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = (keys < end)[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * scale
        scores = tl.where((keys < end)[None, :], scores, -float("inf"))
        m_new = tl.maximum(m, tl.max(scores, axis=1))
        p = tl.exp(scores - m_new[:, None])
        rescale = tl.exp(m - m_new)
        l = l * rescale + tl.sum(p, axis=1)
        acc = tl.dot(p, v, acc * rescale[:, None], input_precision="ieee")
        m = m_new
    out = acc / tl.where(l == 0.0, 1.0, l)[:, None]
    at = split * rows + r
    tl.store(Parts + at[:, None] * D + dims[None, :], out, mask=in_q)
    tl.store(Lse + at, m + tl.log(l), mask=r < rows)


@triton.jit
def _combine(Parts, Lse, Out, rows, splits, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr):
    row = tl.program_id(0)
    s, dims = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    lse = tl.load(Lse + s * rows + row, mask=s < splits, other=-float("inf"))
    weights = tl.exp(lse - tl.max(lse, axis=0))
    in_parts = (s < splits)[:, None] & (dims < D)[None, :]
    parts = tl.load(Parts + (s * rows + row)[:, None] * D + dims[None, :], mask=in_parts, other=0.0)
    out = tl.sum(parts * weights[:, None], axis=0) / tl.sum(weights, axis=0)
    tl.store(Out + row * D + dims, out, mask=dims < D)


@triton.jit
def _gather(Pool, Table, Out, seqlen_k, PAGE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr):
    keys = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    page = tl.load(Table + keys // PAGE, mask=keys < seqlen_k, other=0)
    at = page * PAGE + keys % PAGE
    inside = (keys < seqlen_k)[:, None] & (dims < D)[None, :]
    x = tl.load(Pool + at[:, None] * D + dims[None, :], mask=inside, other=0.0)
    tl.store(Out + keys[:, None] * D + dims[None, :], x, mask=inside)


_of_split, _of_combine, _of_gather = (functools.partial(mistake, kernel) for kernel in (_split, _combine, _gather))

AT_R, AT_KEYS = "r[:, None] * D + dims[None, :]", "keys[:, None] * D + dims[None, :]"
IN_Q, IN_K = "in_q = (r < rows)[:, None] & (dims < D)[None, :]", "in_k = (keys < end)[:, None] & (dims < D)[None, :]"
ANY_K = "(keys >= 0)[:, None] & (dims < D)[None, :]"
DIVIDED, LOGGED = "acc / tl.where(l == 0.0, 1.0, l)[:, None]", "m + tl.log(l)"
HIDDEN = 'tl.where((keys < end)[None, :], scores, -float("inf"))'
OLDER = "summed against an older maximum: in each tile multiply {} by exp(m − m_new), with the m of before."
NEXT_ROW = "BLOCK_D may be larger than D, and what lies past a row of {} is its next row: ask for dims < D in that load."
SPLIT_MISTAKES = (
    _of_split("no scale", "the scores are not scaled.", 1, " * scale\n", "\n"),
    _of_split("k not transposed", "a score is a row of q with a row of k: tl.dot(q, k.T, …).", 1, "k.T", "k"),
    _of_split("own scale", "the scale is given: use it as it is, not D ** -0.5.", 1, "* scale\n", "* D ** -0.5\n"),
    _of_split(
        "every split walks over all keys",
        "each program walks over all keys: its own are split · share … (split + 1) · share − 1.",
        1,
        "begin = split * share",
        "begin = 0",
        "tl.minimum(begin + share, seqlen_k)",
        "seqlen_k",
    ),
    _of_split(
        "splits begin at tiles",
        "a split begins at split · share, not split · BLOCK_N.",
        1,
        "begin = split * share",
        "begin = split * BLOCK_N",
    ),
    _of_split(
        "splits end at the last key",
        "a split walks to the last of all keys: it ends before the next one begins, at begin + share.",
        1,
        "tl.minimum(begin + share, seqlen_k)",
        "seqlen_k",
    ),
    _of_split(
        "the next split's keys",
        "the last tile of a split reaches into the next split, whose keys then count twice: ask for keys < end.",
        2,
        "(keys < end)",
        "(keys < seqlen_k)",
    ),
    _of_split(
        "keys past the last",
        "the last split ends at seqlen_k, also where share is more: tl.minimum(begin + share, seqlen_k).",
        2,
        "tl.minimum(begin + share, seqlen_k)",
        "begin + share",
    ),
    _of_split(
        "missing keys count",
        "keys past the split's end were loaded as 0, so their score is 0, and exp(0 − m) is not 0: hide them in the scores too.",
        2,
        HIDDEN,
        "scores",
    ),
    _of_split(
        "divided by 0",
        "a split without a key has l = 0, and 0 / 0 is NaN: divide by tl.where(l == 0.0, 1.0, l).",
        2,
        DIVIDED,
        "acc / l[:, None]",
    ),
    _of_split(
        "an empty split's lse is 0",
        "a split without a key has lse −inf, so that it weighs nothing: log(0) is that already.",
        2,
        LOGGED,
        "tl.where(l == 0.0, 0.0, m + tl.log(l))",
    ),
    _of_split("not divided", "divide acc by l at the end: each part is a softmax of its own keys.", 1, DIVIDED, "acc"),
    _of_split("acc not rescaled", f"acc was {OLDER.format('it')}", 1, "acc * rescale[:, None]", "acc"),
    _of_split("l not rescaled", f"l was {OLDER.format('it')}", 1, "l * rescale", "l"),
    _of_split(
        "the tile's own maximum",
        "m_new is the largest of all tiles so far: tl.maximum(m, …), not the tile's own maximum.",
        1,
        "tl.maximum(m, tl.max(scores, axis=1))",
        "tl.max(scores, axis=1)",
    ),
    _of_split(
        "one maximum for all rows",
        "tl.max without axis=1 gives one number for the whole tile: each row needs its own.",
        1,
        "tl.max(scores, axis=1)",
        "tl.max(scores)",
    ),
    _of_split(
        "m begins at 0",
        "m begins at 0, and a row whose scores all lie far below that sums to nothing: begin at −inf.",
        1,
        'm = tl.full([BLOCK_M], -float("inf"), tl.float32)',
        "m = tl.zeros([BLOCK_M], tl.float32)",
    ),
    _of_split("each tile replaces acc", "each tile replaces what acc held: add to it.", 1, "p, v, acc * rescale[:, None]", "p, v"),
    _of_split("lse is the maximum", "lse is m + log(l): the logarithm is missing.", 1, LOGGED, "m"),
    _of_split("lse without m", "lse is m + log(l): l was summed against m.", 1, LOGGED, "tl.log(l)"),
    _of_split("lse in log2", "lse is m + log(l), with the natural logarithm.", 1, "tl.log(l)", "tl.log2(l)"),
    _of_split("exp2 as it is", "exp2(x) is 2 to the x: for exp(x) it needs x · log2(e).", 1, "tl.exp(", "tl.exp2("),
    _of_split(
        "all splits store in one place",
        "every split stores where the first one does: its rows begin at split · rows.",
        1,
        "at = split * rows + r",
        "at = r",
    ),
    _of_split(
        "parts BLOCK_M apart",
        "a part has `rows` rows, not BLOCK_M: the next begins at split · rows.",
        1,
        "at = split * rows + r",
        "at = split * BLOCK_M + r",
    ),
    _of_split(
        "rows and splits swapped",
        "Parts is (splits, rows, D): row r of a split lies at split · rows + r.",
        1,
        "at = split * rows + r",
        "at = r * tl.num_programs(0) + split",
    ),
    _of_split(
        "no mask on the store", "rows of the tile that do not exist are stored too.", 2, "out, mask=in_q", "out, mask=(dims < D)[None, :]"
    ),
    _of_split("no mask on Lse", "rows of the tile that do not exist are stored in Lse too.", 2, "tl.log(l), mask=r < rows", "tl.log(l)"),
    _of_split(
        "no mask on the head dim",
        NEXT_ROW.format("Q, K and V"),
        2,
        IN_Q,
        "in_q = (r < rows)[:, None] & (dims >= 0)[None, :]",
        IN_K,
        "in_k = (keys < end)[:, None] & (dims >= 0)[None, :]",
    ),
    _of_split("rows begin at BLOCK_D", "a row of Q, K, V and Parts has D numbers, not BLOCK_D.", 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_split(
        "Lse not stored",
        "Lse is not stored: a tl.store for it is missing.",
        1,
        "    tl.store(Lse + at, m + tl.log(l), mask=r < rows)\n",
        "",
    ),
    _of_split(
        "own share",
        "share is given: use it as it is. The last splits may have no key at all.",
        1,
        "begin = split * share",
        "share = tl.cdiv(seqlen_k, tl.num_programs(0))\n    begin = split * share",
    ),
    *(
        _of_split(
            "m begins at a finite number",
            "m begins at a finite number, and a row whose scores all lie far below sums to nothing: begin at −inf.",
            1,
            'm = tl.full([BLOCK_M], -float("inf"), tl.float32)',
            f"m = tl.full([BLOCK_M], {finite}, tl.float32)",
        )
        for finite in (-50.0, -1000.0)
    ),
    _of_split(
        "missing keys are -1000",
        "the scores of keys past the end become −1000, and where all others lie further below, they win: use −inf.",
        2,
        'scores, -float("inf"))',
        "scores, -1000.0)",
    ),
    _of_split(
        "the walk ends past the end",
        "the walk visits tiles without a key of yours, in which m is still −inf and −inf − (−inf) is NaN: end it at "
        "`end`, not at begin + share.",
        2,
        "range(begin, end, BLOCK_N)",
        "range(begin, begin + share, BLOCK_N)",
    ),
    _of_split(
        "walks from the first key", "each program walks from key 0: begin at split · share.", 1, "range(begin, end,", "range(0, end,"
    ),
    _of_split(
        "one key less",
        "`end` is the first key that is not yours: begin + share, not begin + share − 1.",
        1,
        "tl.minimum(begin + share, seqlen_k)",
        "tl.minimum(begin + share - 1, seqlen_k)",
    ),
    _of_split(
        "the last tile is left out",
        "a last tile that is not full is left out: walk to end, range(begin, end, BLOCK_N), and mask.",
        1,
        "range(begin, end, BLOCK_N)",
        "range(begin, end - BLOCK_N + 1, BLOCK_N)",
    ),
    _of_split(
        "no loop",
        "only one tile of keys is visited: walk from begin to end in steps of BLOCK_N.",
        1,
        "range(begin, end, BLOCK_N)",
        "range(begin, tl.minimum(end, begin + 1), BLOCK_N)",
    ),
    _of_split(
        "the next split's scores",
        "the scores of the next split's keys take part, as 0: hide them with keys < end, as in the loads.",
        2,
        "tl.where((keys < end)",
        "tl.where((keys < seqlen_k)",
    ),
    _of_split(
        "maximum of each key",
        "tl.max goes along the wrong axis: each row needs its own maximum, axis=1.",
        1,
        "tl.max(scores, axis=1)",
        "tl.max(scores, axis=0)",
    ),
    _of_split(
        "sum of each key",
        "tl.sum goes along the wrong axis: each row needs its own sum, axis=1.",
        1,
        "tl.sum(p, axis=1)",
        "tl.sum(p, axis=0)",
    ),
    _of_split(
        "m before the rescale",
        "m is brought up to date before rescale is computed, so that rescale is always 1.",
        1,
        "        rescale = tl.exp(m - m_new)",
        "        m = m_new\n        rescale = tl.exp(m - m_new)",
    ),
    _of_split("lse with l", "lse is m + log(l): the logarithm of l, not l.", 1, LOGGED, "m + l"),
    _of_split(
        "Lse BLOCK_M apart",
        "in Lse a split has `rows` numbers, not BLOCK_M: the next begins at split · rows.",
        1,
        "tl.store(Lse + at",
        "tl.store(Lse + split * BLOCK_M + r",
    ),
    _of_split(
        "K and V swapped",
        "scores are made of K, and V is what they weigh: K and V are swapped.",
        1,
        "tl.load(K +",
        "tl.load(W +",
        "tl.load(V +",
        "tl.load(K +",
        "tl.load(W +",
        "tl.load(V +",
    ),
    *wrong_axis(_split, 1, "m_new", "rescale"),
    *wrong_steps(_split, 2, Q="r", K="keys", V="keys", Parts="at"),
    *one_too_many(_split, 2, r="rows", keys="end", dims="D"),
    *unmasked_loads(_split, 2, K=(AT_KEYS, "mask=in_k", "in_k", ANY_K), V=(AT_KEYS, "mask=in_k", "in_k", ANY_K)),
)

WEIGHTS, NORM = "weights = tl.exp(lse - tl.max(lse, axis=0))", "/ tl.sum(weights, axis=0)"
PART_AT, LSE_AT = "Parts + (s * rows + row)[:, None] * D", "Lse + s * rows + row"
COMBINE_MISTAKES = (
    _of_combine(
        "the largest is never below 0",
        "a 0 takes part in the largest lse (a split that does not exist was loaded as 0, or the maximum begins at 0), and where every lse "
        "lies far below, all weights vanish: use −inf.",
        2,
        'mask=s < splits, other=-float("inf")',
        "mask=s < splits, other=0.0",
        WEIGHTS,
        "weights = tl.where(s < splits, tl.exp(lse - tl.max(lse, axis=0)), 0.0)",
    ),
    _of_combine(
        "the mean lse",
        "subtract the largest lse, not the mean: a split without a key has lse −inf, and so has the mean.",
        2,
        WEIGHTS,
        "weights = tl.exp(lse - tl.sum(tl.where(s < splits, lse, 0.0), axis=0) / splits)",
    ),
    _of_combine(
        "the plain mean",
        "all parts weigh the same: part s weighs exp(lse of the part), since it stands for that much of the denominator.",
        1,
        WEIGHTS,
        "weights = tl.where(s < splits, 1.0, 0.0)",
    ),
    _of_combine("not divided", "divide by the sum of the weights.", 1, NORM, ""),
    _of_combine("divided by the number of splits", "divide by the sum of the weights, not by their number.", 1, NORM, "/ splits"),
    _of_combine(
        "weighed by lse itself", "a part weighs exp(lse), not lse.", 1, WEIGHTS, 'weights = tl.where(lse == -float("inf"), 0.0, lse)'
    ),
    _of_combine(
        "no maximum",
        "exp of a large lse overflows, and of a small one vanishes: subtract the largest first.",
        2,
        WEIGHTS,
        "weights = tl.exp(lse)",
    ),
    _of_combine("exp2 as it is", "exp2(x) is 2 to the x: lse is a natural logarithm, so exp.", 1, "tl.exp(", "tl.exp2("),
    _of_combine(
        "weights upside down",
        "the weight is exp(lse − largest), not exp(largest − lse).",
        1,
        WEIGHTS,
        "weights = tl.exp(tl.max(lse, axis=0) - lse)",
    ),
    _of_combine(
        "splits past the last count",
        "BLOCK_S may be more than splits, and a weight that was loaded as 0 is exp(0 − largest): other=−inf.",
        2,
        'mask=s < splits, other=-float("inf")',
        "mask=s < splits, other=0.0",
    ),
    _of_combine(
        "no mask on Lse",
        "BLOCK_S may be more than splits: mask the load of Lse with s < splits.",
        2,
        f'{LSE_AT}, mask=s < splits, other=-float("inf")',
        LSE_AT,
    ),
    _of_combine(
        "no mask on Parts",
        "BLOCK_S may be more than splits: mask the load of Parts with s < splits, since 0 · NaN is NaN.",
        2,
        "in_parts = (s < splits)[:, None] & (dims < D)[None, :]",
        "in_parts = (s >= 0)[:, None] & (dims < D)[None, :]",
    ),
    _of_combine(
        "no mask on the head dim",
        "BLOCK_D may be more than D: mask the loads of Parts with dims < D.",
        2,
        "in_parts = (s < splits)[:, None] & (dims < D)[None, :]",
        "in_parts = (s < splits)[:, None] & (dims >= 0)[None, :]",
    ),
    _of_combine("no mask on the store", "BLOCK_D may be more than D: the store asks for dims < D.", 2, "out, mask=dims < D", "out"),
    _of_combine(
        "parts of the wrong row",
        "part s of a row lies at s · rows + row: the splits are `rows` apart.",
        1,
        PART_AT,
        "Parts + (row * splits + s)[:, None] * D",
    ),
    _of_combine(
        "lse of the wrong row", "lse of part s lies at s · rows + row: the splits are `rows` apart.", 1, LSE_AT, "Lse + row * splits + s"
    ),
    _of_combine(
        "row and split swapped",
        "part s of a row lies at s · rows + row, in Parts and in Lse: the splits are `rows` apart.",
        1,
        PART_AT,
        "Parts + (row * splits + s)[:, None] * D",
        LSE_AT,
        "Lse + row * splits + s",
    ),
    _of_combine(
        "every program the first row",
        "every program joins the first row: it owns row tl.program_id(0).",
        1,
        "row = tl.program_id(0)",
        "row = 0",
    ),
    _of_combine(
        "rows begin at BLOCK_D",
        "a row of Parts and of Out has D numbers, not BLOCK_D.",
        2,
        "[:, None] * D",
        "[:, None] * BLOCK_D",
        "row * D",
        "row * BLOCK_D",
    ),
    _of_combine("rows of Out begin at BLOCK_D", "a row of Out has D numbers, not BLOCK_D.", 2, "row * D", "row * BLOCK_D"),
    _of_combine(
        "a finite other",
        "a weight that was loaded as a finite number is not 0 where all others lie far below: other=−inf.",
        2,
        'other=-float("inf")',
        "other=-250.0",
    ),
    _of_combine(
        "all of BLOCK_S",
        "BLOCK_S may be more than splits: only s < splits exist.",
        2,
        "mask=s < splits",
        "mask=s < BLOCK_S",
        "in_parts = (s < splits)",
        "in_parts = (s < BLOCK_S)",
    ),
    _of_combine(
        "an empty split weighs",
        "a split that has seen no key has lse −inf, and so weighs 0: leave it as it is.",
        2,
        "    weights = ",
        '    lse = tl.where(lse == -float("inf"), 0.0, lse)\n    weights = ',
    ),
    _of_combine(
        "the smallest lse",
        "subtract the largest lse, not the smallest.",
        2,
        "tl.exp(lse - tl.max(lse, axis=0))",
        "tl.exp(lse - tl.min(lse, axis=0))",
    ),
    _of_combine("one past the last split", "the last split is splits − 1: s < splits, not <=.", 2, "s < splits", "s <= splits"),
)

IN_KEYS = "inside = (keys < seqlen_k)[:, None] & (dims < D)[None, :]"
GATHER_MISTAKES = (
    _of_gather(
        "no table",
        "the keys are read in the order of the pool: the table says which page comes next.",
        1,
        "page = tl.load(Table + keys // PAGE, mask=keys < seqlen_k, other=0)",
        "page = keys // PAGE",
    ),
    _of_gather(
        "pages one row apart",
        "page p begins at row p · PAGE of the pool, not at row p.",
        1,
        "page * PAGE + keys % PAGE",
        "page + keys % PAGE",
    ),
    _of_gather("the first row of each page", "within its page a key lies at keys % PAGE.", 1, "page * PAGE + keys % PAGE", "page * PAGE"),
    _of_gather(
        "key and page added",
        "within its page a key lies at keys % PAGE, not at keys.",
        1,
        "page * PAGE + keys % PAGE",
        "page * PAGE + keys",
    ),
    _of_gather(
        "table asked for keys",
        "the table has an entry for each page: key j lies in the page of entry j // PAGE.",
        1,
        "Table + keys // PAGE",
        "Table + keys",
    ),
    _of_gather(
        "table asked for places",
        "the table has an entry for each page: key j lies in the page of entry j // PAGE, not j % PAGE.",
        1,
        "Table + keys // PAGE",
        "Table + keys % PAGE",
    ),
    _of_gather(
        "pages of BLOCK_N",
        "a page has PAGE keys, not BLOCK_N.",
        1,
        "PAGE",
        "BLOCK_N",
        "BLOCK_N: tl.constexpr, D:",
        "PAGE: tl.constexpr, D:",
    ),
    _of_gather(
        "one page for each program",
        "a program's keys may lie in several pages, or its first key in the middle of one: ask the table for each key.",
        1,
        "page = tl.load(Table + keys // PAGE, mask=keys < seqlen_k, other=0)",
        "page = tl.load(Table + tl.program_id(0) * BLOCK_N // PAGE)",
    ),
    _of_gather(
        "unused entries are read",
        "entries of the table past the sequence's last page hold anything: mask its load with keys < seqlen_k.",
        2,
        "page = tl.load(Table + keys // PAGE, mask=keys < seqlen_k, other=0)",
        "page = tl.load(Table + keys // PAGE)",
    ),
    _of_gather("no mask on the store", "the last tile stores keys that do not exist.", 2, "x, mask=inside", "x, mask=(dims < D)[None, :]"),
    _of_gather(
        "no mask on the pool",
        "the last tile loads keys that do not exist: mask the load of Pool with keys < seqlen_k.",
        2,
        "dims[None, :], mask=inside, other",
        "dims[None, :], mask=(keys >= 0)[:, None] & (dims < D)[None, :], other",
    ),
    _of_gather(
        "no mask on the head dim", NEXT_ROW.format("Pool"), 2, IN_KEYS, "inside = (keys < seqlen_k)[:, None] & (dims >= 0)[None, :]"
    ),
    _of_gather("rows begin at BLOCK_D", "a row of Pool and of Out has D numbers, not BLOCK_D.", 2, "[:, None] * D", "[:, None] * BLOCK_D"),
    _of_gather(
        "stored in the pool's order", "Out holds the keys in their order: key j in row j.", 1, "Out + keys[:, None]", "Out + at[:, None]"
    ),
    _of_gather(
        "table asked for programs",
        "the table has an entry for each page: key j lies in the page of entry j // PAGE.",
        1,
        "Table + keys // PAGE",
        "Table + tl.program_id(0)",
    ),
    _of_gather(
        "table in tiles",
        "the table has an entry for each page: key j lies in the page of entry j // PAGE, not j // BLOCK_N.",
        1,
        "Table + keys // PAGE",
        "Table + keys // BLOCK_N",
    ),
    _of_gather(
        "place in the tile",
        "within its page a key lies at keys % PAGE: its place in the tile is another one.",
        1,
        "page * PAGE + keys % PAGE",
        "page * PAGE + tl.arange(0, BLOCK_N)",
    ),
    _of_gather(
        "// and % swapped",
        "keys // PAGE is the entry of the table, and keys % PAGE the place on the page.",
        1,
        "Table + keys // PAGE",
        "Table + keys % PAGE",
        "page * PAGE + keys % PAGE",
        "page * PAGE + keys // PAGE",
    ),
    *wrong_program(_gather, 1, "BLOCK_N"),
    *one_too_many(_gather, 2, keys="seqlen_k", dims="D"),
)
