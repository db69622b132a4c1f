"""Exercise 07, the forward pass in Triton: a tile of scores, the forward kernel, and its causal walk, launched between guards."""

import numpy as np
import triton
import triton.language as tl

from flashlab.course.checks.guarded import Launched, Variant, compare_launched, launch, meaning
from flashlab.course.checks.task import Case, Mistake, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32
SCALE = 0.7  # times 1 / sqrt(D): a kernel takes the scale that it is given

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape, factor=1.0):
    return (factor * rng.normal(size=shape)).astype(np.float32)


def score_cases(rng):
    sizes = ((16, 16, 16, 16), (32, 48, 16, 16), (20, 16, 16, 16), (16, 20, 16, 16), (16, 16, 12, 16), (37, 21, 40, 16))
    cases = [
        Case(f"{q} queries, {k} keys, head dim {d}, tiles of {b}", (_floats(rng, q, d), _floats(rng, k, d), b, b)) for q, k, d, b in sizes
    ]
    return [
        *cases,
        *(Case(f"64 queries, 96 keys, tiles of {m} × {n}", (_floats(rng, 64, 16), _floats(rng, 96, 16), m, n)) for m, n in TILES),
    ]


TILES = ((32, 16), (16, 32))  # sides that differ


def _problem(rng, rows, keys, D, factor=1.0):
    return _floats(rng, rows, D, factor=factor), _floats(rng, keys, D, factor=factor), _floats(rng, keys, D)


def forward_cases(rng):
    sizes = ((16, 16, 16, 16), (16, 48, 16, 16), (32, 32, 16, 16), (16, 20, 16, 16), (20, 16, 16, 16), (16, 32, 12, 16), (37, 53, 40, 16))
    cases = [Case(f"{q} queries, {k} keys, head dim {d}, tiles of {b}", (*_problem(rng, q, k, d), b, b)) for q, k, d, b in sizes]
    Q, K, V = _problem(rng, 16, 64, 16)
    rising = np.abs(K) * np.arange(1, 65, dtype=np.float32)[:, None] / 8
    large, falling = 10 + np.abs(K), np.linspace(30, -30, 64, dtype=np.float32)[:, None] * np.abs(K)
    cases += [Case(f"48 queries, 300 keys, tiles of {m} × {n}", (*_problem(rng, 48, 300, 16), m, n)) for m, n in TILES]
    return [
        *cases,
        Case("scores that grow from tile to tile", (np.abs(Q), rising, V, 16, 16)),
        Case("scores that fall from tile to tile", (np.abs(Q), falling, V, 16, 16)),
        Case("scores that lie far below 0, a last tile of few keys", (-3 - np.abs(Q), large[:52], V[:52], 16, 16)),
        Case("scores that lie far above 0", (3 + np.abs(Q), large, V, 16, 16)),
    ]


def causal_cases(rng):
    sizes = ((16, 16, 16, 16), (32, 16, 16, 16), (64, 16, 16, 16), (40, 16, 16, 16), (96, 16, 32, 16), (96, 12, 16, 32))
    cases = [Case(f"{s} tokens, head dim {d}, tiles of {m} × {n}", (*_problem(rng, s, s, d), m, n)) for s, d, m, n in sizes]
    Q, K, V = _problem(rng, 40, 40, 16)
    below = Case("scores that lie far below 0", (-3 - np.abs(Q), 10 + np.abs(K), V, 16, 16))
    return [*cases, below, Case("scores that lie far above 0", (3 + np.abs(Q), 10 + np.abs(K), V, 16, 16))]


# -------------------------------------------------------------------------------------------------------------------- calls


def _dims(D):
    return dict(D=D, BLOCK_D=max(16, triton.next_power_of_2(D)))


