"""Helpers that the kernels share. A tile is a block of rows that fits in SRAM.

A tensor travels as a `View` with its own strides (batch, head, row, column). A field that is None costs nothing: it is never compiled.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


class View(NamedTuple):
    """A tensor: where it begins, and its strides."""

    pointer: Any
    strides: Any


class Described(NamedTuple):
    """One head of a tensor that is known by its descriptor: Hopper's copy engine brings a whole tile, and knows where the tensor ends."""

    descriptor: Any
    batch: Any
    head: Any


class Shape(NamedTuple):
    """Sizes that kernels need; lengths are of the padded or packed tensors."""

    heads: Any
    seqlen_q: Any
    seqlen_k: Any


class Packing(NamedTuple):
    """Where packed sequences begin: cumulative lengths, and how many sequences there are."""

    starts_q: Any
    starts_k: Any
    sequences: Any


def view(x):
    """A tensor as the kernels take it; None stays None."""
    return None if x is None else View(x, x.stride())


def broadcast_view(x):
    """A tensor that broadcasts: stride 0 where one element stands for all. None stays None."""
    if x is None:
        return None
    return View(x, tuple(stride if size > 1 else 0 for size, stride in zip(x.shape, x.stride(), strict=True)))


@triton.jit
def head_of(tensor, batch, head, first):
    """One head of one batch element, from row `first` on. In 64 bits: a tensor may have more than 2³¹ elements."""
    batch, head, first = tl.cast(batch, tl.int64), tl.cast(head, tl.int64), tl.cast(first, tl.int64)
    return View(tensor.pointer + batch * tensor.strides[0] + head * tensor.strides[1] + first * tensor.strides[2], tensor.strides)


@triton.jit
def walked_head(tensor, batch, head, first, DESCRIBED: tl.constexpr):
    """One head of a tensor whose tiles are walked over: of a descriptor when DESCRIBED, otherwise as `head_of`."""
    if DESCRIBED:
        return Described(tensor, batch, head)
    else:
        return head_of(tensor, batch, head, first)


@triton.jit
def tile_pointers(head, start, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    rows = tl.arange(0, ROWS)
    cols = tl.arange(0, BLOCK_D)
    first = head.pointer + tl.cast(start, tl.int64) * head.strides[2]
    return first + rows[:, None] * head.strides[2] + cols[None, :] * head.strides[3]  # [ROWS, BLOCK_D]


@triton.jit
def load_tile(
    head, start, seqlen, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, RAGGED: tl.constexpr,
    DESCRIBED: tl.constexpr = False,
):  # fmt: skip
    """Rows start, start + 1, … of a head. Columns past HEAD_DIM, and (when RAGGED) rows past seqlen, are 0."""
    if DESCRIBED:
        return head.descriptor.load([head.batch, head.head, start, 0]).reshape(ROWS, BLOCK_D)
    else:
        pointers = tile_pointers(head, start, ROWS, BLOCK_D)
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
def store_tile(head, start, seqlen, tile, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store a tile's rows below seqlen and columns below HEAD_DIM, in the tensor's dtype."""
    in_rows = (start + tl.arange(0, ROWS) < seqlen)[:, None]
    in_cols = (tl.arange(0, BLOCK_D) < HEAD_DIM)[None, :]
    tl.store(tile_pointers(head, start, ROWS, BLOCK_D), tile.to(head.pointer.dtype.element_ty), mask=in_rows & in_cols)


@triton.jit
def load_row(head, start, seqlen, other, ROWS: tl.constexpr, RAGGED: tl.constexpr):
    """One number for each row of a tile: [ROWS]. Rows past the end get `other`."""
    rows = start + tl.arange(0, ROWS)
    if RAGGED:
        return tl.load(head.pointer + rows * head.strides[2], mask=rows < seqlen, other=other)
    else:
        return tl.load(head.pointer + rows * head.strides[2])


@triton.jit
def store_row(head, start, seqlen, row, ROWS: tl.constexpr):
    rows = start + tl.arange(0, ROWS)
    tl.store(head.pointer + rows * head.strides[2], row, mask=rows < seqlen)


@triton.jit
def load_lse(head, start, seqlen, ROWS: tl.constexpr, RAGGED: tl.constexpr, MAY_SEE_NONE: tl.constexpr):
    """Logsumexp of some rows in base 2: [ROWS]. Rows past the end, and rows that saw no key, get +inf: exp2(s − inf) = 0."""
    lse = load_row(head, start, seqlen, float("inf"), ROWS, RAGGED)
    if MAY_SEE_NONE:
        return tl.where(lse == -float("inf"), float("inf"), lse * LOG2_E)
    else:
        return lse * LOG2_E


@triton.jit
def online_softmax_step(scores, m, l, acc):
    """Fold one tile of base-2 scores into the running softmax (Dao 2023, Algorithm 1, lines 9-10)."""
    m_new = tl.maximum(m, tl.max(scores, axis=1))  # [BLOCK_M]
    pivot = tl.where(m_new == -float("inf"), 0.0, m_new)  # a row that has seen no key yet
    p = tl.exp2(scores - pivot[:, None])  # [BLOCK_M, BLOCK_N]
    rescale = tl.exp2(m - pivot)  # [BLOCK_M]
    return p, m_new, l * rescale + tl.sum(p, axis=1), acc * rescale[:, None]
