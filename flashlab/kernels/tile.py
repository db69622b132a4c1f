"""Helpers that the kernels share. A tile is a block of rows that fits in SRAM.

Strides travel as the tensor's own (batch, head, row, column) tuple, shapes as (heads, seqlen_q, seqlen_k).
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def head_pointer(tensor, strides, batch, head):
    """Where one head of one batch element begins. In 64 bits: a tensor may have more than 2³¹ elements."""
    return tensor + batch.to(tl.int64) * strides[0] + head.to(tl.int64) * strides[1]


@triton.jit
def tile_pointers(head, strides, start, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK_D)
    first = head + tl.cast(start, tl.int64) * strides[2]
    return first + rows[:, None] * strides[2] + cols[None, :] * strides[3]  # [ROWS, BLOCK_D]


@triton.jit
def load_tile(head, strides, start, seqlen, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr):
    """Rows start, start + 1, … of a head. Columns past HEAD_DIM, and (when RAGGED) rows past seqlen, are 0."""
    pointers = tile_pointers(head, strides, start, ROWS, BLOCK_D)
    in_rows = (start + tl.arange(0, ROWS) < seqlen)[:, None]
    in_cols = (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
    if RAGGED and BLOCK_D != HEAD_DIM:
        return tl.load(pointers, mask=in_rows & in_cols, other=0.0)
    elif RAGGED:
        return tl.load(pointers, mask=in_rows, other=0.0)
    elif BLOCK_D != HEAD_DIM:
        return tl.load(pointers, mask=in_cols, other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def store_tile(head, strides, start, seqlen, tile, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store a tile's rows below seqlen and columns below HEAD_DIM, in the tensor's dtype."""
    pointers = tile_pointers(head, strides, start, ROWS, BLOCK_D)
    in_rows = (start + tl.arange(0, ROWS) < seqlen)[:, None]
    in_cols = (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
    tl.store(pointers, tile.to(head.dtype.element_ty), mask=in_rows & in_cols)


@triton.jit
def visible(i, j, seqlen_k, IS_CAUSAL: tl.constexpr):
    """True where query row i may see key j: `Spec.visible`, and the key exists."""
    if IS_CAUSAL:
        return (j <= i) & (j < seqlen_k)
    else:
        return (i >= 0) & (j < seqlen_k)


@triton.jit
def keys_of_rows(start_m, seqlen_k, IS_CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(full_end, end): every row of the tile sees the keys before full_end; up to end, the diagonal or the ragged edge needs a mask."""
    full_end = seqlen_k // BLOCK_N * BLOCK_N
    end = seqlen_k
    if IS_CAUSAL:
        full_end = tl.minimum(full_end, (start_m + 1) // BLOCK_N * BLOCK_N)
        end = tl.minimum(end, start_m + BLOCK_M)
    return full_end, end


@triton.jit
def rows_of_keys(start_n, seqlen_q, IS_CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(begin, full_begin, full_end): the diagonal, whole tiles of rows that see every key of the tile, and from full_end a ragged edge."""
    begin, full_begin = 0, 0
    if IS_CAUSAL:
        begin = start_n // BLOCK_M * BLOCK_M
        full_begin = tl.minimum(tl.cdiv(start_n + BLOCK_N - 1, BLOCK_M), tl.cdiv(seqlen_q, BLOCK_M)) * BLOCK_M
    full_end = tl.maximum(seqlen_q // BLOCK_M * BLOCK_M, full_begin)
    return begin, full_begin, full_end


@triton.jit
def online_softmax_step(scores, m, l, acc):
    """Fold one tile of base-2 scores into the running softmax (Dao 2023, Algorithm 1, lines 9-10)."""
    m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
    pivot = tl.where(m_new == -float("inf"), 0.0, m_new)  # a row that has seen no key yet
    p = tl.exp2(scores - pivot[:, None])  # [BLOCK_M, BLOCK_N]
    rescale = tl.exp2(m - pivot)  # [BLOCK_M]
    return p, m_new, l * rescale + tl.sum(p, axis=1), acc * rescale[:, None]


@triton.jit
def load_lse(lse, start, seqlen, ROWS: tl.constexpr):
    """Logsumexp of some rows: [ROWS]. Rows past the end, and rows that saw no key, get +inf: exp(s − inf) = 0."""
    rows = start + tl.arange(0, ROWS)
    row_lse = tl.load(lse + rows, mask=rows < seqlen, other=float("inf"))
    return tl.where(row_lse == -float("inf"), float("inf"), row_lse)
