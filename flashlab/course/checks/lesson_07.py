"""Exercise 07, the forward pass in Triton: a tile of scores, the forward kernel, and its causal walk, launched between guards."""

import numpy as np
import triton

from flashlab.course.checks.guarded import Launched, compare_launched, launch, meaning
from flashlab.course.checks.lesson_07_mistakes import CAUSAL_MISTAKES, FORWARD_MISTAKES, SCORE_MISTAKES
from flashlab.course.checks.task import Case, Task
from flashlab.course.steps import naive

EPSILON = 2.0**-23  # of float32
SCALE = 0.7  # times 1 / sqrt(D): a kernel takes the scale that it is given

# -------------------------------------------------------------------------------------------------------------------- cases


def _floats(rng, *shape, factor=1.0):
    return (factor * rng.normal(size=shape)).astype(np.float32)


def score_cases(rng):
    sizes = ((16, 32, 64, 16, 32), (32, 48, 16, 16, 16), (20, 16, 16, 16, 16), (16, 20, 16, 16, 16), (16, 16, 12, 16, 16))
    sizes += ((37, 21, 40, 16, 16), (64, 96, 16, 32, 16), (64, 96, 16, 16, 32))
    cases = [Case(_told(q, k, d, m, n), (_floats(rng, q, d), _floats(rng, k, d), m, n)) for q, k, d, m, n in sizes]
    below = -80 - np.abs(_floats(rng, 20, 16)), np.full((20, 16), 90.0, np.float32)
    return [*cases, Case("20 queries, 20 keys, scores near -20000", (*below, 16, 16))]


def _told(rows, keys, D, BLOCK_M, BLOCK_N):
    return f"{rows} queries, {keys} keys, head dim {D}, tiles of {BLOCK_M} × {BLOCK_N}"


def _problem(rng, rows, keys, D, factor=1.0):
    return _floats(rng, rows, D, factor=factor), _floats(rng, keys, D, factor=factor), _floats(rng, keys, D)


def _far_below(rng, rows, keys):
    """Scores near −20,000, and those of a row all alike, so that not even rounding tells them apart."""
    Q, K, V = _problem(rng, rows, keys, 16)
    return -80 - np.abs(Q), np.full_like(K, 90.0), V


def forward_cases(rng):
    sizes = ((16, 32, 64, 16, 32), (16, 48, 16, 16, 16), (32, 32, 16, 16, 16), (16, 20, 16, 16, 16), (20, 16, 16, 16, 16))
    sizes += ((16, 32, 12, 16, 16), (37, 53, 40, 16, 16), (40, 70, 16, 32, 16), (40, 70, 16, 16, 32))
    cases = [Case(_told(*size), (*_problem(rng, *size[:3]), *size[3:])) for size in sizes]
    Q, K, V = _problem(rng, 16, 64, 16)
    rising = np.abs(K) * np.arange(1, 65, dtype=np.float32)[:, None] / 8
    large, falling = 10 + np.abs(K), np.linspace(30, -30, 64, dtype=np.float32)[:, None] * np.abs(K)
    apart = np.where(np.arange(16)[:, None] % 2, 1, -1).astype(np.float32) * (3 + np.abs(Q))
    return [
        *cases,
        Case("scores that grow from tile to tile", (np.abs(Q), rising, V, 16, 16)),
        Case("scores that fall from tile to tile", (np.abs(Q), falling, V, 16, 16)),
        Case("scores that lie far below 0", (-3 - np.abs(Q), large, V, 16, 16)),
        Case("scores that lie far below 0, a last tile of few keys", (-3 - np.abs(Q), large[:52], V[:52], 16, 16)),
        Case("scores near -20000, a last tile of few keys", (*_far_below(rng, 16, 52), 16, 16)),
        Case("scores that lie far above 0", (3 + np.abs(Q), large, V, 16, 16)),
        Case("rows of scores far above 0 and far below 0, in turn", (apart, large, V, 16, 16)),
    ]


def causal_cases(rng):
    sizes = ((16, 64, 16, 32), (32, 16, 16, 16), (64, 16, 16, 16), (40, 16, 16, 16), (96, 16, 32, 16), (96, 12, 16, 32))
    cases = [Case(f"{s} tokens, head dim {d}, tiles of {m} × {n}", (*_problem(rng, s, s, d), m, n)) for s, d, m, n in sizes]
    Q, K, V = _problem(rng, 40, 40, 16)
    return [
        *cases,
        Case("scores that lie far below 0", (-3 - np.abs(Q), 10 + np.abs(K), V, 16, 16)),
        Case("scores near -20000", (*_far_below(rng, 40, 40), 16, 16)),
        Case("scores that lie far above 0", (3 + np.abs(Q), 10 + np.abs(K), V, 16, 16)),
    ]


# -------------------------------------------------------------------------------------------------------------------- calls


def _dims(D):
    return dict(D=D, BLOCK_D=max(16, triton.next_power_of_2(D)))


def call_scores(kernel, Q, K, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    grid = (triton.cdiv(rows, BLOCK_M), triton.cdiv(keys, BLOCK_N))
    shapes = [(rows, keys), (rows, grid[1])]
    return launch(kernel, grid, (Q, K), shapes, rows, keys, SCALE * D**-0.5, **_dims(D), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)


def call_forward(kernel, Q, K, V, BLOCK_M, BLOCK_N):
    (rows, D), keys = Q.shape, len(K)
    grid, shapes = (triton.cdiv(rows, BLOCK_M),), [(rows, D), (rows,)]
    return launch(kernel, grid, (Q, K, V), shapes, rows, keys, SCALE * D**-0.5, **_dims(D), BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N)


# --------------------------------------------------------------------------------------------------------------- comparison


def compare_scores(answer: Launched, case):
    Q, K, BLOCK_M, BLOCK_N = case.arguments
    want = SCALE * Q.astype(np.float64) @ K.T * Q.shape[1] ** -0.5
    largest = np.stack([tile.max(axis=1) for tile in np.split(want, range(BLOCK_N, len(K), BLOCK_N), axis=1)], axis=1)
    loaded = Q.size * triton.cdiv(len(K), BLOCK_N), K.size * triton.cdiv(len(Q), BLOCK_M)
    axes = {"Largest": ("row", "tile of keys")}
    return compare_launched(answer, ("Scores", "Largest"), (want, largest), 4 * EPSILON * Q.shape[1], loaded, axes)


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
    largest = np.abs(wanted[1]).max()  # what rounds a score rounds its exponential as much more as the score is larger
    tolerance = EPSILON * max(16 * Q.shape[1], 32 * largest)
    return compare_launched(answer, ("Out", "Lse"), wanted, tolerance, (Q.size, keys * Q.shape[1], keys * Q.shape[1]))


# -------------------------------------------------------------------------------------------------------------------- tasks

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
