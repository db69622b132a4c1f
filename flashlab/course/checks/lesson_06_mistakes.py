"""The right kernels of exercise 06, and the mistakes people make in them, each as the words that it puts in place of others."""

import functools

import triton
import triton.language as tl

from flashlab.course.checks.edited import mistake
from flashlab.course.checks.kernel_mistakes import one_too_many


@triton.jit
def _axpy(X, Y, Out, a, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    x = tl.load(X + offsets, mask=inside)
    y = tl.load(Y + offsets, mask=inside)
    tl.store(Out + offsets, a * x + y, mask=inside)


@triton.jit
def _softmax(X, Out, Lse, columns, scale, BLOCK: tl.constexpr):
    row, offsets = tl.program_id(0), tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(X + row * columns + offsets, mask=inside, other=-float("inf"))
    s = scale * x
    m = tl.max(s, axis=0)
    p = tl.exp(s - m)
    l = tl.sum(p, axis=0)
    tl.store(Out + row * columns + offsets, p / l, mask=inside)
    tl.store(Lse + row, m + tl.log(l))


@triton.jit
def _matmul(A, B, Out, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        inner = start + tl.arange(0, BLOCK_K)
        a = tl.load(A + rows[:, None] * K + inner[None, :], mask=(rows < M)[:, None] & (inner < K)[None, :], other=0.0)
        b = tl.load(B + cols[:, None] * K + inner[None, :], mask=(cols < N)[:, None] & (inner < K)[None, :], other=0.0)
        acc = acc + tl.dot(a, b.T, input_precision="ieee")
    inside = (rows < M)[:, None] & (cols < N)[None, :]
    tl.store(Out + rows[:, None] * N + cols[None, :], acc, mask=inside)


AND = " (With `and` in place of `&`, only one of two masks counts.)"
ROWS_OF_A, ROWS_OF_B = ("mask=(rows < M)", "mask=(rows >= 0)"), ("mask=(cols < N)", "mask=(cols >= 0)")
K_OF_A = "(rows < M)[:, None] & (inner < K)", "(rows < M)[:, None] & (inner >= 0)"
K_OF_B = "(cols < N)[:, None] & (inner < K)", "(cols < N)[:, None] & (inner >= 0)"
BEGINS = "row * columns + offsets"
LOAD = 'x = tl.load(X + row * columns + offsets, mask=inside, other=-float("inf"))'

_of_axpy, _of_softmax, _of_matmul = (functools.partial(mistake, kernel) for kernel in (_axpy, _softmax, _matmul))
AXPY_MISTAKES = (
    _of_axpy("no mask on the load", "the last block loads past the end of X and Y.", 2, "offsets, mask=inside)\n    ", "offsets)\n    "),
    _of_axpy("no mask on the store", "the last block stores past the end of Out.", 2, "y, mask=inside", "y"),
    _of_axpy("no masks", "nothing is masked: the last block reaches past the end.", 2, ", mask=inside", ""),
    _of_axpy("one too many", "position n is no longer inside: offsets < n, not <=.", 2, "offsets < n", "offsets <= n"),
    _of_axpy(
        "every program the first block",
        "every program works on the first block: it begins at program_id · BLOCK.",
        1,
        "tl.program_id(0) * BLOCK + ",
        "",
    ),
    _of_axpy(
        "programs one number apart",
        "a program begins at program_id · BLOCK: yours begins one number after the one before it.",
        1,
        "program_id(0) * BLOCK",
        "program_id(0)",
    ),
    _of_axpy(
        "every program all blocks",
        "every program does the work of all: it has one block, at program_id · BLOCK, and needs no loop.",
        1,
        *("offsets = tl.program_id(0) * BLOCK", "for start in range(0, n, BLOCK):\n        offsets = start"),
        *(word for line in ("inside =", "x =", "y =", "tl.store") for word in (f"    {line}", f"        {line}")),
    ),
    _of_axpy(
        "clamped",
        "positions past the end are moved to the last number, which is loaded and stored again: leave them out with a mask.",
        2,
        *("tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "tl.minimum(tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), n - 1)"),
        *(", mask=inside", ""),
    ),
    _of_axpy("a meets Y", "a belongs to X: a · X + Y.", 1, "a * x + y", "x + a * y"),
    _of_axpy("a meets both", "a belongs to X alone: a · X + Y.", 1, "a * x + y", "a * (x + y)"),
    _of_axpy("a is missing", "a is missing: a · X + Y.", 1, "a * x + y", "x + y"),
    _of_axpy(
        "no mask on X", "X is loaded without a mask: the last block reaches past its end.", 2, "(X + offsets, mask=inside)", "(X + offsets)"
    ),
    _of_axpy(
        "no mask on Y", "Y is loaded without a mask: the last block reaches past its end.", 2, "(Y + offsets, mask=inside)", "(Y + offsets)"
    ),
)
SOFTMAX_MISTAKES = (
    _of_softmax(
        "missing scores count as 0",
        "what the mask leaves out has the score 0, and exp(0 − m) is not 0: other=-inf.",
        2,
        '-float("inf")',
        "0.0",
    ),
    _of_softmax("no maximum", "exp of a large score overflows: subtract the row's maximum.", 1, "m = tl.max(s, axis=0)", "m = 0.0"),
    _of_softmax(
        "no mask on the load", "the row is read past its end: into the next row, or out of X.", 2, ', mask=inside, other=-float("inf")', ""
    ),
    _of_softmax(
        "no mask on the store", "the row is written past its end: into the next row, or out of Out.", 2, "p / l, mask=inside", "p / l"
    ),
    _of_softmax(
        "rows begin at BLOCK",
        "a row begins at row · columns: BLOCK is the length of the tile, not of the row.",
        1,
        f"X + {BEGINS}",
        "X + row * BLOCK + offsets",
    ),
    _of_softmax(
        "rows begin at BLOCK, in Out too",
        "a row begins at row · columns, in X and in Out: BLOCK is the length of the tile, not of the row.",
        1,
        "row * columns",
        "row * BLOCK",
    ),
    _of_softmax(
        "no other", "what the mask leaves out has no value unless the load gives it one: other=-inf.", 2, ', other=-float("inf")', ""
    ),
    _of_softmax(
        "the mask counts from X",
        "the mask asks where in X a number lies, so only the first row is inside: ask where in its row, offsets < columns.",
        2,
        "inside = offsets < columns",
        "inside = row * columns + offsets < columns",
    ),
    _of_softmax("not divided", "divide by the sum of the row.", 1, "p / l", "p"),
    _of_softmax("no scale", "scale is missing: the scores are scale · x.", 1, "scale * x", "x"),
    _of_softmax(
        "scale after exp", "scale belongs into the exponent: exp(scale · x − m).", 1, "s = scale * x", "s = x", "p / l", "scale * p / l"
    ),
    _of_softmax("lse without m", "exp(s − m) was summed: the log of its sum lacks m. lse = m + log(l).", 1, "m + tl.log(l)", "tl.log(l)"),
    _of_softmax("the sum itself", "Lse gets a logarithm: m + log(l).", 1, "m + tl.log(l)", "m + l"),
    _of_softmax("a logarithm to base 2", "lse is a natural logarithm: tl.log, not tl.log2.", 1, "tl.log(", "tl.log2("),
    _of_softmax(
        "m without scale", "the m of lse is the maximum of scale · x, not of x.", 1, "Lse + row, m", "Lse + row, tl.max(x, axis=0)"
    ),
    _of_softmax("m of x in both", "m is the maximum of scale · x, not of x.", 1, "tl.max(s, axis=0)", "tl.max(x, axis=0)"),
    _of_softmax("every lse in one place", "each row has its own place in Lse: Lse + row.", 1, "Lse + row", "Lse"),
    _of_softmax("read twice", "the row is loaded twice: keep what you have loaded.", 2, LOAD, f"{LOAD}\n    {LOAD}"),
    _of_softmax("the smallest", "with −inf past the row, tl.min is −inf: subtract the row's maximum, tl.max.", 1, "tl.max(", "tl.min("),
    _of_softmax("one too many", "the last column is columns - 1: offsets < columns, not <=.", 2, "offsets < columns", "offsets <= columns"),
    _of_softmax("every program row 0", "every program works on row 0: a program's row is tl.program_id(0).", 1, "tl.program_id(0)", "0"),
    _of_softmax(
        "-1000 is not −inf",
        'past the row stands −1000, and around that lie scores of some rows: other=-float("inf").',
        2,
        *('-float("inf")', "-1000.0"),
    ),
)
MATMUL_MISTAKES = (
    _of_matmul(
        "no mask along K", "the last step along K reads past the end: into the next row, or out of the matrix.", 2, *K_OF_A, *K_OF_B
    ),
    _of_matmul(
        "no mask along K of A",
        "B is masked along K and A is not: what lies past a row of A is its next row, or NaN, and 0 · NaN is NaN.",
        2,
        *K_OF_A,
    ),
    _of_matmul("no mask along K of B", "A is masked along K and B is not: 0 times what lies past B is no 0 where that is NaN.", 2, *K_OF_B),
    _of_matmul("no mask on A's rows", f"A is loaded without the mask of its rows.{AND}", 2, *ROWS_OF_A),
    _of_matmul("no mask on B's rows", f"B is loaded without the mask of its rows.{AND}", 2, *ROWS_OF_B),
    _of_matmul("A's rows begin at M", "a row of A has K numbers: A + rows · K + inner.", 1, "rows[:, None] * K", "rows[:, None] * M"),
    _of_matmul("Out's rows begin at M", "a row of Out has N numbers: Out + rows · N + cols.", 1, "rows[:, None] * N", "rows[:, None] * M"),
    _of_matmul("replaced, not added", "each step replaces acc: add.", 1, "acc + tl.dot", "tl.dot"),
    _of_matmul("B's rows begin at N", "a row of B has K numbers: B + cols · K + inner.", 1, "cols[:, None] * K", "cols[:, None] * N"),
    _of_matmul(
        "A · B",
        "this is A · B: B is (N, K) here, and row n of B meets row m of A in Out[m, n].",
        1,
        *("B + cols[:, None] * K + inner[None, :]", "B + inner[:, None] * N + cols[None, :]"),
        *("mask=(cols < N)[:, None] & (inner < K)[None, :]", "mask=(inner < K)[:, None] & (cols < N)[None, :]"),
        *("b.T", "b"),
    ),
    _of_matmul("no mask on the store", "tiles at the edge are written past it.", 2, ", acc, mask=inside", ", acc"),
    _of_matmul(
        "the last step is missing",
        "the loop ends before the last, shorter step along K.",
        1,
        "range(0, K,",
        "range(0, K // BLOCK_K * BLOCK_K,",
    ),
    _of_matmul(
        "the first step is missing", "the loop begins with the second step along K: begin at 0.", 1, "range(0, K,", "range(BLOCK_K, K,"
    ),
    _of_matmul(
        "rows and columns swapped",
        "program_id(0) is the tile of rows, and program_id(1) that of columns.",
        1,
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
        "tl.program_id(1)",
        "the_other",
        "tl.program_id(0)",
    ),
    _of_matmul("no mask at the edges", "tiles at the edge load rows of A and of B that do not exist.", 2, *ROWS_OF_A, *ROWS_OF_B),
    _of_matmul(
        "transposed",
        "Out is written transposed: Out + rows · N + cols.",
        1,
        "rows[:, None] * N + cols[None, :]",
        "rows[:, None] + cols[None, :] * M",
    ),
    _of_matmul(
        "acc is not kept",
        "tl.dot(a, b, acc, …) changes no tile, it returns the sum: acc = tl.dot(a, b, acc, …).",
        1,
        "acc = acc + tl.dot(a, b.T, ",
        "tl.dot(a, b.T, acc, ",
    ),
    _of_matmul(
        "acc is added twice",
        "tl.dot(a, b, acc, …) is the sum with acc already: assign it, and do not add it once more.",
        1,
        "tl.dot(a, b.T, ",
        "tl.dot(a, b.T, acc, ",
    ),
    _of_matmul(
        "b not transposed", "a tile of B's rows is (BLOCK_N, BLOCK_K), and tl.dot wants (BLOCK_K, BLOCK_N): tl.dot(a, b.T).", 1, "b.T", "b"
    ),
    _of_matmul(
        "one direction",
        "the grid has two directions: program_id(0) is the tile of rows, and program_id(1) that of columns.",
        1,
        "tl.program_id(1)",
        "tl.program_id(0)",
    ),
    _of_matmul("steps of one", "the walk along K goes in steps of BLOCK_K.", 1, "range(0, K, BLOCK_K)", "range(0, tl.cdiv(K, BLOCK_K))"),
    _of_matmul("the first step every time", "every step loads the first tile: inner begins at start.", 1, "start + tl.arange", "tl.arange"),
    _of_matmul(
        "no other",
        "what a mask leaves out has no value unless the load gives it one, and it takes part in the sum: other=0.0.",
        2,
        ", other=0.0",
        "",
    ),
    _of_matmul(
        "no mask on A",
        "A is loaded without a mask: past its end anything may lie, and 0 · NaN is NaN.",
        2,
        "mask=(rows < M)[:, None] & (inner < K)[None, :]",
        "mask=(rows >= 0)[:, None] & (inner >= 0)[None, :]",
    ),
    _of_matmul(
        "no mask on B",
        "B is loaded without a mask: past its end anything may lie, and 0 · NaN is NaN.",
        2,
        "mask=(cols < N)[:, None] & (inner < K)[None, :]",
        "mask=(cols >= 0)[:, None] & (inner >= 0)[None, :]",
    ),
    _of_matmul(
        "the store asks for rows alone",
        "the store asks for columns, too: past the last one lies the next row.",
        2,
        "inside = (rows < M)[:, None] & (cols < N)[None, :]",
        "inside = (rows < M)[:, None] & (cols >= 0)[None, :]",
    ),
    _of_matmul(
        "stored in every step",
        "the store stands in the loop: acc is whole behind it.",
        1,
        *("    inside =", "        inside ="),
        *("    tl.store", "        tl.store"),
    ),
    *one_too_many(_matmul, 2, rows="M", cols="N", inner="K"),
)