def call_scores(kernel, Q, K, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    grid = (triton.cdiv(rows, BLOCK_M), triton.cdiv(keys, BLOCK_N))
    return launch(kernel, grid, (Q, K), [(rows, keys)], rows, keys, SCALE * D**-0.5, **_dims(D), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)


def call_forward(kernel, Q, K, V, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    grid, shapes = (triton.cdiv(rows, BLOCK_M),), [(rows, D), (rows,)]
    return launch(kernel, grid, (Q, K, V), shapes, rows, keys, SCALE * D**-0.5, **_dims(D), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_scores(answer: Launched, case):
    Q, K, BLOCK_M, BLOCK_N = case.arguments
    want = SCALE * Q.astype(np.float64) @ K.T * Q.shape[1] ** -0.5
    loaded = Q.size * triton.cdiv(len(K), BLOCK_N) + K.size * triton.cdiv(len(Q), BLOCK_M)
    return compare_launched(answer, ("Scores",), (want,), 4 * EPSILON * Q.shape[1], loaded, want.size)


def compare_forward(answer: Launched, case):
    return _compare(answer, case, is_causal=False)


def compare_causal(answer: Launched, case):
    return _compare(answer, case, is_causal=True)


def _compare(answer, case, is_causal):
    Q, K, V, BLOCK_M, BLOCK_N = case.arguments
    wanted = naive.forward(*(x.astype(np.float64) for x in (Q, K, V)), is_causal=is_causal, scale=SCALE * Q.shape[1] ** -0.5)
    keys = 0
    for first in range(0, len(Q), BLOCK_M):
        end = min(first + BLOCK_M, len(K)) if is_causal else len(K)
        keys += min(-(-end // BLOCK_N) * BLOCK_N, len(K))
    largest = max(1.0, np.abs(wanted[1]).max())  # what rounds a score rounds its exponential as much more as the score is larger
    tolerance = 16 * EPSILON * Q.shape[1] * largest
    return compare_launched(answer, ("Out", "Lse"), wanted, tolerance, Q.size + 2 * keys * Q.shape[1], Q.size + len(Q))


# ------------------------------------------------------------------------------------------------- the mistakes people make


@triton.jit
def _scores(
    Q, K, Scores, seqlen_q, seqlen_k, scale, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr, MASK_DIMS: tl.constexpr, MASK_ROWS: tl.constexpr, MASK_STORE: tl.constexpr, WIDTH: tl.constexpr,
    STRIDE: tl.constexpr,
):  # fmt: skip
    rows, cols = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M), tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, BLOCK_D)
    in_dims = dims < D if MASK_DIMS else dims >= 0
    in_rows, in_cols = rows < seqlen_q if MASK_ROWS else rows >= 0, cols < seqlen_k if MASK_ROWS else cols >= 0
    stride = BLOCK_D if STRIDE == "block" else D
    q = tl.load(Q + rows[:, None] * stride + dims[None, :], mask=in_rows[:, None] & in_dims[None, :], other=0.0)
    k = tl.load(K + cols[:, None] * stride + dims[None, :], mask=in_cols[:, None] & in_dims[None, :], other=0.0)
    scores = tl.dot(q, k.T, input_precision="ieee") * (scale if SCALE else 1.0)
    inside = (rows < seqlen_q)[:, None] & (cols < seqlen_k)[None, :] if MASK_STORE else (rows >= 0)[:, None] & (cols >= 0)[None, :]
    tl.store(Scores + rows[:, None] * (seqlen_q if WIDTH == "rows" else seqlen_k) + cols[None, :], scores, mask=inside)


@triton.jit
def _forward(
    Q, K, V, Out, Lse, seqlen_q, seqlen_k, scale, D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    SCALE: tl.constexpr, RESCALE_ACC: tl.constexpr, RESCALE_L: tl.constexpr, SEE_END: tl.constexpr, MASK_LOAD: tl.constexpr,
    DIVIDE: tl.constexpr, LSE: tl.constexpr, FIRST_M: tl.constexpr, WHOLE: tl.constexpr, AGAIN: tl.constexpr, CAUSAL: tl.constexpr,
    END: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    start_m = tl.program_id(0) * BLOCK_M
    rows, dims = start_m + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    in_q = (rows < seqlen_q)[:, None] & (dims < D)[None, :]
    q = tl.load(Q + rows[:, None] * D + dims[None, :], mask=in_q, other=0.0)
    m = tl.full([BLOCK_M], FIRST_M, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    end = seqlen_k // BLOCK_N * BLOCK_N if WHOLE else seqlen_k
    if END == "diagonal":
        end = tl.minimum(end, start_m + BLOCK_M)
    if END == "before":
        end = tl.minimum(end, start_m + 1)
    for start_n in range(0, end, BLOCK_N):
        keys = start_n + tl.arange(0, BLOCK_N)
        in_k = ((keys < seqlen_k) if MASK_LOAD else (keys >= 0))[:, None] & (dims < D)[None, :]
        k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        if AGAIN:
            k = tl.load(K + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        v = tl.load(V + keys[:, None] * D + dims[None, :], mask=in_k, other=0.0)
        scores = tl.dot(q, k.T, input_precision="ieee") * (scale if SCALE else 1.0)
        if SEE_END:
            scores = tl.where((keys < seqlen_k)[None, :], scores, -float("inf"))
        if CAUSAL == "right":
            scores = tl.where(keys[None, :] <= rows[:, None], scores, -float("inf"))
        if CAUSAL == "strict":
            scores = tl.where((keys[None, :] < rows[:, None]) | (keys == 0)[None, :], scores, -float("inf"))
        if CAUSAL == "one more":
            scores = tl.where(keys[None, :] <= rows[:, None] + 1, scores, -float("inf"))
        if CAUSAL == "zero":
            scores = tl.where(keys[None, :] <= rows[:, None], scores, 0.0)
        m_new = tl.maximum(m, tl.max(scores, axis=1))
        p = tl.exp(scores - m_new[:, None])
        rescale = tl.exp(m - m_new)
        l = (l * rescale if RESCALE_L else l) + tl.sum(p, axis=1)
        acc = tl.dot(p, v, acc * rescale[:, None] if RESCALE_ACC else acc, input_precision="ieee")
        m = m_new
    if FOLD:
        acc = acc * scale
    out = acc / l[:, None] if DIVIDE else acc
    tl.store(Out + rows[:, None] * D + dims[None, :], out, mask=in_q)
    lse = m + tl.log(l)
    if LSE == "m":
        lse = m
    if LSE == "no m":
        lse = tl.log(l)
    tl.store(Lse + rows, lse, mask=rows < seqlen_q)


RIGHT = dict(
    SCALE=True, RESCALE_ACC=True, RESCALE_L=True, SEE_END=True, MASK_LOAD=True, DIVIDE=True, LSE="right", FIRST_M=-float("inf"),
    WHOLE=False, AGAIN=False, CAUSAL="no", END="all", FOLD=False,
)  # fmt: skip


def _scores_variant(**changes):
    right = dict(SCALE=True, MASK_DIMS=True, MASK_ROWS=True, MASK_STORE=True, WIDTH="keys", STRIDE="D")
    return Variant(_scores, **right | changes)


def _forward_variant(**changes):
    return Variant(_forward, **RIGHT | changes)


def _causal_variant(**changes):
    return Variant(_forward, **RIGHT | dict(CAUSAL="right", END="diagonal") | changes)


SCORE_MISTAKES = (
    Mistake("no scale", "the scores are not scaled.", 1, _scores_variant(SCALE=False)),
    Mistake(
        "no mask on the head dim",
        "BLOCK_D may be larger than D: what lies past a row is the next row.",
        2,
        _scores_variant(MASK_DIMS=False),
    ),
    Mistake("no mask on the rows", "the last tiles load rows that do not exist.", 2, _scores_variant(MASK_ROWS=False)),
    Mistake("no mask on the store", "tiles at the edge are written past it.", 2, _scores_variant(MASK_STORE=False)),
    Mistake("rows of Scores", "a row of Scores has seqlen_k numbers.", 1, _scores_variant(WIDTH="rows")),
    Mistake("rows begin at BLOCK_D", "a row of Q and K has D numbers, not BLOCK_D.", 1, _scores_variant(STRIDE="block")),
)
FORWARD_MISTAKES = (
    Mistake("no scale", "the scores are not scaled.", 1, _forward_variant(SCALE=False)),
    Mistake(
        "acc not rescaled", "acc was summed against the old maximum: multiply it by exp(m − m_new).", 1, _forward_variant(RESCALE_ACC=False)
    ),
    Mistake("l not rescaled", "l was summed against the old maximum: multiply it by exp(m − m_new).", 1, _forward_variant(RESCALE_L=False)),
    Mistake(
        "nothing is rescaled",
        "l and acc were summed against the old maximum: both need exp(m − m_new).",
        1,
        _forward_variant(RESCALE_ACC=False, RESCALE_L=False),
    ),
    Mistake(
        "missing keys count",
        "keys past the end were loaded as 0, so their score is 0, and exp(0 − m) is not 0: hide them in the scores too.",
        2,
        _forward_variant(SEE_END=False),
    ),
    Mistake("no mask on the load", "keys past the end are loaded: 0 · NaN is NaN.", 2, _forward_variant(MASK_LOAD=False)),
    Mistake("not divided", "divide acc by l at the end.", 1, _forward_variant(DIVIDE=False)),
    Mistake("lse is the maximum", "lse is m + log(l): the logarithm is missing.", 1, _forward_variant(LSE="m")),
    Mistake("lse without m", "lse is m + log(l): l was summed against m.", 1, _forward_variant(LSE="no m")),
    Mistake(
        "m begins at 0",
        "m begins at 0, and a row whose scores lie far below 0 sums to nothing: begin at −inf.",
        1,
        _forward_variant(FIRST_M=0.0),
    ),
    Mistake("the last keys are lost", "the last, shorter tile of keys is not visited.", 2, _forward_variant(WHOLE=True)),
    Mistake("loaded twice", "a tile of K is loaded twice.", 2, _forward_variant(AGAIN=True)),
)
CAUSAL_MISTAKES = (
    Mistake("no mask", "nothing is hidden.", 1, _causal_variant(CAUSAL="no")),
    Mistake(
        "nothing is skipped",
        "every tile of keys is loaded: those right of the diagonal hide everything, and need not be.",
        2,
        _causal_variant(END="all"),
    ),
    Mistake(
        "ends at the first row",
        "the walk ends where the first row ends: the last row of the tile sees further.",
        2,
        _causal_variant(END="before"),
    ),
    Mistake("blind to itself", "a token sees itself: keys <= rows.", 1, _causal_variant(CAUSAL="strict")),
    Mistake("one key too many", "each row sees one key of the future.", 1, _causal_variant(CAUSAL="one more")),
    Mistake("hidden scores are 0", "hidden scores were set to 0, and exp(0 − m) is not 0: use −inf.", 1, _causal_variant(CAUSAL="zero")),
)

TASKS = (
    Task("7.1", "a tile of scores", "scores_kernel", 25, score_cases, compare_scores, SCORE_MISTAKES, call=call_scores, meaning=meaning),
    Task(
        "7.2",
        "the forward kernel",
        "forward_kernel",
        45,
        forward_cases,
        compare_forward,
        FORWARD_MISTAKES,
        call=call_forward,
        meaning=meaning,
    ),
    Task("7.3", "the causal walk", "causal_kernel", 30, causal_cases, compare_causal, CAUSAL_MISTAKES, call=call_forward, meaning=meaning),
)
